"""Files that are there whole or not at all."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from agent.cni.atomic import replace_file


def test_a_file_is_made_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "plugin"
    assert replace_file(path, b"new", mode=0o755)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o755)


def test_a_file_that_says_it_already_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "conflist"
    replace_file(path, b"same")

    def written() -> tuple[int, int, int]:  # when it was read last changes with a look
        found = path.stat()
        return found.st_ino, found.st_mtime_ns, found.st_ctime_ns

    before = written()
    assert not replace_file(path, b"same")
    assert written() == before


def test_who_has_the_file_open_keeps_reading_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "conflist"
    replace_file(path, b"before")
    with path.open("rb") as reader:
        assert replace_file(path, b"after")
        assert reader.read() == b"before"
    assert path.read_bytes() == b"after"


def test_a_failure_leaves_the_file_as_it_was_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "conflist"
    replace_file(path, b"before")

    def disk_is_full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"after")
    assert [each.name for each in tmp_path.iterdir()] == ["conflist"]
    assert path.read_bytes() == b"before"
