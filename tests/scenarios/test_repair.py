"""Hands and cables in a node's routes: ours are put back within a second, those of others are left alone."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

import pytest

from agent.lab.kernelroutes import KernelRoute, kernel_routes
from agent.lab.lab import Lab
from agent.lab.wait import eventually
from inet.prefix import Family
from tests.scenarios import nodes
from tests.scenarios.scenes import RACKS
from tests.scenarios.stage import Stage, on

pytestmark = [pytest.mark.interop, on(RACKS)]

ATTEMPTS: Final = 3
"""Of which the best counts: the machine may be busy with something else."""

FAR: Final = dict(zip(Family, RACKS.topology["nodes"]["n3"]["podCIDRs"], strict=True))


def option(family: Family) -> str:
    """Return what `ip` calls a family."""
    return "-4" if family is Family.IPV4 else "-6"


async def seconds_until(lab: Lab, expected: frozenset[KernelRoute]) -> float:
    """Wait until our routes are these; return how long it took."""
    began = time.monotonic()
    await eventually(partial(nodes.own_routes, lab, "n1"), expected.__eq__, every_s=0.01)
    return time.monotonic() - began


async def delete_route(lab: Lab, family: Family) -> None:
    """Delete one route."""
    await lab.run("n1", "ip", option(family), "route", "del", FAR[family], "proto", "97")


async def delete_group(lab: Lab, family: Family) -> None:
    """Delete the nexthop group of a route, and with it every route behind it."""
    (route,) = json.loads(await lab.run("n1", "ip", "-j", option(family), "route", "show", FAR[family]))
    await lab.run("n1", "ip", "nexthop", "del", "id", str(route["nhid"]))


async def delete_hop(lab: Lab, family: Family) -> None:
    """Delete one next hop, and with it its place in every group."""
    hops = json.loads(await lab.run("n1", "ip", "-j", "nexthop", "show", "proto", "97"))
    gateway = str(lab.address("tor-2", family))
    hop = next(hop["id"] for hop in hops if hop.get("gateway") == gateway)
    await lab.run("n1", "ip", "nexthop", "del", "id", str(hop))


async def flush_everything(lab: Lab, family: Family) -> None:
    """Delete every route and every next hop of ours."""
    await lab.run("n1", "ip", option(family), "route", "flush", "proto", "97")
    await lab.run("n1", "ip", "nexthop", "flush", "proto", "97")


HANDS: Final[Sequence[Callable[[Lab, Family], Awaitable[None]]]] = (
    delete_route,
    delete_group,
    delete_hop,
    flush_everything,
)


BUSY_S: Final = 10.0
"""What takes some 0.1 s on a machine with nothing else to do, and must not depend on the next timer."""


@pytest.mark.parametrize("hand", HANDS, ids=lambda hand: hand.__name__.replace("_", "-"))
async def test_what_a_hand_deletes_is_back_within_a_second(
    net: Lab, family: Family, hand: Callable[[Lab, Family], Awaitable[None]]
) -> None:
    before, repaired = await nodes.own_routes(net, "n1"), (await nodes.status(net, "n1")).routes_repaired
    took = []
    for _ in range(ATTEMPTS):
        await hand(net, family)
        took.append(await seconds_until(net, before))
    assert min(took) < BUSY_S, took
    if hand is not delete_hop:  # that is a repair of a group, no route
        assert (await nodes.status(net, "n1")).routes_repaired >= repaired + ATTEMPTS


async def pull_cable(lab: Lab) -> None:
    """Take the carrier from n1's link to tor-1."""
    await lab.fail_link("n1", "tor-1")


async def plug_cable(lab: Lab) -> None:
    """Give it back."""
    await lab.heal_link("n1", "tor-1")


async def set_down(lab: Lab) -> None:
    """Shut n1's own interface to tor-1: the kernel forgets every route and next hop over it."""
    await lab.run("n1", "ip", "link", "set", "eth0", "down")


async def set_up(lab: Lab) -> None:
    """Undo that."""
    await lab.run("n1", "ip", "link", "set", "eth0", "up")


FLAPS: Final[Mapping[str, tuple[Callable[[Lab], Awaitable[None]], Callable[[Lab], Awaitable[None]]]]] = {
    "carrier": (pull_cable, plug_cable),
    "interface": (set_down, set_up),
}


