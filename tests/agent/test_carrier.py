"""Direct or in a tunnel, on the whole loop: what routers say and take back, what nodes are, what is configured."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from agent.parting import PARTING_S
from agent.tunnel_devices import Wrapping
from bgp.carriage import NodePathPlanner, hardware_address, settle_tunnels
from bgp.config import Encapsulation, Node, NodeRoutes, TunnelType
from bgp.ownership import settle
from bgp.switchover import UNDERSTOOD_S
from felix.faketunnels import interface_of
from felix.farends import FarEnd
from felix.monitor import LinkChanged
from felix.resolver import Resolution
from felix.routetable import DropRoute, PutRoute
from felix.tunnelmessages import Device
from inet.prefix import Family, Prefix
from tests.agent.routing_world import World, running
from tests.agent.tunnel_world import (
    ALWAYS,
    FALLBACK,
    IPIP,
    ROUTER,
    device,
    following,
    gateway,
    tunnel,
    tunnel_world,
    way,
)


@pytest.fixture(params=list(Family), ids=lambda family: family.label)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with tunnel_world(request.param) as world:
        yield world


def gateways(world: World) -> set[bytes]:
    return {end.gateway for end in world.tunnels.far_ends}


# Fallback


async def test_fallback_goes_direct_to_a_neighbour_and_by_tunnel_to_who_is_far(world: World) -> None:
    await world.configure(encapsulation=FALLBACK, mesh_enabled=False)
    assert way(world, 2) == (world.hop(2),)
    assert way(world, 3) == (tunnel(world, 3),)


async def test_never_leaves_it_to_bgp(world: World) -> None:
    await world.configure(mesh_enabled=False)
    assert world.kernel() == {}
    assert world.tunnels.devices == {}
    assert world.backstops.destinations == set()


async def test_a_router_that_announces_the_prefix_is_preferred_to_the_tunnel_and_missed_at_once(world: World) -> None:
    await world.with_routers(ROUTER, encapsulation=FALLBACK)
    await world.up(ROUTER)
    await world.hear(ROUTER, [world.cidr(3)], path=[65100, 65101, 65102])
    assert way(world, 3) == (world.hop(ROUTER),)
    await world.withdraw(ROUTER, [world.cidr(3)])
    assert way(world, 3) == (tunnel(world, 3),)
    await world.hear(ROUTER, [world.cidr(3)], path=[65100])
    assert way(world, 3) == (world.hop(ROUTER),)


async def test_a_lost_session_moves_destinations_to_the_tunnel(world: World) -> None:
    await world.with_routers(ROUTER, encapsulation=FALLBACK)
    await world.up(ROUTER, offer=None)
    await world.hear(ROUTER, [world.cidr(3)], path=[65100])
    await world.down(ROUTER)
    assert way(world, 3) == (tunnel(world, 3),)


async def test_a_router_that_cannot_be_reached_any_more_is_as_good_as_none(world: World) -> None:
    await world.with_routers(ROUTER, encapsulation=FALLBACK)
    await world.up(ROUTER)
    await world.hear(ROUTER, [world.cidr(3)], path=[65100])
    world.resolver.answers[world.host(ROUTER), None] = Resolution((), is_on_link=False, reason="the link is down")
    world.monitor.tell(LinkChanged(1, "eth0", is_up=False))
    await world.settle()
    assert way(world, 3) == (tunnel(world, 3),)


async def test_a_mesh_session_over_a_router_does_not_mean_that_the_router_knows_pods(world: World) -> None:
    await world.configure(encapsulation=FALLBACK)
    await world.up(3)
    await world.hear(3, [world.cidr(3)])
    assert way(world, 3) == (tunnel(world, 3),)


async def test_what_moves_is_replaced_in_place_and_never_taken_away(world: World) -> None:
    await world.with_routers(ROUTER, encapsulation=FALLBACK)
    await world.up(ROUTER, offer=None)
    await world.hear(ROUTER, [world.cidr(3)], path=[65100])
    world.table.written.clear()
    await world.withdraw(ROUTER, [world.cidr(3)])
    routes = [change for change in world.table.written if isinstance(change, PutRoute | DropRoute)]
    assert [(type(change), change.destination) for change in routes] == [(PutRoute, world.cidr(3))]
    assert not any(change.is_new for change in routes if isinstance(change, PutRoute))


async def test_what_must_not_leave_unencapsulated_has_a_blackhole_behind_it(world: World) -> None:
    await world.configure(encapsulation=FALLBACK, mesh_enabled=False)
    assert world.backstops.destinations == {world.cidr(2), world.cidr(3)}


async def test_without_its_device_a_destination_has_no_route(world: World) -> None:
    world.tunnels.break_(device(world), "no such thing")
    await world.configure(encapsulation=FALLBACK, mesh_enabled=False)
    assert way(world, 2) == (world.hop(2),)
    assert way(world, 3) is None
    reason = world.routing.forwarding.why_unreachable(world.key(3))
    assert reason == "it needs a tunnel: no such thing"
    world.tunnels.heal(device(world))
    world.monitor.tell(LinkChanged(interface_of(device(world)), device(world).name, is_up=True))
    await world.settle()
    assert way(world, 3) == (tunnel(world, 3),)


# Always


async def test_always_takes_the_tunnel_whatever_else_there_is(world: World) -> None:
    await world.with_routers(ROUTER, encapsulation=ALWAYS)
    await world.up(ROUTER)
    await world.hear(ROUTER, [world.cidr(2), world.cidr(3)], path=[65100])
    assert way(world, 2) == (tunnel(world, 2),)
    assert way(world, 3) == (tunnel(world, 3),)


async def test_what_is_no_pod_s_address_goes_where_bgp_says(world: World) -> None:
    service = Prefix.parse("10.43.0.0/24" if world.family is Family.IPV4 else "fd43::/64")
    await world.with_routers(ROUTER, encapsulation=ALWAYS, service_cidrs=(service,))
    await world.up(ROUTER)
    await world.hear(ROUTER, [service], path=[65100])
    assert world.kernel()[service] == (world.hop(ROUTER),)


async def test_ip_in_ip_has_a_device_for_each_family(world: World) -> None:
    await world.configure(encapsulation=IPIP, mesh_enabled=False)
    assert way(world, 3) == (tunnel(world, 3, TunnelType.IPIP),)
    overhead = 20 if world.family is Family.IPV4 else 40
    wanted = device(world, TunnelType.IPIP)
    assert world.tunnels.devices == {wanted: Device(wanted, 1500 - overhead, address=world.cidr(1).packed)}
    assert world.carrier.overhead[world.family] == overhead


async def test_vxlan_knows_each_node_by_its_hardware_address(world: World) -> None:
    await world.configure(encapsulation=ALWAYS, mesh_enabled=False)
    assert world.tunnels.far_ends == [
        FarEnd(gateway(world, number), hardware_address(f"n{number}"), world.host(number).packed) for number in (2, 3)
    ]
    mtu = 1450 if world.family is Family.IPV4 else 1430
    own = hardware_address("n1"), world.host(1).packed, world.cidr(1).packed
    assert world.tunnels.devices == {device(world): Device(device(world), mtu, 4789, *own)}


async def test_the_vni_and_port_are_those_configured(world: World) -> None:
    await world.configure(encapsulation=ALWAYS, mesh_enabled=False, vxlan_vni=77, vxlan_port=8472)
    assert way(world, 3) == (tunnel(world, 3, vni=77),)
    assert world.tunnels.devices[device(world, vni=77)].port == 8472


async def test_a_vni_is_used_towards_who_has_heard_of_it_and_understood_before_and_after(world: World) -> None:
    await world.configure(encapsulation=ALWAYS, mesh_enabled=False)
    assert world.carrier.vnis == (4096,)
    await world.configure(vxlan_vni=77)
    assert world.carrier.vnis == (77, 4096), "at once"
    assert (way(world, 2), way(world, 3)) == ((tunnel(world, 2),), (tunnel(world, 3),))
    await world.answer(3)
    assert (way(world, 2), way(world, 3)) == ((tunnel(world, 2),), (tunnel(world, 3, vni=77),))
    await world.answer(2)
    assert world.carrier.vnis == (77, 4096)
    await world.pass_time(UNDERSTOOD_S)
    assert world.carrier.vnis == (77,)


async def test_an_outer_source_that_this_node_does_not_have_is_left_to_the_kernel(world: World) -> None:
    world.resolver.addresses.clear()
    await world.configure(encapsulation=ALWAYS, mesh_enabled=False)
    assert world.tunnels.devices[device(world)].local == b""
    await world.configure(encapsulation=IPIP)
    await world.answer(2, 3)
    (hop,) = way(world, 3) or ()
    assert hop.outer.source == b""


# Nodes


async def test_a_node_that_changes_its_address_is_followed(world: World) -> None:
    await world.configure(encapsulation=ALWAYS, mesh_enabled=False)
    moved = replace(world.node(3), addresses=(world.host(33),))
    await world.configure(nodes=world.config.nodes | {"n3": moved})
    far = world.host(33).packed
    (hop,) = way(world, 3) or ()
    assert hop.gateway == (far if world.family is Family.IPV4 else gateway(world, 3))
    wrapping = world.carrier.wrappings().of(hop)
    assert wrapping == Wrapping(TunnelType.VXLAN, world.host(33), 4096)
    ends = {end.gateway: end.address for end in world.tunnels.far_ends if end.mac == hardware_address("n3")}
    assert ends == {gateway(world, 3): far, hop.gateway: far}, "by the former gateway, too, while routes lead there"


async def test_of_two_nodes_with_one_address_only_the_older_one_is_reached_by_it(world: World) -> None:
    twin = replace(world.node(3), addresses=(world.host(2),), created="2026-01-02")
    await world.configure(encapsulation=ALWAYS, mesh_enabled=False, nodes=world.config.nodes | {"n3": twin})
    assert way(world, 2) == (tunnel(world, 2),)
    assert way(world, 3) is None
    assert "is an address of Node n2, too" in world.routing.plan.complaints[0].reason


async def test_a_node_that_goes_takes_its_route_and_far_end_along(world: World) -> None:
    await world.configure(encapsulation=ALWAYS, mesh_enabled=False)
    await world.configure(nodes={name: node for name, node in world.config.nodes.items() if name != "n3"})
    assert way(world, 3) is None
    assert gateway(world, 3) in gateways(world)  # until its route is gone for sure
    await world.pass_time(UNDERSTOOD_S)
    assert gateways(world) == {gateway(world, 2)}
    assert world.backstops.destinations == {world.cidr(2)}


async def test_a_far_node_s_settings_count_when_they_are_stricter(world: World) -> None:
    overrides = {("n3", family): ALWAYS for family in Family}
    await world.configure(encapsulation_overrides=overrides, mesh_enabled=False)
    assert way(world, 2) is None
    assert way(world, 3) == (tunnel(world, 3),)
    assert world.backstops.destinations == {world.cidr(3)}


# Direct


async def test_direct_needs_no_sessions_between_nodes(world: World) -> None:
    await world.configure(node_routes=NodeRoutes.DIRECT)
    assert world.routing.peers == {}
    assert way(world, 2) == (world.hop(2),)
    assert way(world, 3) is None
    assert "is on no link of this node" in world.carrier.node_paths.left_out[world.cidr(3)]


async def test_direct_prefers_the_link_to_a_router_and_a_router_to_nothing(world: World) -> None:
    await world.with_routers(ROUTER, node_routes=NodeRoutes.DIRECT)
    await world.up(ROUTER)
    await world.hear(ROUTER, [world.cidr(2), world.cidr(3)], path=[65100])
    assert way(world, 2) == (world.hop(2),)
    assert way(world, 3) == (world.hop(ROUTER),)


async def test_a_node_that_comes_onto_the_link_is_reached_directly(world: World) -> None:
    await world.configure(node_routes=NodeRoutes.DIRECT, encapsulation=FALLBACK)
    assert way(world, 3) == (tunnel(world, 3),)
    del world.resolver.answers[world.host(3), None]
    world.monitor.tell(LinkChanged(1, "eth0", is_up=True))
    await world.settle()
    assert way(world, 3) == (world.hop(3),)


async def test_without_tunnels_too_a_node_that_comes_onto_the_link_is_reached(world: World) -> None:
    await world.configure(node_routes=NodeRoutes.DIRECT)
    assert way(world, 3) is None
    far = world.resolver.answers.pop((world.host(3), None))
    world.monitor.tell(LinkChanged(1, "eth0", is_up=True))
    await world.settle()
    assert way(world, 3) == (world.hop(3),)
    world.resolver.answers[world.host(3), None] = far
    world.monitor.tell(LinkChanged(1, "eth0", is_up=True))
    await world.settle()
    assert way(world, 3) is None


async def test_from_bgp_to_direct_nothing_is_written(world: World) -> None:
    await world.configure()
    await world.up(2)
    await world.hear(2, [world.cidr(2)])
    assert way(world, 2) == (world.hop(2),)
    world.table.written.clear()
    await world.configure(node_routes=NodeRoutes.DIRECT)
    assert world.host(2) in world.routing.peers  # that node may not have heard of it yet
    await world.pass_time(PARTING_S)
    assert world.routing.peers == {}
    assert way(world, 2) == (world.hop(2),)
    assert world.table.written == []


async def test_from_direct_to_bgp_routes_stay_until_the_peers_have_spoken(world: World) -> None:
    await world.configure(node_routes=NodeRoutes.DIRECT)
    world.table.written.clear()
    await world.configure(node_routes=NodeRoutes.BGP)
    assert way(world, 2) == (world.hop(2),)
    await world.up(2)
    await world.hear(2, [world.cidr(2)])
    await world.up(3)
    await world.hear(3, [])
    await world.pass_time(PARTING_S)
    assert world.table.written == []
    assert way(world, 2) == (world.hop(2),)
    await world.withdraw(2, [world.cidr(2)])
    assert way(world, 2) is None


async def test_back_to_bgp_a_session_that_its_other_end_is_about_to_end_is_not_relied_upon(world: World) -> None:
    """Node n2 has heard of Direct, and not yet that it was taken back."""
    await world.configure()
    for number in (2, 3):
        await world.up(number)
        await world.hear(number, [world.cidr(number)])
    await world.configure(node_routes=NodeRoutes.DIRECT)
    await world.pass_time(10)
    await world.configure(node_routes=NodeRoutes.BGP)
    await world.pass_time(PARTING_S - 11)
    world.table.written.clear()
    world.speaker.take_down(world.host(2), notification=(6, 3))
    await world.settle()
    assert way(world, 2) == (world.hop(2),)
    await world.pass_time(30)
    assert way(world, 2) == (world.hop(2),)
    await world.up(2)
    await world.hear(2, [world.cidr(2)])
    assert world.table.written == []


async def test_from_direct_to_bgp_a_peer_that_never_speaks_is_not_waited_for_for_ever(world: World) -> None:
    await world.configure(node_routes=NodeRoutes.DIRECT)
    await world.configure(node_routes=NodeRoutes.BGP)
    await world.pass_time(119)
    assert way(world, 2) == (world.hop(2),)
    await world.pass_time(2)
    assert way(world, 2) is None


async def test_a_restart_writes_nothing(world: World) -> None:
    await world.configure(encapsulation=FALLBACK, mesh_enabled=False)
    again = following(world)
    world.table.written.clear()
    async with running(again):
        await again.configure(encapsulation=FALLBACK, mesh_enabled=False)
        assert way(again, 3) == (tunnel(world, 3),)
        assert again.table.written == []


# Nodes that change


@pytest.mark.parametrize("encapsulation", [Encapsulation(), FALLBACK, ALWAYS], ids=lambda each: each.mode.value)
@pytest.mark.parametrize("node_routes", list(NodeRoutes), ids=lambda each: each.value)
async def test_followed_through_changes_of_nodes_the_ways_are_those_of_all_nodes(
    world: World, node_routes: NodeRoutes, encapsulation: Encapsulation
) -> None:
    world.resolver.answers[world.host(5), None] = Resolution((world.hop(ROUTER),), is_on_link=False)
    await world.configure(node_routes=node_routes, encapsulation=encapsulation, mesh_enabled=False)
    n2, n3 = world.config.nodes["n2"], world.config.nodes["n3"]
    steps: tuple[dict[str, Node | None], ...] = (
        {"n4": world.node(4), "n5": world.node(5)},
        {"n4": world.node(4, addresses=(world.host(5),)), "n5": world.node(5, addresses=(world.host(4),))},
        {"n5": world.node(5, addresses=(world.host(2),), created="2026")},  # another one's address
        {"n2": None},
        {"n5": world.node(5, addresses=()), "n2": n2},
        {"n3": world.node(3, pod_cidrs=(world.cidr(6),)), "n4": world.node(4, asn=65001)},
        {"n1": world.node(1, addresses=(world.host(3),)), "n3": None},
        {"n1": world.node(1), "n3": n3, "n4": None, "n5": None},
    )
    for step in steps:
        merged = {**world.config.nodes, **step}
        nodes = {name: node for name, node in merged.items() if node is not None}
        await world.configure(nodes=nodes)
        ownership = settle(nodes.values())
        wanted = settle_tunnels(world.config, nodes["n1"], ownership)
        on_link = frozenset(each for each in ownership.addresses if world.resolver.resolve(each).is_on_link)
        assert dict(world.carrier._wanted) == wanted
        tunnels = world.carrier._switchover.tunnels
        assert (
            world.carrier.node_paths == NodePathPlanner(world.config, nodes["n1"], ownership, tunnels, on_link).paths()
        )
