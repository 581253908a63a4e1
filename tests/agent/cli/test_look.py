from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from agent.cli import look
from agent.cli.client import UnreachableError
from agent.cli.main import app
from agent.report import (
    AdvertisedRoute,
    AvailableRoute,
    ConditionReport,
    Explanation,
    FamilyCounts,
    InstalledRoute,
    PeerReport,
    PolicyReport,
    StatusReport,
)

PEER = PeerReport(
    node="n1",
    peer="172.16.1.1",
    origin="BGPPeer/tor-1",
    local_asn=65001,
    peer_asn=65100,
    state="Established",
    since="2026-11-21T12:00:00Z",
    uptime_seconds=11520.0,
    reason="",
    last_error="",
    flaps=0,
    router_id="172.16.1.1",
    families=[FamilyCounts("IPv4", received=5, accepted=4, refused=1, stale=0, discarded=2, announced=1)],
)
DOWN = msgspec.structs.replace(
    PEER,
    state="Active",
    uptime_seconds=None,
    reason="hold timer expired",
    families=[FamilyCounts("IPv4", received=3, accepted=3, refused=0, stale=3, discarded=0, announced=0)],
)
PATH = AvailableRoute(
    prefix="10.42.1.0/24",
    peer="172.16.1.1",
    origin="BGPPeer/tor-1",
    next_hop="172.16.1.1",
    as_path=[65100, 65002],
    local_preference=100,
    med=None,
    communities=[],
    used=True,
    stale=False,
    note="best: only path",
)
TOLD = AdvertisedRoute("10.42.0.0/24", "172.16.1.1", "BGPPeer/tor-1", "172.16.1.11", [65001], None, None, ["65000:100"])
ROUTE = InstalledRoute("10.42.1.0/24", ["172.16.1.1 eth0"], "eBGP 65100 65002", "in kernel", 61.0)
STATUS = StatusReport(
    node="n1",
    version="0.1.0",
    ready=False,
    local_asn=65001,
    router_id="172.16.1.11",
    pod_cidrs=["10.42.0.0/24"],
    sessions_established=0,
    sessions_configured=2,
    sessions_pending=1,
    routes_installed=1,
    routes_pending=0,
    routes_refused=0,
    kernel_writes=3,
    kernel_refusals=0,
    routes_repaired=0,
    prefixes_known=0,
    restarting=True,
    waiting_for=["172.16.1.1"],
    speaker_running=True,
    speaker_restarts=1,
    uptime_seconds=5.0,
    policy=PolicyReport(
        wanted=True,
        in_kernel=False,
        error="the kernel refused it",
        policies=3,
        pods=2,
        unlinked=1,
        chains=4,
        sets=5,
        repaired=0,
        connections_cut=0,
    ),
    conditions=[ConditionReport("Ready", "False", "NoSession", "none")],
    problems=["BGPPeer x: spec.peerASN: 0 is not an AS number"],
)
ANSWERS: dict[str, Any] = {
    "peers": [PEER],
    "routes/available": [PATH],
    "routes/advertised": [TOLD],
    "routes/installed": [ROUTE],
    "routes/explain": Explanation("10.42.1.0/24", [PATH], ROUTE, [], ""),
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    def answer(_socket: Path, what: str, _type: object, **_query: str) -> Any:
        if isinstance(found := ANSWERS[what], Exception):
            raise found
        return found

    monkeypatch.setattr(look, "ask", answer)

    def invoke(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, list(words))
        return result.exit_code, result.output

    return invoke


def test_peers_are_a_table_with_what_was_refused(run: Callable[..., tuple[int, str]]) -> None:
    status, text = run("peers")
    assert status == 0
    heading, row = text.splitlines()[:2]
    assert heading.split()[:2] == ["Node", "Local"]
    assert row.split()[:6] == ["n1", "65001", "65100", "172.16.1.1", "Established", "3h12m"]
    assert "1 refused (tortie routes available), 2 beyond the maximum" in row


def test_a_session_that_is_down_says_why_and_ends_with_status_1(
    run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ANSWERS, "peers", [DOWN])
    status, text = run("peers")
    assert status == 1
    assert "hold timer expired; 3 routes kept" in text


@pytest.mark.parametrize(
    "words", [("peers",), ("routes", "available"), ("routes", "advertised"), ("routes", "installed")]
)
def test_json_is_what_the_agent_said(run: Callable[..., tuple[int, str]], words: tuple[str, ...]) -> None:
    status, text = run(*words, "-o", "json")
    assert status == 0
    (row,) = json.loads(text)
    assert "peer" in row or "via" in row


def test_asns_are_spelled_as_in_manifests(run: Callable[..., tuple[int, str]]) -> None:
    (row,) = json.loads(run("peers", "-o", "json")[1])
    assert (row["localASN"], row["peerASN"], row["routerID"]) == (65001, 65100, "172.16.1.1")


def test_an_explanation_ends_with_the_kernel_and_who_is_told(run: Callable[..., tuple[int, str]]) -> None:
    status, text = run("routes", "explain", "10.42.1.0/24")
    assert status == 0
    assert "10.42.1.0/24, 1 paths, 1 used" in text
    assert "kernel: 172.16.1.1 eth0; in kernel, since 1m01s" in text
    assert "announced to: nobody" in text


def test_no_agent_ends_with_status_2_and_one_line(
    run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ANSWERS, "peers", UnreachableError("no agent at /run/tortie/agent.sock"))
    status, text = run("peers")
    assert (status, text) == (2, "tortie: no agent at /run/tortie/agent.sock\n")


def test_an_unready_node_ends_with_status_1(
    run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ANSWERS, "status", STATUS)
    status, text = run("status")
    assert status == 1
    assert "n1: not ready, AS 65001, router id 172.16.1.11, up 5s" in text
    assert "Ready=False  NoSession: none" in text
    assert "problem    BGPPeer x: spec.peerASN: 0 is not an AS number" in text
