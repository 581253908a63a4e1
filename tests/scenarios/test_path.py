"""`tortie path` says what becomes of packets, and packets do become that: agents, kernels and routers are real."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import msgspec
import pytest

from agent.lab.lab import Lab
from agent.lab.namespaces import CommandError
from agent.lab.traffic import traffic
from agent.lab.wait import eventually
from agent.pathreport import Journey
from inet.prefix import Family
from tests.lab import Apply
from tests.scenarios import nodes
from tests.scenarios.scenes import RACKS
from tests.scenarios.stage import on

pytestmark = [pytest.mark.interop, on(RACKS)]

DENY_P3: dict[str, Any] = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "closed", "namespace": "default"},
    "spec": {"podSelector": {"matchLabels": {"app": "p3"}}, "policyTypes": ["Ingress"]},
}


async def journey(net: Lab, family: Family, *words: str, node: str = "n1") -> Journey:
    """What `tortie path` says on a node, of one family."""
    text = await nodes.tortie(net, node, "path", *words, "--family", family.label.lower(), "-o", "json")
    try:
        return msgspec.json.decode(text, type=Journey)
    except msgspec.DecodeError:
        raise AssertionError(text) from None


async def is_reached(net: Lab, family: Family, pod: str, other: str) -> bool:
    try:
        await net.run(pod, "ping", "-c1", "-W2", str(net.address(other, family)))
    except CommandError:
        return False
    return True


def facts(told: Journey, what: str) -> list[str]:
    return [fact.text for stage in told.stages for fact in stage.facts if fact.what == what]


async def test_the_way_between_racks_is_told_by_both_nodes(net: Lab, family: Family) -> None:
    told = await journey(net, family, "default/p1", "default/p3", "80/TCP")
    assert (told.verdict, told.reason, told.answers, told.mtu) == ("arrives", "", "", 1500)
    assert [facts.node for facts in told.nodes] == ["n1", "n3"]
    out = told.nodes[0]
    assert (out.route.owner, len(out.route.ways), out.route.taken) == ("tortie", 2, None)
    assert {way.peer.removesuffix("-ipv6") for way in out.route.ways} == {"BGPPeer/tor-1", "BGPPeer/tor-2"}
    assert {way.neighbour for way in out.route.ways} <= {"reachable", "stale", "delay", "probe"}
    assert out.source_link is not None
    assert (out.source_link.inner, out.source_link.inner_mtu) == ("eth0", 1500)
    assert told.stages[0].place == f"default/p1 eth0 ── {out.source_link.name} n1"
    assert told.stages[-1].place == "default/p3 eth0"
    assert await is_reached(net, family, "p1", "p3")


async def test_with_a_source_port_the_one_way_of_the_flow_is_told(net: Lab, family: Family) -> None:
    gateways = set()
    for port in range(40000, 40008):
        told = await journey(net, family, "default/p1", "default/p3", "80/TCP", "--source-port", str(port))
        route = told.nodes[0].route
        assert route.taken is not None
        gateways.add(route.ways[route.taken].gateway)
    assert len(gateways) == 2, "eight flows do not all take one way"


async def test_any_node_can_be_asked(net: Lab, family: Family) -> None:
    asked_here = await journey(net, family, "default/p1", "default/p3")
    asked_there = await journey(net, family, "default/p1", "default/p3", node="n2")
    assert asked_there.stages == asked_here.stages


async def test_a_policy_that_denies_is_where_it_ends(net: Lab, family: Family, apply: Apply) -> None:
    apply(net, "closed.yaml", DENY_P3)

    async def ends() -> bool:
        return (await journey(net, family, "default/p1", "default/p3", "80/TCP")).verdict == "dropped"

    await eventually(ends, within_s=30)
    told = await journey(net, family, "default/p1", "default/p3", "80/TCP")
    assert "NetworkPolicy default/closed" in told.reason
    assert told.stages[-2].node == "n3"
    # What policies say is told before it is in n3's kernel.
    await eventually(partial(is_reached, net, family, "p1", "p3"), lambda reached: not reached)
    back = await journey(net, family, "default/p3", "default/p1", "80/TCP")
    assert back.verdict == "arrives"


async def test_a_route_that_somebody_put_in_the_way_is_found(net: Lab, family: Family) -> None:
    prefix = f"{net.plan.nodes['n3'].pod_cidrs[0 if family is Family.IPV4 else 1]}"
    await net.run("n1", "ip", "route", "add", "blackhole", prefix, "metric", "5")
    try:
        told = await journey(net, family, "default/p1", "default/p3")
        assert (told.verdict, told.stages[0].node) == ("dropped", "n1")
        assert "blackhole" in told.reason
        assert not await is_reached(net, family, "p1", "p3")
    finally:
        await net.run("n1", "ip", "route", "del", "blackhole", prefix, "metric", "5")


async def test_answers_that_do_not_find_back_are_found(net: Lab, family: Family) -> None:
    prefix = f"{net.plan.nodes['n1'].pod_cidrs[0 if family is Family.IPV4 else 1]}"
    await net.run("n3", "ip", "route", "add", "unreachable", prefix, "metric", "5")
    try:
        told = await journey(net, family, "default/p1", "default/p3")
        assert told.verdict == "arrives"
        assert told.answers.startswith("n3: ")
        assert not await is_reached(net, family, "p1", "p3")
    finally:
        await net.run("n3", "ip", "route", "del", "unreachable", prefix, "metric", "5")


async def test_a_narrow_link_is_where_packets_do_not_fit(net: Lab, family: Family) -> None:
    """The agent gives pods the MTU of the way out before long: until then the note is there, and not after."""

    async def told(size: int) -> bool:
        found = await journey(net, family, "default/p1", "default/p3")
        link = found.nodes[0].source_link
        assert link is not None
        note = "packets of more than 1400 bytes do not fit through eth0 of n1; the pod sends up to 1500"
        assert (note in found.notes) == (found.mtu == 1400 and min(link.mtu, link.inner_mtu) == 1500)
        return found.mtu == size

    await net.run("n1", "ip", "link", "set", "eth0", "mtu", "1400")
    try:
        await eventually(partial(told, 1400), within_s=30)
    finally:
        await net.run("n1", "ip", "link", "set", "eth0", "mtu", "1500")
        await eventually(partial(told, 1500), within_s=30)


async def test_a_node_whose_agent_is_gone_leaves_the_verdict_open(net: Lab, family: Family) -> None:
    await net.kill("n3")
    try:
        told = await journey(net, family, "default/p1", "default/p3")
        assert told.verdict == "unknown"
        assert told.reason.startswith("n3 was not asked: ")
    finally:
        await net.start("n3")


async def test_every_node_answers_at_once(net: Lab) -> None:
    answers = json.loads(await nodes.tortie(net, "n1", "status", "--all-nodes", "-o", "json"))
    assert [(each["node"], each["status"], each["answer"]["ready"]) for each in answers] == [
        (name, 0, True) for name in ("n1", "n2", "n3")
    ]
    routes = json.loads(await nodes.tortie(net, "n2", "routes", "installed", "--all-nodes", "-o", "json"))
    assert all(len(each["answer"]) == 6 for each in routes)
    assert "n3: ready" in await nodes.tortie(net, "n1", "status", "--node", "n3")


async def test_the_pod_that_sends_most_is_on_top(net: Lab) -> None:
    async with traffic(net, "p1", "p3", families=[Family.IPV4]):
        rates = json.loads(await nodes.tortie(net, "n1", "top", "--interval", "1", "-o", "json"))
    (rate,) = rates
    assert rate["pod"] == "default/p1"
    assert rate["sentPackets"] > 10
    assert rate["receivedPackets"] > 10
