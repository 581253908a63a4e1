from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import pytest
from typer.testing import CliRunner

from agent.cli import look
from agent.cli.client import RefusedError, UnreachableError
from agent.cli.main import app
from agent.report import (
    AdvertisedRoute,
    AvailableRoute,
    ConditionReport,
    FamilyCounts,
    InstalledRoute,
    NetworkReport,
    PeerReport,
    RouteExplanation,
    StatusReport,
    TunnelReport,
)
from tests.agent.doctor.patients import STATUS as HEALTHY

Run: TypeAlias = Callable[..., tuple[int, str]]

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
STATUS = msgspec.structs.replace(
    HEALTHY,
    version="0.1.0",
    ready=False,
    local_asn=65001,
    pod_cidrs=["10.42.0.0/24"],
    sessions_established=0,
    sessions_configured=2,
    sessions_pending=1,
    routes_installed=1,
    kernel_writes=3,
    prefixes_known=0,
    restarting=True,
    waiting_for=["172.16.1.1"],
    speaker_restarts=1,
    uptime_seconds=5.0,
    policy=msgspec.structs.replace(
        HEALTHY.policy,
        in_kernel=False,
        error="the kernel refused it",
        policies=3,
        pods=2,
        unlinked=1,
        chains=4,
        sets=5,
    ),
    conditions=[ConditionReport("Ready", "False", "NoSession", "none")],
    problems=["BGPPeer x: spec.peerASN: 0 is not an AS number"],
)
ANSWERS: dict[str, Any] = {
    "peers": [PEER],
    "routes/available": [PATH],
    "routes/advertised": [TOLD],
    "routes/installed": [ROUTE],
    "routes/explain": RouteExplanation("10.42.1.0/24", [PATH], ROUTE, [], ""),
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def answer(_socket: Path, what: str, _type: object, **_query: str) -> Any:
        if isinstance(found := ANSWERS[what], Exception):
            raise found
        return found

    monkeypatch.setattr(look, "ask", answer)

    def invoke(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, list(words))
        return result.exit_code, result.output

    return invoke


def test_peers_are_a_table_with_what_was_refused(run: Run) -> None:
    status, text = run("peers")
    assert status == 0
    heading, row = text.splitlines()[:2]
    assert heading.split()[:2] == ["Node", "Local"]
    assert row.split()[:6] == ["n1", "65001", "65100", "172.16.1.1", "Established", "3h12m"]
    assert "1 refused (tortie routes available), 2 beyond the maximum" in row


def test_a_session_that_is_down_says_why_and_ends_with_status_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ANSWERS, "peers", [DOWN])
    status, text = run("peers")
    assert status == 1
    assert "hold timer expired; 3 routes kept" in text


@pytest.mark.parametrize(
    "words", [("peers",), ("routes", "available"), ("routes", "advertised"), ("routes", "installed")]
)
def test_json_is_what_the_agent_said(run: Run, words: tuple[str, ...]) -> None:
    status, text = run(*words, "-o", "json")
    assert status == 0
    (row,) = json.loads(text)
    assert "peer" in row or "via" in row


def test_asns_are_spelled_as_in_manifests(run: Run) -> None:
    (row,) = json.loads(run("peers", "-o", "json")[1])
    assert (row["localASN"], row["peerASN"], row["routerID"]) == (65001, 65100, "172.16.1.1")


def test_an_explanation_ends_with_the_kernel_and_who_is_told(run: Run) -> None:
    status, text = run("routes", "explain", "10.42.1.0/24")
    assert status == 0
    assert "10.42.1.0/24, 1 path, 1 used" in text
    assert "kernel: 172.16.1.1 eth0; in kernel, since 1m01s" in text
    assert "announced to: nobody" in text


def test_no_agent_ends_with_status_2_and_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ANSWERS, "peers", UnreachableError("no agent at /run/tortie/agent.sock"))
    status, text = run("peers")
    assert (status, text) == (2, "tortie: no agent at /run/tortie/agent.sock\n")


def test_an_unready_node_ends_with_status_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ANSWERS, "status", STATUS)
    status, text = run("status")
    assert status == 1
    assert "n1: not ready, AS 65001, router id 172.16.1.11, up 5s" in text
    assert "Ready=False  NoSession: none" in text
    assert "problem    BGPPeer x: spec.peerASN: 0 is not an AS number" in text


GOOD = msgspec.structs.replace(
    STATUS,
    ready=True,
    sessions_established=2,
    sessions_pending=0,
    routes_installed=8,
    prefixes_known=9,
    restarting=False,
    waiting_for=[],
    speaker_restarts=0,
    policy=msgspec.structs.replace(STATUS.policy, wanted=False),
    conditions=[ConditionReport("Ready", "True", "InSync", "2 sessions established")],
    problems=[],
)