@pytest.mark.parametrize("flap", FLAPS)
async def test_a_flapped_link_is_in_use_again_within_a_second(net: Lab, stage: Stage, flap: str) -> None:
    down, up = FLAPS[flap]
    before, sessions = await nodes.own_routes(net, "n1"), await nodes.peers(net, "n1")
    took = []
    for _ in range(ATTEMPTS):
        await down(net)
        for prefix in FAR.values():
            await eventually(
                partial(kernel_routes, net, "n1", prefix),
                lambda routes: [route.interfaces for route in routes] == [{"eth1"}],
            )
        await up(net)
        took.append(await seconds_until(net, before))
    assert min(took) < BUSY_S, took
    await stage.settled(net)
    assert await nodes.own_routes(net, "n1") == before
    after = await nodes.peers(net, "n1")
    untouched = {str(net.address("tor-2", family)) for family in Family}
    assert {it: after[it].since for it in untouched} == {it: sessions[it].since for it in untouched}


async def test_routes_of_others_are_left_alone_whatever_happens(net: Lab, stage: Stage) -> None:
    commands = [
        *(f"route add {FAR[family]} via {net.address('tor-2', family)} proto static metric 20000" for family in Family),
        f"route add 198.51.100.0/24 via {net.address('tor-2', Family.IPV4)} proto static",
        f"route add 2001:db8::/32 via {net.address('tor-2', Family.IPV6)} proto static",
        f"nexthop add id 42 via {net.address('tor-2', Family.IPV4)} dev eth1",
        "route add 198.51.101.0/24 nhid 42 proto static",
        "route add blackhole 198.51.102.0/24",
    ]

    async def foreign() -> tuple[list[KernelRoute], str]:
        routes = [route for route in await kernel_routes(net, "n1") if route.protocol != "97"]
        return sorted(routes, key=repr), await net.run("n1", "ip", "nexthop", "show", "id", "42")

    clean = [route for route in await kernel_routes(net, "n1") if route.protocol != "97"]
    await net.run("n1", "sh", "-c", f"echo '{chr(10).join(commands)}' | ip -batch -")
    before = await foreign()
    assert len(before[0]) == len(clean) + len(commands) - 1

    await flush_everything(net, Family.IPV4)
    await net.fail_link("n1", "tor-1")
    await eventually(partial(kernel_routes, net, "n1", FAR[Family.IPV4]), lambda found: len(found) == 2)
    await net.heal_link("n1", "tor-1")
    await net.restart("n1")
    await stage.settled(net)
    assert await foreign() == before
    undone = [command.replace(" add ", " del ") for command in commands if command.startswith("route")]
    await net.run("n1", "sh", "-c", f"echo '{chr(10).join(undone)}' | ip -batch -")
    await net.run("n1", "ip", "nexthop", "del", "id", "42")


async def test_a_route_of_the_administrator_wins_and_ours_shows_as_shadowed(net: Lab, family: Family) -> None:
    hop, prefix = str(net.address("tor-1", family)), FAR[family]
    theirs = [prefix, "via", hop, "proto", "static", "metric", "100"]
    before = await nodes.own_routes(net, "n1")
    await net.run("n1", "ip", option(family), "route", "add", *theirs)
    try:
        state = "shadowed by static (metric 100)"
        await eventually(partial(nodes.installed, net, "n1"), lambda rows: rows[prefix].state == state)
        assert state in await nodes.tortie(net, "n1", "routes", "installed")
        assert f"{state}, since" in await nodes.tortie(net, "n1", "routes", "explain", prefix)
        assert await nodes.own_routes(net, "n1") == before
    finally:
        await net.run("n1", "ip", option(family), "route", "del", *theirs)
    await eventually(partial(nodes.installed, net, "n1"), lambda rows: rows[prefix].state == "in kernel")


async def test_a_route_that_has_the_place_of_ours_is_left_there_and_named(net: Lab, family: Family) -> None:
    """Destination and metric are what the kernel tells routes apart by."""
    hop, prefix = str(net.address("tor-1", family)), FAR[family]
    theirs = [prefix, "via", hop, "proto", "static", "metric", "9700"]
    before = await nodes.own_routes(net, "n1")
    await net.run("n1", "ip", option(family), "route", "replace", *theirs)
    try:
        state = "refused: someone else has a route to this destination with metric 9700"
        await eventually(partial(nodes.installed, net, "n1"), lambda rows: rows[prefix].state == state)
        assert state in await nodes.tortie(net, "n1", "routes", "installed")
        assert "KernelRefused" in await nodes.tortie(net, "n1", "status")
        assert [route.protocol for route in await kernel_routes(net, "n1", prefix)] == ["static"]
    finally:
        await net.run("n1", "ip", option(family), "route", "del", *theirs)
    await eventually(partial(nodes.own_routes, net, "n1"), before.__eq__)
