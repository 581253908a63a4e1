from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from agent.cli import everywhere
from agent.cli.main import app
from agent.doctor import Finding, Level
from agent.fleet import FleetError, Outcome, Record
from agent.fleet.fake import FakeFleet
from agent.objects.kinds import KINDS
from agent.objects.node_routing_status import STALE_S, NodeRoutingStatus
from agent.report import InstalledRoute, PeerReport
from tests.agent.cli.test_look import DOWN, PEER

World = Callable[..., tuple[Callable[..., tuple[int, str]], FakeFleet]]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """`tortie` with a cluster of nodes that answer as given."""

    def build(answers: Mapping[str, Outcome | str], **more: Any) -> tuple[Callable[..., tuple[int, str]], FakeFleet]:
        fleet = FakeFleet(answers, **more)

        async def open_fleet(_: object) -> FakeFleet:
            return fleet

        monkeypatch.setattr(everywhere, "open_fleet", open_fleet)

        def run(*words: str) -> tuple[int, str]:
            result = CliRunner().invoke(app, words, env={"COLUMNS": "300"})
            return result.exit_code, result.output

        return run, fleet

    return build


def said(value: Any, status: int = 0) -> Outcome:
    return Outcome(status, msgspec.json.encode(value))


def of(node: str, report: PeerReport = PEER) -> list[PeerReport]:
    return [msgspec.structs.replace(report, node=node)]


def record(
    node: str, state: str = "Established", ready: str = "True", age_s: float = 30.0, accepted: str = "True"
) -> Record:
    document = {
        "metadata": {"name": node},
        "status": {
            "localASN": 65001,
            "sessions": [
                {
                    "peer": "172.16.1.1",
                    "object": "BGPPeer/tor-1",
                    "peerASN": 65100,
                    "state": state,
                    "since": datetime(2026, 11, 21, tzinfo=UTC).isoformat().replace("+00:00", "Z"),
                    "families": [{"family": "IPv4", "received": 4, "accepted": 3, "refused": 1, "announced": 2}],
                    "lastError": "" if state == "Established" else "hold timer expired",
                }
            ],
            "routes": {"installed": 8, "refused": 0},
            "drain": {"state": "Draining"},
            "conditions": [
                {"type": "Ready", "status": ready, "reason": "InSync", "message": "all is well"},
                {
                    "type": "ObjectsAccepted",
                    "status": accepted,
                    "reason": "AllInForce" if accepted == "True" else "NotAsWritten",
                    "message": "" if accepted == "True" else "BGPPeer tor-1: no",
                },
            ],
        },
    }
    decoded = KINDS["NodeRoutingStatus"].decode(document)
    assert isinstance(decoded, NodeRoutingStatus)
    return Record(decoded, age_s)


def test_another_node_is_asked_in_the_same_words_and_its_answer_is_ours(world: World) -> None:
    run, fleet = world({"n2": Outcome(1, "a table, \u00e9\n".encode(), "tortie: a warning")})
    status, text = run("routes", "explain", "10.42.1.0/24", "--node", "n2")
    assert status == 1
    assert text == "a table, \u00e9\ntortie: a warning\n"
    assert fleet.asked == [("n2", ("routes", "explain", "-o", "table", "--", "10.42.1.0/24"))]
    assert fleet.is_closed


def test_what_was_given_goes_along_and_where_does_not(world: World) -> None:
    run, fleet = world({"n2": Outcome(0, b"[]")})
    run("drain", "--wait", "5", "--reason", "-x", "--node", "n2", "-o", "json", "--lab", "two-racks")
    assert fleet.asked == [("n2", ("drain", "--wait", "5.0", "--reason", "-x", "-o", "json"))]


def test_a_node_that_cannot_be_reached_is_one_line_and_status_2(world: World) -> None:
    run, _ = world({"n2": "no agent pod is there"})
    assert run("status", "--node", "n2") == (2, "tortie: n2: no agent pod is there\n")


def test_all_nodes_are_one_table(world: World) -> None:
    run, fleet = world({"n2": said(of("n2")), "n1": said(of("n1", DOWN), 1)})
    status, text = run("peers", "--all-nodes")
    assert status == 1
    assert [line.split()[0] for line in text.splitlines()] == ["Node", "n1", "n2"]
    assert fleet.asked[0] == ("n1", ("peers", "-o", "json"))


