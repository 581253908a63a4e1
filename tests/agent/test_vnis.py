"""VNIs that an agent remembers over restarts."""

from __future__ import annotations

from pathlib import Path

from agent.vnis import RememberedVnis


def test_what_was_written_last_is_read_by_the_next(tmp_path: Path) -> None:
    file = tmp_path / "vnis.json"
    vnis = RememberedVnis(file)
    assert vnis.read() == frozenset()
    vnis.write(frozenset())
    assert not file.exists(), "clusters without tunnels have no such file"
    for written in ({4096}, {4096, 77}, {77}, set[int]()):
        vnis.write(frozenset(written))
        assert RememberedVnis(file).read() == written


def test_a_file_that_is_not_ours_is_as_good_as_none(tmp_path: Path) -> None:
    file = tmp_path / "vnis.json"
    file.write_text('{"a": 1}')
    assert RememberedVnis(file).read() == frozenset()


def test_where_nothing_can_be_written_all_goes_on(tmp_path: Path) -> None:
    RememberedVnis(tmp_path / "no" / "vnis.json").write(frozenset({77}))
    RememberedVnis().write(frozenset({77}))
    assert RememberedVnis().read() == frozenset()
