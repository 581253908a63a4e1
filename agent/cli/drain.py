"""tortie drain, undrain: take a node out of the way of traffic before maintenance, and put it back."""

from __future__ import annotations

from typing import Annotated

import typer

from agent.cli.client import RefusedError, UnreachableError, socket_path, tell
from agent.cli.everywhere import everywhere
from agent.cli.output import Format, OutputOption, SocketOption, fail, print_json
from agent.report import DrainReport


@everywhere()
def drain(
    wait_s: Annotated[
        float,
        typer.Option("--wait", metavar="SECONDS", min=0, max=86400, help="Between last choice and withdrawn."),
    ] = 60,
    reason: Annotated[str, typer.Option("--reason", help="Shown in status.")] = "",
    output: OutputOption = Format.TABLE,
    socket: SocketOption = None,
) -> None:
    """Have traffic leave this node: announce everything as the last choice, wait, withdraw.

    First everything is announced with the community GRACEFUL_SHUTDOWN (RFC 8326) and, inside the AS, local preference
    0: whoever has another way takes it, and no packet is lost. When the wait is over everything is withdrawn; sessions
    stay up. Pods that still run here are then reached by nobody outside: evict them first (kubectl drain). An agent
    that restarts goes on where it was; a reboot or `tortie undrain` ends it. The taint tortie.dev/drain=SECONDS on
    the Node does the same and outlives a reboot.

    Example: tortie drain --wait 30 --reason "new kernel"
    """
    try:
        _show(tell(socket_path(socket), "drain", DrainReport, waitSeconds=wait_s, reason=reason), output)
    except (UnreachableError, RefusedError) as error:
        fail(str(error))


@everywhere()
def undrain(output: OutputOption = Format.TABLE, socket: SocketOption = None) -> None:
    """Take `tortie drain` back: announce as ever.

    Exit status 2 if the node is not drained, or stays so by its taint. Example: tortie undrain
    """
    try:
        _show(tell(socket_path(socket), "undrain", DrainReport), output)
    except (UnreachableError, RefusedError) as error:
        fail(str(error))


def _show(report: DrainReport, output: Format) -> None:
    if output is Format.JSON:
        print_json(report)
    elif report.state == "Draining":
        typer.echo(f"draining: the last choice of all peers now, withdrawn at {report.withdraw_at}")
    elif report.state:
        typer.echo("drained: withdrawn")
    else:
        typer.echo("in service: announced as ever")
