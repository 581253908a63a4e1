"""How answers look: tables for people, JSON for machines, and one way to end with an exit status."""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # most commands do without what objects are made of
    from agent.objects.problem import Problem

OK, FOUND, FAILED = 0, 1, 2


class Format(enum.StrEnum):
    """How to print."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Format, typer.Option("-o", "--output", help="table for people, json for machines.")]
SocketOption = Annotated[
    Path | None,
    typer.Option(
        "--socket", envvar="TORTIE_SOCKET", help="Socket of the agent to ask.", show_default="/run/tortie/agent.sock"
    ),
]


def console() -> Console:
    """Return where tables go: colour on a terminal alone, no wrapping where nobody looks, texts to the letter."""
    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 240)


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, right: Sequence[str] = ()) -> None:
    """Print rows under headings; `right` names the columns of numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        table.add_column(
            column, justify="right" if column in right else "left", no_wrap=column != "Note", overflow="fold"
        )
    for row in rows:
        table.add_row(*row)
    console().print(table)


def fail(reason: str) -> NoReturn:
    """End with the status that says: could not look."""
    sys.stderr.write(f"tortie: {reason}\n")
    raise typer.Exit(FAILED)


def words_of(error: Exception) -> str:
    """Return what a person should read of an error: of a file its name and what is wrong with it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def end_with(problems: Sequence[Problem], output: Format) -> NoReturn:
    """Print what is wrong with manifests, a line each, and end with the status that says whether anything is."""
    if output is Format.JSON:
        print_json([problem.to_json() for problem in problems])
    else:
        for problem in problems:
            typer.echo(str(problem))
        typer.echo("1 problem" if len(problems) == 1 else f"{len(problems) or 'no'} problems")
    raise typer.Exit(FOUND if problems else OK)


def duration(seconds: float | None) -> str:
    """Return 3h12m, 4m05s, 12s; a dash for None."""
    if seconds is None:
        return "-"
    total = int(seconds)
    days, hours, minutes = total // 86400, total // 3600 % 24, total // 60 % 60
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{total % 60:02}s" if minutes else f"{total}s"
