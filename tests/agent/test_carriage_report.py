"""How status and `tortie routes` tell which destinations need a tunnel, in which they are, and why."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from agent import carriage_report
from agent.report import CarriedReport
from agent.tunnel_devices import Wrapping
from bgp.config import TunnelType
from felix.installed import InstalledRoute
from inet.prefix import Family, Prefix
from tests.agent.routing_world import World
from tests.agent.tunnel_world import FALLBACK, IPIP, ROUTER, device, tunnel, tunnel_world


@pytest.fixture
async def world(family: Family) -> AsyncIterator[World]:
    async with tunnel_world(family) as world:
        yield world


async def row(world: World, prefix: Prefix) -> InstalledRoute:
    return next(row for row in await world.fib.installed() if row.destination == prefix)


async def carried(world: World, number: int) -> CarriedReport | None:
    return carriage_report.carried(world.routing, await row(world, world.cidr(number)), world.carrier.wrappings())


async def test_a_neighbour_is_reached_directly_and_who_is_far_in_a_tunnel(world: World) -> None:
    await world.configure(encapsulation=FALLBACK, mesh_enabled=False)
    near, far = await carried(world, 2), await carried(world, 3)
    assert near is not None
    assert far is not None
    assert (near.how, near.type, near.node) == ("direct", "", "")
    assert (far.how, far.type, far.node, far.vni) == ("tunnel", "VXLAN", "n3", 4096)
    assert far.remote == str(world.host(3))
    assert near.why
    assert near.why != far.why


async def test_ip_in_ip_has_no_number(world: World) -> None:
    await world.configure(encapsulation=IPIP, mesh_enabled=False)
    far = await carried(world, 3)
    assert far is not None
    assert (far.type, far.vni) == ("IPIP", None)


async def test_nothing_is_carried_by_a_blackhole(world: World) -> None:
    await world.configure(encapsulation=FALLBACK, mesh_enabled=False)
    assert await carried(world, 1) is None


async def test_a_hop_in_a_tunnel_is_named_by_its_far_end(world: World) -> None:
    await world.configure(encapsulation=FALLBACK, mesh_enabled=False)
    (hop,) = (await row(world, world.cidr(3))).next_hops
    wrapping = world.carrier.wrappings().of(hop)
    assert wrapping == Wrapping(TunnelType.VXLAN, world.host(3), 4096)
    assert carriage_report.words(hop, wrapping).startswith(f"VXLAN 4096 to {world.host(3)} ")
    assert carriage_report.words(hop._replace(interface=1 << 30), wrapping).endswith("gone")
    await world.configure(encapsulation=IPIP)
    await world.answer(2, 3)
    (hop,) = (await row(world, world.cidr(3))).next_hops
    wrapping = world.carrier.wrappings().of(hop)
    assert wrapping == Wrapping(TunnelType.IPIP, world.host(3))
    assert carriage_report.words(hop, wrapping).startswith(f"IPIP to {world.host(3)} ")


async def test_of_a_tunnel_to_a_node_that_is_gone_only_the_gateway_is_known(world: World) -> None:
    await world.configure(encapsulation=FALLBACK, mesh_enabled=False)
    stray = tunnel(world, 77)
    assert world.carrier.wrappings().of(stray) == Wrapping(TunnelType.VXLAN, ip_address(stray.gateway), 4096)
    assert world.carrier.wrappings().of(world.hop(2)) is None


async def test_tunnels_in_short(world: World) -> None:
    await world.configure(encapsulation=FALLBACK, mesh_enabled=False)
    report = carriage_report.tunnels(world.routing)
    assert (report.devices, report.peers, report.destinations) == ([device(world).name], 2, 1)
    assert report.overhead[world.family.label] == (50 if world.family is Family.IPV4 else 70)
    assert report.problems == []


async def test_a_destination_that_a_router_carries_is_in_no_tunnel(world: World) -> None:
    await world.with_routers(ROUTER, encapsulation=FALLBACK)
    await world.up(ROUTER)
    await world.hear(ROUTER, [world.cidr(3)], path=[65100])
    assert carriage_report.tunnels(world.routing).destinations == 0


async def test_a_pod_cidr_is_its_nodes_and_any_other_prefix_nobodys(world: World) -> None:
    assert carriage_report.node_of(world.routing, world.cidr(3)) == ""
    await world.configure()
    assert carriage_report.node_of(world.routing, world.cidr(3)) == "n3"
    assert carriage_report.node_of(world.routing, Prefix.of_host(world.host(3))) == ""


async def test_destinations_whose_tunnel_is_missing_are_told_as_unreachable(world: World) -> None:
    world.tunnels.break_(device(world), "Operation not permitted")
    await world.configure(encapsulation=FALLBACK, mesh_enabled=False)
    assert carriage_report.unreachable(world.routing) == (
        "1 destinations need a tunnel that is not there: Operation not permitted"
    )
    assert list(carriage_report.oddities(world.routing)) == []


async def test_a_missing_tunnel_that_nothing_needs_at_the_moment_is_worth_a_condition(world: World) -> None:
    world.tunnels.break_(device(world), "Operation not permitted")
    world.resolver.answers.clear()
    await world.configure(encapsulation=FALLBACK, mesh_enabled=False)
    assert carriage_report.unreachable(world.routing) == ""
    (condition,) = carriage_report.oddities(world.routing)
    assert (condition.type, condition.message) == ("TunnelUnavailable", "Operation not permitted")


async def test_why_no_path_follows_from_a_node_object_is_told(world: World) -> None:
    await world.configure(encapsulation=FALLBACK, mesh_enabled=False)
    assert carriage_report.left_out(world.routing, world.cidr(3)) == ""
    nodes = {**world.config.nodes, "n3": replace(world.config.nodes["n3"], addresses=())}
    await world.configure(nodes=nodes)
    assert carriage_report.left_out(world.routing, world.cidr(3))
