from __future__ import annotations

from pathlib import Path

from felix.conntracktable import Usage, usage

HEADINGS = (
    "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error"
)


def files(directory: Path, entries: str, limit: str, *drops: str) -> tuple[Path, Path, Path]:
    rows = [" ".join(["00000001", *["00000000"] * 9, each, "00000000", "00000000"]) for each in drops]
    paths = directory / "count", directory / "max", directory / "statistics"
    for path, content in zip(paths, (entries, limit, "\n".join([HEADINGS, *rows])), strict=True):
        path.write_text(content + "\n")
    return paths


def test_drops_of_all_processors_are_added_up(tmp_path: Path) -> None:
    assert usage(*files(tmp_path, "10", "100", "0000000a", "00000010")) == Usage(10, 100, 26)


def test_nine_tenths_are_nearly_all(tmp_path: Path) -> None:
    found = usage(*files(tmp_path, "90", "100"))
    assert found is not None
    assert not found.is_nearly_full
    assert found._replace(entries=91).is_nearly_full


def test_where_nothing_is_tracked_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert usage(tmp_path / "no", tmp_path / "no", tmp_path / "no") is None


def test_this_kernels_files_are_read_or_are_not_there() -> None:
    found = usage()
    assert found is None or (found.limit > 0 and found.entries >= 0)
