"""tortie doctor: what may be wrong with a node, and what to do about it."""

from __future__ import annotations

import asyncio
import socket as sockets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.text import Text

from agent.cli.client import socket_path
from agent.cli.everywhere import Survey, everywhere
from agent.cli.output import Format, OutputOption, SocketOption, console, print_json
from agent.doctor import Finding, Level
from agent.namespace import OWN_NAMESPACE

_COLOURS: Final = {
    Level.OK: "green",
    Level.WARN: "yellow",
    Level.FAIL: "red",
    Level.UNKNOWN: "cyan",
    Level.OUTSIDE: "dim",
}


def _show(findings: Sequence[Finding]) -> None:
    out = console()
    for finding in dict.fromkeys(msgspec.structs.replace(each, check="") for each in findings):
        line = Text.assemble((f"{finding.level.value:<5}", _COLOURS[finding.level]), " ", finding.text)
        if finding.advice and finding.level is not Level.OK:
            line.append(f"\n      {finding.advice}", "dim")
        out.print(line, soft_wrap=True)


def _show_all(answers: Sequence[tuple[str, list[Finding]]]) -> None:
    """Of several nodes only what is not well; what is the same on some is said once."""
    nodes: dict[Finding, list[str]] = {}
    for node, findings in answers:
        for finding in findings:
            if finding.level is not Level.OK:
                nodes.setdefault(finding, []).append(node)
    out = console()
    for finding, where in nodes.items():
        out.print(Text(f"{', '.join(where)}:", "bold"), soft_wrap=True)
        _show([finding])
    well = [node for node, findings in answers if {each.level for each in findings} <= {Level.OK, Level.OUTSIDE}]
    if well:
        out.print(Text.assemble(("ok   ", "green"), f" nothing is wrong with {', '.join(well)}"), soft_wrap=True)


def _with_staleness(findings: list[Finding], staleness: str) -> list[Finding]:
    """Add what only the API server knows of a node: that its agent reports no more."""
    advice = (
        f"kubectl -n {OWN_NAMESPACE} logs of its agent: whether it can write to the API server, and whether it hangs"
    )
    return [*findings, Finding("reports", Level.FAIL, staleness, advice)]


@everywhere(Survey(list[Finding], _show_all, with_staleness=_with_staleness))
def doctor(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="Directory of manifests: nodes without asking the agent.", exists=True, file_okay=False
        ),
    ] = None,
    this_node: Annotated[
        str, typer.Option("--node-name", envvar="NODE_NAME", help="This node's name, for --config.")
    ] = "",
    root: Annotated[
        Path, typer.Option("--root", help="Where the host's files are, if not here.", exists=True, file_okay=False)
    ] = Path("/"),
    output: OutputOption = Format.TABLE,
    socket: SocketOption = None,
) -> None:
    """Look for what may be wrong with this node, and say what to do.

    Kernel features and settings, tables that fill up, MTU, pod CIDRs and addresses of all nodes, duplicates, other
    network plugins, firewalls and daemons, and what the agent complains about. Nothing is changed. It works without
    an agent, and without root as far as that goes; what could not be looked at is said.

    Exit status 1 if something is wrong, 2 if nothing is but something could not be looked at. What only the host can
    show, and an agent's pod cannot, is marked - and counts for neither.

    Example: tortie doctor --all-nodes
    """
    from agent.doctor.examination import examine, present, verdict

    async def look() -> list[Finding]:
        return await examine(await present(socket_path(socket), config, this_node or sockets.gethostname(), root))

    findings = asyncio.run(look())
    if output is Format.JSON:
        print_json(findings)
    else:
        _show(findings)
    raise typer.Exit(verdict(findings))
