"""tortie drops: packets that were dropped to or from pods, as they are dropped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
import typer

from agent.cli.client import RefusedError, UnreachableError, ask, follow, socket_path
from agent.cli.everywhere import Survey, everywhere
from agent.cli.output import Format, OutputOption, SocketOption, fail, print_json
from agent.report import DropReport
from policy.nftskeleton import NO_POLICYS_DOING


def _show_all(answers: Sequence[tuple[str, list[DropReport]]]) -> None:
    _print(sorted((each for _, reports in answers for each in reports), key=lambda it: it.time), Format.TABLE)


@everywhere(Survey(list[DropReport], _show_all), here_only={"is_followed": "-f"})
def drops(
    is_followed: Annotated[bool, typer.Option("-f", "--follow", help="Go on with those to come, until ^C.")] = False,
    output: OutputOption = Format.TABLE,
    socket: SocketOption = None,
) -> None:
    """Show packets that were dropped on this node: who wanted what from whom, and which rule said no.

    Spoofed sources, pods whose policy is not in the kernel yet and addresses that no pod has are told as such. The
    kernel reports at most 50 a second of each direction or reason. With -f and -o json: one object a line.

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
                NO_POLICYS_DOING.get(report.reason),
                f"on {report.interface}" if report.reason in NO_POLICYS_DOING and report.interface else "",
                report.policy,
                report.rule,
                f"×{report.count}" if report.count > 1 else "",  # noqa: RUF001 - the sign for times
            ),
        )
    )
