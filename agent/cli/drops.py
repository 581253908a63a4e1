"""tortie drops: packets that policy dropped, as they are dropped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
import typer

from agent.cli.client import RefusedError, UnreachableError, ask, follow, socket_path
from agent.cli.output import Format, OutputOption, SocketOption, fail, print_json
from agent.report import DropReport


def drops(
    is_followed: Annotated[bool, typer.Option("-f", "--follow", help="Go on with those to come, until ^C.")] = False,
    output: OutputOption = Format.TABLE,
    socket: SocketOption = None,
) -> None:
    """Show packets that policy dropped on this node: who wanted what from whom, and which rule said no.

    The kernel reports at most 50 a second of each direction. With -f and -o json: one object a line.

    Example: tortie drops -f
    """
    path = socket_path(socket)
    try:
        if is_followed:
            _print(follow(path, "drops/follow", DropReport), output)
        elif output is Format.JSON:
            print_json(ask(path, "drops", list[DropReport]))
        else:
            _print(ask(path, "drops", list[DropReport]), output)
    except (UnreachableError, RefusedError) as error:
        fail(str(error))


def _print(reports: Iterable[DropReport], output: Format) -> None:
    for report in reports:
        typer.echo(msgspec.json.encode(report) if output is Format.JSON else line(report))


def line(report: DropReport) -> str:
    """Return a report as a person reads it."""
    port = f":{report.port}" if report.port is not None else ""
    what = f"{report.source} → {report.destination}{port} {report.protocol}"
    return "  ".join(
        filter(
            None,
            (
                report.time[11:19],
                report.node,
                what,
                report.direction,
                report.policy,
                report.rule,
                f"×{report.count}" if report.count > 1 else "",  # noqa: RUF001 - the sign for times
            ),
        )
    )
