"""The nodes of a cluster as its API server tells them. With a real server: tests/kubernetes/test_fleet.py."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from agent.fleet import FleetError, Located, NodeUnreachableError, Outcome, kubernetes
from agent.fleet.kubernetes import AGENT_CONTAINER, AGENT_LABELS, KubernetesFleet
from agent.kubernetes.client import Request
from agent.kubernetes.errors import Refused, Unreachable
from agent.kubernetes.exec import Ended
from tests.agent.kubernetes.apiserver import FakeClient


def pod(name: str, node: str, phase: str = "Running", addresses: Sequence[str] = ()) -> dict[str, Any]:
    status = {"phase": phase, "podIPs": [{"ip": each} for each in addresses]}
    return {"metadata": {"name": name, "namespace": "shop"}, "spec": {"nodeName": node}, "status": status}


def node(number: int) -> dict[str, Any]:
    addresses = [{"address": each} for each in (f"192.168.0.{number}", f"fd00::{number}", f"n{number}")]
    return {
        "metadata": {"name": f"n{number}"},
        "spec": {"podCIDRs": [f"10.42.{number}.0/24", f"fd42:0:0:{number}::/64"]},
        "status": {"addresses": addresses},
    }


class Cluster:
    """Nodes n1, n2, n3 and what pods there are."""

    def __init__(self, *agents: dict[str, Any]) -> None:
        self.agents = list(agents)
        self.found: list[dict[str, Any]] = []  # by a field selector
        self.statuses: list[dict[str, Any]] = []
        self.wanted: int | None = None  # nodes that are to have an agent; None: nobody says
        self.client = FakeClient(self._answer)
        self.fleet = KubernetesFleet(self.client)

    def _answer(self, request: Request) -> dict[str, Any]:
        match str(request.resource):
            case "nodes":
                return {"items": [node(number) for number in (3, 1, 2)]}
            case "pods" if request.query.get("labelSelector") == AGENT_LABELS:
                return {"items": self.agents}
            case "pods":
                return {"items": self.found}
            case "daemonsets.apps":
                return {"items": [{"status": {"desiredNumberScheduled": self.wanted}}] if self.wanted else []}
            case _:
                return {"items": self.statuses}


async def test_nodes_are_told_in_order_with_why_they_cannot_be_asked() -> None:
    cluster = Cluster(pod("a1", "n1"), pod("a2", "n2", "Pending"))
    assert await cluster.fleet.nodes() == {
        "n1": "",
        "n2": "its agent's pod a2 is Pending",
        "n3": "no agent pod is there in namespace tortie-system",
    }


async def test_a_node_that_is_to_have_no_agent_is_none_of_ours() -> None:
    cluster = Cluster(pod("a1", "n1"), pod("a2", "n2", "Pending"))
    cluster.wanted = 2
    assert await cluster.fleet.nodes() == {"n1": "", "n2": "its agent's pod a2 is Pending"}
    cluster = Cluster(pod("a1", "n1"), pod("a2", ""))
    cluster.wanted = 2
    assert list(await cluster.fleet.nodes()) == ["n1", "n2", "n3"], "somewhere an agent is missing"


async def test_whoever_may_not_look_at_daemonsets_is_told_of_all_nodes() -> None:
    cluster = Cluster(pod("a1", "n1"), pod("a2", "n2"))
    answer = cluster.client.answer

    def refuse(request: Request) -> dict[str, Any]:
        if request.resource.plural == "daemonsets":
            raise Refused(403, "Forbidden", "daemonsets.apps is forbidden")
        return dict(answer(request))

    assert list(await KubernetesFleet(FakeClient(refuse)).nodes()) == ["n1", "n2", "n3"]


@pytest.mark.parametrize("order", [1, -1])
async def test_while_an_agent_is_replaced_the_one_that_runs_is_asked(order: int) -> None:
    cluster = Cluster(*[pod("old", "n1", "Failed"), pod("new", "n1")][::order])
    assert (await cluster.fleet.nodes())["n1"] == ""


async def test_a_long_list_is_read_page_by_page() -> None:
    def answer(request: Request) -> dict[str, Any]:
        if str(request.resource) == "pods":
            return {"items": []}
        if "continue" not in request.query:
            return {"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "n1"}}]}
        assert request.query["continue"] == "more"
        return {"metadata": {}, "items": [{"metadata": {"name": "n2"}}]}

    assert list(await KubernetesFleet(FakeClient(answer)).nodes()) == ["n1", "n2"]


WEB = Located("Pod", "shop/web", "n2", ("10.42.2.9", "fd42:0:0:2::9"))


@pytest.mark.parametrize(
    ("end", "namespace", "field"),
    [
        ("shop/web", "shop", "metadata.name=web"),
        ("web", "", "metadata.name=web"),
        ("10.42.2.9", "", "spec.nodeName=n2"),
        ("fd42:0:0:2::9", "", "spec.nodeName=n2"),
        ("[fd42:0:0:2::9]", "", "spec.nodeName=n2"),
        ("ip:10.42.2.9", "", "spec.nodeName=n2"),
    ],
)
async def test_a_pod_is_looked_for_by_what_it_was_called(end: str, namespace: str, field: str) -> None:
    cluster = Cluster()
    cluster.found = [pod("web", "n2", addresses=WEB.addresses)]
    assert await cluster.fleet.locate(end) == [WEB]
    asked = cluster.client.asked[-1]
    assert (asked.namespace, asked.query["fieldSelector"]) == (namespace, field)


async def test_a_pod_with_an_address_of_no_node_s_range_is_looked_for_by_it() -> None:
    cluster = Cluster()
    cluster.found = [pod("web", "n2", addresses=["10.99.0.9"])]
    assert [each.node for each in await cluster.fleet.locate("10.99.0.9")] == ["n2"]
    assert cluster.client.asked[-1].query["fieldSelector"] == "status.podIP=10.99.0.9"


async def test_an_address_of_a_node_s_range_that_no_pod_has_is_still_of_that_node() -> None:
    assert await Cluster().fleet.locate("10.42.2.77") == [Located("", "", "n2", ("10.42.2.77",))]


@pytest.mark.parametrize("end", ["node:n2", "n2", "192.168.0.2", "fd00::2"])
async def test_a_node_is_found_by_its_name_and_addresses(end: str) -> None:
    assert await Cluster().fleet.locate(end) == [Located("Node", "n2", "n2")]


@pytest.mark.parametrize("end", ["node:n9", "shop/web", "a,b=c", "Shop/web", "192.0.2.1", "", "/", "a/b/c"])
async def test_who_is_not_there_is_nobody(end: str) -> None:
    assert await Cluster().fleet.locate(end) == []


async def test_all_pods_of_a_name_are_told_and_those_that_have_ended_only_where_there_are_no_others() -> None:
    cluster = Cluster()
    done = pod("web", "n1", "Succeeded", addresses=["10.42.1.8"])
    cluster.found = [pod("web", "n1", addresses=["10.42.1.9"]), pod("web", "n2", addresses=["10.42.2.9"]), done]
    assert [each.node for each in await cluster.fleet.locate("web")] == ["n1", "n2"]
    cluster.found = [done]
    assert [each.trouble for each in await cluster.fleet.locate("web")] == [
        "pod shop/web has completed: it sends and receives nothing"
    ]


async def test_a_pod_without_an_address_is_no_end_yet() -> None:
    cluster = Cluster()
    cluster.found = [pod("web", "", "Pending")]
    (found,) = await cluster.fleet.locate("shop/web")
    assert found.trouble == "pod shop/web has no address yet: it is Pending"


async def test_a_status_of_another_version_is_left_out() -> None:
    cluster = Cluster()
    cluster.statuses = [
        {"metadata": {"name": "n1"}, "status": {"localASN": 64512}},
        {"metadata": {"name": "n2"}, "status": {"sessions": "many"}},
    ]
    recorded = await cluster.fleet.recorded()
    assert [each.status.name for each in recorded or ()] == ["n1"]


async def test_how_old_a_status_is_is_told_by_the_server_s_clock() -> None:
    cluster = Cluster()
    cluster.client.clock = datetime(2026, 11, 21, 12, 6, tzinfo=UTC).timestamp()  # whatever ours says
    times = {"n1": "2026-11-21T12:05:00Z", "n2": "2026-11-21T12:00:00Z"}
    cluster.statuses = [
        {"metadata": {"name": name}, "status": {"lastHeartbeatTime": time}} for name, time in times.items()
    ]
    cluster.statuses.append({"metadata": {"name": "n3"}, "status": {}})
    recorded = await cluster.fleet.recorded() or ()
    assert [(each.age_s, bool(each.staleness)) for each in recorded] == [(60, False), (360, True), (None, False)]


async def test_a_command_is_run_in_the_agents_container(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_in_pod(_client: object, *words: object) -> Ended:
        assert words == ("tortie-system", "a1", AGENT_CONTAINER, ["tortie", "status"])
        return Ended(1, b"out", b"not \xff well\n")

    monkeypatch.setattr(kubernetes, "run_in_pod", run_in_pod)
    outcome = await Cluster(pod("a1", "n1")).fleet.run("n1", ["status"])
    assert outcome == Outcome(1, b"out", "not \N{REPLACEMENT CHARACTER} well")


@pytest.mark.parametrize("error", [Unreachable("timed out"), Refused(404, "", "pod a1 is gone")])
async def test_a_node_that_cannot_be_asked_says_why(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    async def run_in_pod(*_: object) -> Ended:
        raise error

    monkeypatch.setattr(kubernetes, "run_in_pod", run_in_pod)
    cluster = Cluster(pod("a1", "n1"))
    with pytest.raises(NodeUnreachableError, match=str(error)):
        await cluster.fleet.run("n1", ["status"])
    with pytest.raises(NodeUnreachableError, match="no agent pod is there"):
        await cluster.fleet.run("n2", ["status"])
    with pytest.raises(NodeUnreachableError, match="there is no such Node; there is n1, n2, n3"):
        await cluster.fleet.run("n9", ["status"])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Unreachable("connection refused"), "API server https://api: list pods: connection refused"),
        (Refused(403, "Forbidden", "not yours"), "API server https://api: list pods: 403 Forbidden: not yours"),
    ],
)
async def test_a_cluster_that_cannot_be_asked_says_what_and_why(error: Exception, reason: str) -> None:
    def fail(_request: Request) -> Any:
        raise error

    with pytest.raises(FleetError, match=reason):
        await KubernetesFleet(FakeClient(fail)).nodes()
