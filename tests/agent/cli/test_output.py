from __future__ import annotations

from pathlib import Path

import pytest

from agent.cli.output import duration, print_table, words_of


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0s"), (12.9, "12s"), (245, "4m05s"), (11520, "3h12m"), (93600, "1d02h")],
)
def test_durations_are_short(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_what_is_wrong_with_a_file_begins_with_its_name() -> None:
    with pytest.raises(OSError, match="nowhere") as error:
        Path("/nowhere").read_text(encoding="utf-8")
    assert words_of(error.value) == "/nowhere: No such file or directory"
    assert words_of(OSError("odd")) == words_of(ValueError("odd")) == "odd"


def test_a_table_nobody_looks_at_is_one_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["Prefix", "Note"], [["10.42.0.0/24", "x" * 150]])
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split() == ["Prefix", "Note"]
    assert row == "10.42.0.0/24  " + "x" * 150