def test_all_nodes_as_json_are_a_list_of_answers(world: World) -> None:
    run, _ = world({"n1": said(of("n1")), "n2": "no agent pod is there", "n3": Outcome(2, b"", "tortie: no agent")})
    status, text = run("peers", "-A", "-o", "json")
    assert status == 2
    first, second, third = json.loads(text)
    assert (first["node"], first["status"], first["answer"][0]["peer"]) == ("n1", 0, "172.16.1.1")
    assert second == {"node": "n2", "status": 2, "answer": None, "error": "no agent pod is there"}
    assert third == {"node": "n3", "status": 2, "answer": None, "error": "no agent"}


def test_nodes_that_could_not_be_asked_are_named_below_the_table(world: World) -> None:
    run, fleet = world({"n1": said(of("n1")), "n2": "no agent pod is there"})
    status, text = run("peers", "--all-nodes")
    assert status == 2
    assert text.splitlines()[-1] == "tortie: n2: no agent pod is there"
    assert [node for node, _ in fleet.asked] == ["n1"]


def test_what_nodes_refuse_alike_is_one_line(world: World) -> None:
    refused = Outcome(2, b"", "tortie: 'x' is not an IPv4 or IPv6 address")
    run, _ = world({"n1": refused, "n2": "it is gone", "n3": refused})
    status, text = run("routes", "explain", "x", "--all-nodes")
    assert status == 2
    assert text.splitlines() == ["tortie: n1, n3: 'x' is not an IPv4 or IPv6 address", "tortie: n2: it is gone"]


def test_rows_without_a_node_get_one(world: World) -> None:
    row = InstalledRoute("10.42.1.0/24", ["172.16.1.1 eth0"], "eBGP 65100", "in kernel", 5.0)
    run, _ = world({"n1": said([row]), "n2": said([])})
    status, text = run("routes", "installed", "--all-nodes")
    assert status == 0
    assert text.splitlines()[0].split()[:2] == ["Node", "Prefix"]
    assert text.splitlines()[1].split()[:2] == ["n1", "10.42.1.0/24"]


def test_what_nodes_wrote_down_is_read_and_nobody_is_asked(world: World) -> None:
    run, fleet = world(
        {"n1": Outcome(0, b""), "n2": Outcome(0, b""), "n3": "no agent pod is there", "n4": Outcome(0, b"")},
        recorded=[record("n1"), record("n2", "Active", "False"), record("n3")],
    )
    status, text = run("status", "--all-nodes", "-o", "json")
    assert status == 2
    answers = {each["node"]: each for each in json.loads(text)}
    assert answers["n1"]["answer"] == {
        "node": "n1",
        "ready": True,
        "localASN": 65001,
        "sessionsEstablished": 1,
        "sessionsConfigured": 1,
        "routesInstalled": 8,
        "routesRefused": 0,
        "drain": "Draining",
        "note": "",
    }
    assert (answers["n2"]["status"], answers["n2"]["answer"]["note"]) == (1, "InSync: all is well")
    assert answers["n3"]["error"] == "no agent pod is there", "what it wrote is of old"
    assert answers["n4"]["error"] == "its agent has written nothing down yet"
    assert fleet.asked == []


def test_what_is_noted_of_a_node_is_what_is_not_as_it_should_be(world: World) -> None:
    records = [record("n1"), record("n2", accepted="False"), record("n3", "Active", "False", accepted="False")]
    run, _ = world({each.status.name: Outcome(0, b"") for each in records}, recorded=records)
    _, text = run("status", "--all-nodes", "-o", "json")
    notes = {each["node"]: each["answer"]["note"] for each in json.loads(text)}
    assert notes == {"n1": "", "n2": "NotAsWritten: BGPPeer tor-1: no", "n3": "InSync: all is well"}


def test_what_a_node_wrote_down_long_ago_is_not_shown_as_if_it_were_so(world: World) -> None:
    answers = {"n1": Outcome(0, b""), "n2": Outcome(0, b"")}
    run, _ = world(answers, recorded=[record("n1", age_s=STALE_S - 1), record("n2", age_s=720)])
    for command in ("status", "peers"):
        status, text = run(command, "--all-nodes")
        assert status == 2
        assert "tortie: n2: STALE: its agent last wrote NodeRoutingStatus 12 minutes ago" in text
        assert [line.split()[0] for line in text.splitlines()[:2]] == ["Node", "n1"]