def lines_of(report: StatusReport, run: Run, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return what `tortie status` says of a node, by the first word of each line."""
    monkeypatch.setitem(ANSWERS, "status", report)
    status, text = run("status")
    assert status == (0 if report.ready else 1)
    heading, *rest = text.splitlines()
    return {"": heading} | {line.split()[0]: line.strip() for line in rest}


def squeezed(line: str) -> str:
    """Return a line of a table without its columns' widths."""
    return " ".join(line.split())


def test_a_node_that_is_well_says_what_it_carries_and_no_more(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    said = lines_of(GOOD, run, monkeypatch)
    assert said[""] == "n1: ready, AS 65001, router id 172.16.1.11, up 5s"
    assert said["sessions"] == "sessions   2 of 2 established"
    assert said["routes"] == "routes     8 in the kernel; 9 prefixes known"
    assert said["pod"] == "pod CIDRs  10.42.0.0/24"
    assert not said.keys() & {"policy", "restart", "speaker", "problem", "Ready=True"}


def test_whatever_is_on_its_way_is_counted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    report = msgspec.structs.replace(
        GOOD, local_asn=None, pod_cidrs=[], sessions_pending=1, routes_pending=3, routes_refused=2
    )
    said = lines_of(report, run, monkeypatch)
    assert said[""] == "n1: ready, no BGP identity yet, up 5s"
    assert said["sessions"] == "sessions   2 of 2 established, 1 to be changed"
    assert said["routes"] == "routes     8 in the kernel, 3 pending, 2 refused; 9 prefixes known"
    assert said["pod"] == "pod CIDRs  none"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"in_kernel": True, "unlinked": 0, "error": ""}, "in the kernel"),
        ({"in_kernel": True, "error": ""}, "no link leads to 1 addresses; in the kernel"),
        ({"unlinked": 0}, "NOT in the kernel: the kernel refused it"),
    ],
)
def test_policy_is_told_where_any_is_wanted(
    run: Run, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    policy = msgspec.structs.replace(STATUS.policy, **changes)
    told = lines_of(msgspec.structs.replace(GOOD, policy=policy), run, monkeypatch)
    assert told["policy"] == f"policy     2 pods, 3 policies, 4 chains, 5 sets; {said}"


@pytest.mark.parametrize(
    ("waiting_for", "said"), [(["172.16.1.1", "fd16::1"], "172.16.1.1, fd16::1"), ([], "the objects")]
)
def test_a_restart_says_who_is_waited_for(
    run: Run, monkeypatch: pytest.MonkeyPatch, waiting_for: list[str], said: str
) -> None:
    report = msgspec.structs.replace(GOOD, restarting=True, waiting_for=waiting_for)
    told = lines_of(report, run, monkeypatch)
    assert told["restart"] == f"restart    routes of before are left untouched until these are heard: {said}"


@pytest.mark.parametrize(
    ("running", "restarts", "said"),
    [(True, 2, "speaker    running, restarted 2 times"), (False, 0, "speaker    not running, restarted 0 times")],
)
def test_a_speaker_that_had_to_be_restarted_or_is_not_there_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch, *, running: bool, restarts: int, said: str
) -> None:
    report = msgspec.structs.replace(GOOD, speaker_running=running, speaker_restarts=restarts)
    assert lines_of(report, run, monkeypatch)["speaker"] == said


def test_conditions_that_want_attention_are_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    drained = ConditionReport("Drained", "True", "Command", "cable work")
    unready = ConditionReport("Ready", "Unknown", "NotSynced", "reading")
    said = lines_of(msgspec.structs.replace(GOOD, conditions=[drained, unready]), run, monkeypatch)
    assert said["Drained=True"] == "Drained=True  Command: cable work"
    assert said["Ready=Unknown"] == "Ready=Unknown  NotSynced: reading"


WORDS = "[fd00::1]:179 [/run/tortie] [red]cable[/] :cat: {x} spec.rules[0]"


