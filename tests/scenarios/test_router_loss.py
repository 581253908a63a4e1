"""Nodes behind two routers (BIRD, FRR), one of which is lost in every way there is, or restarted. Scenario B19."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

import pytest

from agent.lab.kernelroutes import kernel_routes
from agent.lab.lab import Lab
from agent.lab.traffic import route_events, traffic
from agent.lab.wait import eventually
from inet.prefix import Family
from tests.scenarios import nodes
from tests.scenarios.scenes import RACKS
from tests.scenarios.stage import Stage, on

pytestmark = [pytest.mark.interop, on(RACKS)]
either_router = pytest.mark.parametrize("router", ["tor-1", "tor-2"], ids=["bird", "frr"])

INTERFACES: Final = {"tor-1": "eth0", "tor-2": "eth1"}
"""Of every node, towards each router."""

PODS: Final = {node: [*RACKS.topology["nodes"][node]["podCIDRs"]] for node in RACKS.topology["nodes"]}


def other_than(router: str) -> str:
    """Return the other router."""
    return next(other for other in INTERFACES if other != router)


async def ways(lab: Lab) -> Mapping[tuple[str, str], frozenset[str]]:
    """Return by which interfaces each node reaches each prefix of pods on other nodes."""
    found = {}
    for node in PODS:
        foreign = {prefix for other, prefixes in PODS.items() if other != node for prefix in prefixes}
        routes = {route.prefix: route.interfaces for route in await kernel_routes(lab, node)}
        found |= {(node, prefix): routes.get(prefix, frozenset()) for prefix in foreign}
    return found


async def all_ways_are(lab: Lab, *interfaces: str) -> bool:
    """Whether every node reaches all foreign pods by just these interfaces."""
    return set((await ways(lab)).values()) == {frozenset(interfaces)}


async def kill_process(lab: Lab, router: str) -> None:
    """Kill the daemon. Its kernel goes on forwarding by the routes it has."""
    await lab.kill(router)


async def cut_links(lab: Lab, router: str) -> None:
    """Take the power: every node loses its carrier."""
    await lab.power_off(router)


async def fall_silent(lab: Lab, router: str) -> None:
    """Let nothing through any more, with every link up: only the hold timer tells."""
    for node in PODS:
        await lab.fail_link(node, router, silent=True)


LOSSES: Final[Mapping[str, Callable[[Lab, str], Awaitable[None]]]] = {
    "process-killed": kill_process,
    "links-down": cut_links,
    "silent": fall_silent,
}


@either_router
@pytest.mark.parametrize("loss", LOSSES)
async def test_when_a_router_is_lost_the_traffic_moves_to_the_other_one(
    net: Lab, stage: Stage, loss: str, router: str
) -> None:
    survivor = other_than(router)
    kept = {str(net.address(survivor, family)) for family in Family}
    if loss == "process-killed":
        await stage.without_graceful_restart(net)
    before = await nodes.peers(net, "n1")

    await LOSSES[loss](net, router)
    await eventually(partial(all_ways_are, net, INTERFACES[survivor]), within_s=60)
    async with traffic(net, "p1", "p3", flows=8) as streams, traffic(net, "p1", "p2", flows=8) as in_rack:
        await net.run("p1", "ping", "-c20", "-i0.02", "p3")
    assert not any(it.lost for it in (*streams.values(), *in_rack.values())), [*map(str, streams.values())]

    after = await eventually(
        partial(nodes.peers, net, "n1"),
        lambda now: all((it.state == "Established") == (it.peer in kept) for it in now.values()),
        within_s=60,
    )
    assert all(after[peer].reason for peer in after.keys() - kept)
    assert {it: after[it].since for it in kept} == {it: before[it].since for it in kept}
    assert (await nodes.status(net, "n1")).ready


@either_router
async def test_a_router_that_restarts_is_waited_for_with_no_route_touched(net: Lab, stage: Stage, router: str) -> None:
    async with (
        route_events(net, *PODS) as events,
        traffic(net, "p1", "p3", flows=8) as streams,
        traffic(net, "p2", "p1", flows=8) as in_rack,
    ):
        await net.restart(router)
        await stage.settled(net)
    both = (*streams.values(), *in_rack.values())
    assert not any(it.lost for it in both), [*map(str, both)]
    assert not any(it.lines for it in events.values()), [*map(str, events.values())]


@either_router
async def test_b19_two_equal_paths_are_one_route_with_both_next_hops_until_a_peer_goes(net: Lab, router: str) -> None:
    both = {str(net.address(name, family)) for name in INTERFACES for family in Family}
    for prefix in PODS["n3"]:
        family = Family.IPV6 if ":" in prefix else Family.IPV4
        paths = await nodes.available(net, "n1", prefix)
        assert [path.used for path in paths] == [True, True]
        assert {tuple(path.as_path) for path in paths} == {(65100, 65002)}
        (route,) = await kernel_routes(net, "n1", prefix)
        assert {way.gateway for way in route.ways} == {str(net.address(name, family)) for name in INTERFACES}
        assert {way.gateway for way in route.ways} <= both

    await net.disable(router, "n1")
    survivor = other_than(router)
    for prefix in PODS["n3"]:
        await eventually(
            partial(kernel_routes, net, "n1", prefix),
            lambda routes: [route.interfaces for route in routes] == [{INTERFACES[survivor]}],
        )
    await net.enable(router, "n1")
    for prefix in PODS["n3"]:
        await eventually(
            partial(kernel_routes, net, "n1", prefix),
            lambda routes: [route.interfaces for route in routes] == [set(INTERFACES.values())],
            within_s=30,
        )