def test_doctor_says_of_a_node_that_answers_that_it_reports_no_more(world: World) -> None:
    well = said([Finding("links", Level.OK, "all links are up")])
    run, _ = world({"n1": well, "n2": well}, recorded=[record("n1"), record("n2", age_s=720)])
    status, text = run("doctor", "--all-nodes")
    assert status == 1
    assert "n2:\nFAIL  STALE: its agent last wrote NodeRoutingStatus 12 minutes ago" in text
    assert "nothing is wrong with n1" in text


def test_sessions_are_read_from_what_nodes_wrote_down(world: World) -> None:
    run, fleet = world({"n1": Outcome(0, b""), "n2": Outcome(0, b"")}, recorded=[record("n1"), record("n2", "Active")])
    status, text = run("peers", "-A")
    assert status == 1
    rows = [line.split() for line in text.splitlines()]
    assert rows[1][:5] == ["n1", "65001", "65100", "172.16.1.1", "Established"]
    assert rows[1][6:10] == ["IPv4", "4", "3", "2"]
    assert rows[2][-3:] == ["hold", "timer", "expired"]
    assert fleet.asked == []


def test_an_answer_of_another_version_is_said(world: World) -> None:
    run, _ = world({"n1": Outcome(0, b'[{"peer": 5}]')})
    status, text = run("peers", "-A")
    assert status == 2
    assert "it answers what is not understood here" in text


def test_a_cluster_that_cannot_be_asked_at_all_is_one_line(world: World) -> None:
    run, fleet = world({})
    fleet.error = "the cluster at https://10.0.0.1 does not answer: connection refused"
    assert run("status", "-A") == (2, f"tortie: {fleet.error}\n")
    assert fleet.is_closed


def test_one_node_and_all_of_them_is_a_contradiction(world: World) -> None:
    run, _ = world({})
    assert run("peers", "-A", "--node", "n1") == (2, "tortie: --node and --all-nodes: one of them\n")


def test_what_goes_on_for_ever_is_of_the_node_here(world: World) -> None:
    run, fleet = world({"n1": said([])})
    assert run("drops", "-f", "--node", "n1") == (2, "tortie: -f is of the node here, not with --node or --all-nodes\n")
    assert run("drops", "--node", "n1")[0] == 0
    assert fleet.asked == [("n1", ("drops", "-o", "table"))]


async def test_without_any_cluster_it_is_said_what_was_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr("agent.fleet.lab.default_root", lambda: tmp_path)
    where = everywhere.Where("n1")
    with pytest.raises(FleetError, match=r"no --kubeconfig, no .*/\.kube/config, and no lab is up"):
        await everywhere.open_fleet(where)
    monkeypatch.setenv("KUBECONFIG", "/nowhere/config")
    with pytest.raises(FleetError, match=r"no --kubeconfig, no /nowhere/config, and no lab is up"):
        await everywhere.open_fleet(where)


async def test_in_a_pod_the_cluster_is_asked_with_the_pods_rights_but_not_in_an_agents(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", "")
    monkeypatch.setattr("agent.fleet.lab.default_root", lambda: tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("TORTIE_SOCKET", str(tmp_path / "agent.sock"))
    where = everywhere.Where(all_nodes=True)
    fleet = await everywhere.open_fleet(where)
    assert fleet.name == "API server by the pod's service account"
    await fleet.close()
    (tmp_path / "agent.sock").touch()
    with pytest.raises(FleetError, match=r"an agent may not ask other nodes.*run tortie where you have a kubeconfig"):
        await everywhere.open_fleet(where)


def test_agents_are_looked_for_in_the_namespace_that_is_given(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[everywhere.Where] = []
    run, fleet = world({"n1": said([])})

    async def open_fleet(where: everywhere.Where) -> FakeFleet:
        opened.append(where)
        return fleet

    monkeypatch.setattr(everywhere, "open_fleet", open_fleet)
    run("peers", "--node", "n1")
    run("peers", "--node", "n1", "--namespace", "net")
    monkeypatch.setenv("TORTIE_NAMESPACE", "kube-system")
    run("peers", "--node", "n1")
    assert [each.namespace for each in opened] == ["tortie-system", "net", "kube-system"]
    assert fleet.asked == 3 * [("n1", ("peers", "-o", "table"))], "it is no option of the command there"
