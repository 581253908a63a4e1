from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.lab.speakers import DaemonError, SessionView
from agent.lab.speakers.agent import agent_sessions, read_session
from agent.report import FamilyCounts, PeerReport
from inet.prefix import Family


def report(state: str, reason: str = "") -> PeerReport:
    counts = FamilyCounts("IPv6", received=4, accepted=3, refused=1, stale=0, discarded=0, announced=1)
    return PeerReport(
        node="n1",
        peer="fd16:1::1",
        origin="BGPPeer/tor-1",
        local_asn=65001,
        peer_asn=65100,
        state=state,
        since="2026-01-01T00:00:00Z",
        uptime_seconds=None,
        reason=reason,
        last_error="",
        flaps=0,
        router_id="",
        families=[counts],
    )


def test_a_session_is_read_like_that_of_a_router() -> None:
    peer = ip_address("fd16:1::1")
    assert read_session(report("Established")) == SessionView(
        peer, "Established", 65100, {Family.IPV6: 4}, {Family.IPV6: 1}, ""
    )
    assert read_session(report("Active", "hold timer expired")) == SessionView(
        peer, "Active", 65100, {}, {}, "hold timer expired"
    )


def test_an_agent_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DaemonError, match="no agent at"):
        agent_sessions(tmp_path / "agent.sock")
