"""The agent, asked over its socket in the words that routers are asked in."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

from agent.cli.client import RefusedError, UnreachableError, ask
from agent.lab.speakers import DaemonError, SessionView
from agent.report import PeerReport
from inet.prefix import Family, IPAddress


def agent_sessions(socket: Path) -> Mapping[IPAddress, SessionView]:
    """Return a node's sessions by peer address. Blocks; raises DaemonError where no agent answers."""
    try:
        reports = ask(socket, "peers", list[PeerReport])
    except (UnreachableError, RefusedError) as error:
        raise DaemonError(str(error)) from None
    views = (read_session(report) for report in reports)
    return {view.peer: view for view in views}


def read_session(report: PeerReport) -> SessionView:
    """Return a peer of `tortie peers -o json` as a session."""
    counts = {family: it for it in report.families for family in Family if family.label == it.family}
    is_established = report.state == "Established"
    return SessionView(
        peer=ip_address(report.peer),
        state=report.state,
        peer_asn=report.peer_asn,
        received={family: it.received for family, it in counts.items() if is_established},
        sent={family: it.announced for family, it in counts.items() if is_established},
        last_error=report.reason or report.last_error,
    )