def test_what_others_wrote_is_printed_to_the_letter(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = msgspec.structs.replace(STATUS.policy, error=WORDS)
    condition = ConditionReport("Draining", "True", "Command", WORDS)
    report = msgspec.structs.replace(GOOD, policy=policy, conditions=[condition], problems=[WORDS])
    said = lines_of(report, run, monkeypatch)
    assert [line for line in said.values() if line.endswith(WORDS)] == [
        said[key] for key in ("policy", "Draining=True", "problem")
    ]
    monkeypatch.setitem(ANSWERS, "peers", [msgspec.structs.replace(DOWN, reason=WORDS, families=[])])
    assert run("peers")[1].splitlines()[1].endswith(WORDS)


@pytest.mark.parametrize("report", [GOOD, STATUS], ids=["ready", "not ready"])
def test_the_status_is_json_too_with_the_same_exit_status(
    run: Run, monkeypatch: pytest.MonkeyPatch, report: StatusReport
) -> None:
    monkeypatch.setitem(ANSWERS, "status", report)
    status, text = run("status", "-o", "json")
    assert status == (0 if report.ready else 1)
    assert msgspec.json.decode(text, type=StatusReport) == report


def test_a_session_of_two_families_is_told_once_and_each_family_counted(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    families = [FamilyCounts("IPv4", 5, 4, 0, 0, 0, 1), FamilyCounts("IPv6", 7, 6, 0, 3, 0, 2)]
    monkeypatch.setitem(ANSWERS, "peers", [msgspec.structs.replace(PEER, families=families)])
    status, text = run("peers")
    _, first, second = text.splitlines()
    assert status == 0
    assert first.split()[-4:] == ["IPv4", "5", "4", "1"]
    assert second.split() == ["IPv6", "7", "6", "2", "3", "stale"]


@pytest.mark.parametrize("output", ["table", "json"])
def test_one_session_that_is_down_among_others_is_enough_for_status_1(
    run: Run, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.setitem(ANSWERS, "peers", [PEER, DOWN, PEER])
    assert run("peers", "-o", output)[0] == 1
    monkeypatch.setitem(ANSWERS, "peers", [])
    assert run("peers", "-o", output)[0] == 0


def test_a_session_that_is_down_and_kept_no_routes_says_only_why(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    families = [msgspec.structs.replace(DOWN.families[0], stale=0)]
    monkeypatch.setitem(ANSWERS, "peers", [msgspec.structs.replace(DOWN, families=families)])
    row = run("peers")[1].splitlines()[1]
    assert row.split() == ["n1", "65001", "65100", "172.16.1.1", "Active", "-", "hold", "timer", "expired"]


def test_paths_are_told_with_what_became_of_them(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = msgspec.structs.replace(PATH, used=False, stale=True, med=50, as_path=[65100], note="refused: too long")
    monkeypatch.setitem(ANSWERS, "routes/available", [PATH, refused])
    _, used, unused = run("routes", "available")[1].splitlines()
    assert squeezed(used) == "* 10.42.1.0/24 172.16.1.1 172.16.1.1 65100 65002 100 best: only path"
    assert squeezed(unused) == "10.42.1.0/24 172.16.1.1 172.16.1.1 65100 100 50 refused: too long (stale)"


def test_what_is_announced_is_told_with_its_communities(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    told = msgspec.structs.replace(TOLD, as_path=[65001, 65001], communities=["65000:100", "graceful-shutdown"])
    monkeypatch.setitem(ANSWERS, "routes/advertised", [told])
    row = run("routes", "advertised")[1].splitlines()[1]
    assert squeezed(row) == "10.42.0.0/24 172.16.1.1 172.16.1.11 65001 65001 65000:100 graceful-shutdown"


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("in kernel", 0),
        ("shadowed by static (metric 100)", 0),
        ("pending", 1),
        ("refused: Network is down", 1),
    ],
)
@pytest.mark.parametrize("output", ["table", "json"])
def test_a_route_that_is_not_there_is_status_1(
    run: Run, monkeypatch: pytest.MonkeyPatch, state: str, status: int, output: str
) -> None:
    other = msgspec.structs.replace(ROUTE, state=state, via=["172.16.1.1 eth0", "fe80::1 eth1"], age_seconds=None)
    monkeypatch.setitem(ANSWERS, "routes/installed", [ROUTE, other])
    found, text = run("routes", "installed", "-o", output)
    assert found == status
    if output == "table":
        expected = f"10.42.1.0/24 172.16.1.1 eth0, fe80::1 eth1 - eBGP 65100 65002 {state}"
        assert squeezed(text.splitlines()[2]) == expected


@pytest.mark.parametrize(
    ("paths", "route", "status"),
    [([PATH], None, 0), ([], ROUTE, 0), ([], None, 1), ([msgspec.structs.replace(PATH, used=False)], None, 1)],
    ids=["a path", "our own", "unknown", "refused"],
)
def test_a_prefix_that_goes_nowhere_is_status_1(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    paths: list[AvailableRoute],
    route: InstalledRoute | None,
    status: int,
) -> None:
    answer = RouteExplanation("10.42.1.0/24", paths, route, ["172.16.1.1", "mesh/n2"], "covered by 10.42.0.0/16")
    monkeypatch.setitem(ANSWERS, "routes/explain", answer)
    found, text = run("routes", "explain", "10.42.1.0/24", "-o", "json")
    assert (found, msgspec.json.decode(text, type=RouteExplanation)) == (status, answer)
    found, text = run("routes", "explain", "10.42.1.0/24")
    assert found == status
    used = sum(path.used for path in paths)
    counted = "1 path" if len(paths) == 1 else f"{len(paths)} paths"
    assert f"10.42.1.0/24, {counted}, {used} used: covered by 10.42.0.0/16" in text
    assert ("kernel: " in text) is (route is not None)
    assert text.endswith("announced to: 172.16.1.1, mesh/n2\n")


def test_the_prefix_that_is_asked_about_goes_to_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def ask(*words: object, **query: str) -> RouteExplanation:
        asked.append((*words, query))
        return RouteExplanation("", [], ROUTE, [], "")

    monkeypatch.setattr(look, "ask", ask)
    CliRunner().invoke(app, ["routes", "explain", "fd42::/64", "--socket", "/run/other.sock"])
    assert asked == [(Path("/run/other.sock"), "routes/explain", RouteExplanation, {"prefix": "fd42::/64"})]


def test_a_question_that_is_refused_is_the_agents_words_and_status_2(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ANSWERS, "routes/explain", RefusedError("'10.42.1.1/24' has host bits set"))
    assert run("routes", "explain", "10.42.1.1/24") == (2, "tortie: '10.42.1.1/24' has host bits set\n")


@pytest.mark.parametrize(
    ("words", "headings"),
    [
        (
            ("peers",),
            "Node Local AS Peer AS Peer Address Session State Uptime Family Received Accepted Advertised Note",
        ),
        (("routes", "available"), "Prefix Peer Next Hop AS Path Pref MED Note"),
        (("routes", "advertised"), "Prefix Peer Next Hop AS Path Communities"),
        (("routes", "installed"), "Prefix Via Age Origin State"),
    ],
)
def test_columns_are_named_as_people_of_the_field_name_them(run: Run, words: tuple[str, ...], headings: str) -> None:
    assert squeezed(run(*words)[1].splitlines()[0]) == headings


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (NetworkReport(), "the MTU of pods is not known yet; no outgoing NAT"),
        (
            NetworkReport(mtu=1500, uplinks={"eth0": 1500, "eth1": 9000}),
            "pods' MTU 1500 (eth0 1500, eth1 9000); no outgoing NAT",
        ),
        (
            NetworkReport(
                mtu=1450, uplinks={"eth0": 1500}, tunnel_overhead=50, nat_sources=["10.42.0.0/24", "fd42::/64"]
            ),
            "pods' MTU 1450 (eth0 1500 less 50 for the tunnel); outgoing NAT for 10.42.0.0/24, fd42::/64",
        ),
    ],
)
def test_the_network_line_says_how_large_packets_are_and_who_is_translated(
    run: Run, monkeypatch: pytest.MonkeyPatch, network: NetworkReport, said: str
) -> None:
    told = lines_of(msgspec.structs.replace(GOOD, network=network), run, monkeypatch)
    assert told["network"] == f"network    {said}"


@pytest.mark.parametrize(
    ("tunnels", "said"),
    [
        (
            TunnelReport(devices=["tortie-vxlan"], destinations=3, overhead={"IPv4": 50, "IPv6": 0}),
            "3 destinations through tortie-vxlan; bytes more at most: IPv4 50",
        ),
        (
            TunnelReport(devices=["tortie-ipip", "tortie-ip6tnl"], destinations=1, overhead={}, repaired=2),
            "1 destinations through tortie-ipip, tortie-ip6tnl; bytes more at most: 0; repaired 2 times",
        ),
    ],
)
def test_tunnels_are_told_where_there_are_any(
    run: Run, monkeypatch: pytest.MonkeyPatch, tunnels: TunnelReport, said: str
) -> None:
    assert "tunnels" not in lines_of(GOOD, run, monkeypatch)
    told = lines_of(msgspec.structs.replace(GOOD, tunnels=tunnels), run, monkeypatch)
    assert told["tunnels"] == f"tunnels    {said}"


def test_a_node_in_a_line_says_what_is_wrong_and_of_one_that_is_well_what_is_worth_knowing() -> None:
    said = look._summarize(STATUS)
    assert (said.ready, said.local_asn, said.sessions_configured) == (False, 65001, 2)
    assert said.note == "NoSession: none; BGPPeer x: spec.peerASN: 0 is not an AS number"
    drained = ConditionReport("Draining", "True", "Command", "cable work")
    well = look._summarize(msgspec.structs.replace(GOOD, conditions=[*GOOD.conditions, drained]))
    assert (well.ready, well.note) == (True, "Command: cable work")
