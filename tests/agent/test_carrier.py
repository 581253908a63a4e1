"""Direct or in a tunnel, on the whole loop: what routers say and take back, what nodes are, what is configured."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.parting import PARTING_S
from agent.vnis import RememberedVnis
from bgp.carriage import hardware_address, node_paths, settle_tunnels
from bgp.config import Encapsulation, EncapsulationMode, Node, NodeRoutes, TunnelType
from bgp.ownership import settle
from bgp.switchover import LINGER_S, UNDERSTOOD_S, USE_UNHEARD_AFTER_S
from felix.encap import Outer
from felix.faketunnels import INTERFACES
from felix.monitor import LinkChanged
from felix.resolver import Resolution
from felix.route import NextHop
from felix.routetable import DropRoute, PutRoute
from felix.trials import Trial
from felix.tunnelmessages import Kind
from inet.prefix import Family, Prefix
from tests.agent.routing_world import World, running

FALLBACK = Encapsulation(EncapsulationMode.FALLBACK)
ALWAYS = Encapsulation(EncapsulationMode.ALWAYS)
IPIP = Encapsulation(EncapsulationMode.ALWAYS, TunnelType.IPIP)
ROUTER = 9


@pytest.fixture(params=list(Family), ids=lambda family: family.label)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Node n2 is on the link, node n3 behind a router that has no address in the world."""
    world = World(request.param)
    world.resolver.addresses.add(world.host(1))
    world.resolver.answers[world.host(3), None] = Resolution((world.hop(ROUTER),), is_on_link=False)
    async with running(world):
        yield world


def tunnel(world: World, number: int, type_: TunnelType = TunnelType.VXLAN, vni: int = 4096) -> NextHop:
    """The next hop that leads to a node through a tunnel."""
    far, near = world.host(number).packed, world.host(1).packed
    if type_ is TunnelType.VXLAN:
        return NextHop(gateway(world, number), INTERFACES[Kind.VXLAN], onlink=True, outer=Outer(far, near, vni))
    kind = Kind.IPIP if world.family is Family.IPV4 else Kind.IP6TNL
    return NextHop(b"", INTERFACES[kind], outer=Outer(far, near))


def gateway(world: World, number: int) -> bytes:
    """A node's address on the VXLAN device: its own, or for IPv6 the link-local one made of its hardware address."""
    if world.family is Family.IPV4:
        return world.host(number).packed
    mac = hardware_address(f"n{number}")
    return b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]


def way(world: World, number: int) -> tuple[NextHop, ...] | None:
    return world.kernel().get(world.cidr(number))


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
    world.tunnels.break_(Kind.VXLAN, "no such thing")
    await world.configure(encapsulation=FALLBACK, mesh_enabled=False)
    assert way(world, 2) == (world.hop(2),)
    assert way(world, 3) is None
    reason = world.routing.forwarding.why_unreachable(world.key(3))
    assert reason == "it needs a tunnel: no such thing"
    world.tunnels.heal(Kind.VXLAN)
    world.monitor.tell(LinkChanged(INTERFACES[Kind.VXLAN], "tortie-vxlan", is_up=True))
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
    expected, overhead = (Kind.IPIP, 20) if world.family is Family.IPV4 else (Kind.IP6TNL, 40)
    assert world.tunnels.devices.keys() == {expected}
    assert dict(world.tunnels.devices[expected].mtu) == {world.family: 1500 - overhead}
    assert world.carrier.overhead[world.family] == overhead


async def test_vxlan_knows_each_node_by_its_hardware_address(world: World) -> None:
    await world.configure(encapsulation=ALWAYS, mesh_enabled=False)
    expected = {gateway(world, number): hardware_address(f"n{number}") for number in (2, 3)}
    assert world.tunnels.neighbours == expected
    device = world.tunnels.devices[Kind.VXLAN]
    assert device.mac == hardware_address("n1")
    assert device.addresses == (world.cidr(1).packed,)
    assert dict(device.mtu) == {world.family: 1450 if world.family is Family.IPV4 else 1430}


async def test_the_vni_and_port_are_those_configured(world: World) -> None:
    await world.configure(encapsulation=ALWAYS, mesh_enabled=False, vxlan_vni=77, vxlan_port=8472)
    assert way(world, 3) == (tunnel(world, 3, vni=77),)
    assert world.tunnels.devices[Kind.VXLAN].port == 8472


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
    (hop,) = way(world, 3) or ()
    assert hop.outer.source == b""


# Nodes


async def test_a_node_that_changes_its_address_is_followed(world: World) -> None:
    await world.configure(encapsulation=ALWAYS, mesh_enabled=False)
    moved = replace(world.node(3), addresses=(world.host(33),))
    await world.configure(nodes=world.config.nodes | {"n3": moved})
    far = world.host(33).packed
    (hop,) = way(world, 3) or ()
    assert hop.outer.destination == far
    assert hop.gateway == (far if world.family is Family.IPV4 else gateway(world, 3))


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
    assert gateway(world, 3) in world.tunnels.neighbours  # until its route is gone for sure
    await world.pass_time(UNDERSTOOD_S)
    assert world.tunnels.neighbours.keys() == {gateway(world, 2)}
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


# From one to another while traffic flows


async def test_a_tunnel_is_used_as_soon_as_the_other_end_answers_through_it(world: World) -> None:
    await world.configure(mesh_enabled=False, node_routes=NodeRoutes.DIRECT)
    await world.configure(encapsulation=ALWAYS)
    assert world.tunnels.devices.keys() == {Kind.VXLAN}
    assert way(world, 2) == (world.hop(2),)
    assert list(world.carrier.trials().values()) == [Trial(world.cidr(2).packed, tunnel(world, 2))]
    await world.answer(2)
    assert way(world, 2) == (tunnel(world, 2),)
    assert world.carrier.trials() == {}


async def test_where_nobody_answers_the_tunnel_is_used_in_the_end(world: World) -> None:
    await world.configure(mesh_enabled=False, node_routes=NodeRoutes.DIRECT)
    await world.configure(encapsulation=ALWAYS)
    await world.pass_time(USE_UNHEARD_AFTER_S - 1)
    assert way(world, 2) == (world.hop(2),)
    await world.pass_time(1)
    assert way(world, 2) == (tunnel(world, 2),)


async def test_who_had_no_way_before_waits_for_nobody(world: World) -> None:
    await world.configure(mesh_enabled=False, node_routes=NodeRoutes.DIRECT)
    assert way(world, 3) is None
    await world.configure(encapsulation=ALWAYS)
    assert way(world, 3) == (tunnel(world, 3),)


async def test_with_fallback_a_tunnel_is_tried_only_where_it_takes_the_place_of_another_way(world: World) -> None:
    await world.configure(node_routes=NodeRoutes.BGP)
    for number in (2, 3):
        await world.up(number)
        await world.hear(number, [world.cidr(number)])
    assert way(world, 3) == (world.hop(ROUTER),)
    await world.configure(encapsulation=FALLBACK)
    assert [address for address, _ in world.carrier.trials()] == [world.host(3)]
    again = following(world)
    world.table.written.clear()
    async with running(again):
        await again.configure(encapsulation=FALLBACK)
        assert [address for address, _ in again.carrier.trials()] == [world.host(3)]
        for number in (2, 3):
            await again.up(number)
            await again.hear(number, [world.cidr(number)])
        assert again.table.written == []
        await again.answer(3)
        assert (way(again, 2), way(again, 3)) == ((world.hop(2),), (tunnel(world, 3),))
    third = following(again)
    async with running(third):
        await third.configure(encapsulation=FALLBACK)
        assert third.carrier.trials() == {}


async def test_what_a_router_carries_stays_with_it_until_the_other_end_answers(world: World) -> None:
    await world.with_routers(ROUTER, node_routes=NodeRoutes.DIRECT)
    await world.up(ROUTER)
    await world.hear(ROUTER, [world.cidr(3)], path=[65100])
    await world.configure(encapsulation=ALWAYS)
    assert way(world, 3) == (world.hop(ROUTER),)
    await world.answer(3)
    assert way(world, 3) == (tunnel(world, 3),)


async def test_a_device_goes_when_nothing_has_come_out_of_it_for_a_while(world: World) -> None:
    await world.configure(encapsulation=ALWAYS, node_routes=NodeRoutes.DIRECT)
    await world.configure(encapsulation=IPIP)
    assert way(world, 2) == (tunnel(world, 2),)
    await world.answer(2, 3)
    assert way(world, 2) == (tunnel(world, 2, TunnelType.IPIP),)
    for _ in range(3):
        world.tunnels.packets[Kind.VXLAN] = world.tunnels.packets.get(Kind.VXLAN, 0) + 1
        await world.pass_time(LINGER_S)
        assert Kind.VXLAN in world.tunnels.devices
        assert world.host(2) in world.carrier.peers
    await world.pass_time(LINGER_S)
    assert Kind.VXLAN not in world.tunnels.devices


async def test_out_of_tunnels_all_that_others_may_send_is_understood_on(world: World) -> None:
    await world.configure(encapsulation=ALWAYS, node_routes=NodeRoutes.DIRECT)
    await world.pass_time(10 * UNDERSTOOD_S)
    neighbours, overhead = world.tunnels.neighbours, world.carrier.overhead
    await world.configure(encapsulation=Encapsulation())
    assert way(world, 2) == (world.hop(2),)
    assert world.tunnels.devices.keys() == {Kind.VXLAN}
    assert world.host(2) in world.carrier.peers
    assert world.carrier.vnis == (4096,)
    assert world.tunnels.neighbours == neighbours, "or what is on its way to the device would wait there for an answer"
    assert world.carrier.overhead == overhead, "or pods here would send more than pods there take yet"
    await world.pass_time(LINGER_S)
    assert world.tunnels.devices == {}
    assert world.carrier.overhead == dict.fromkeys(Family, 0)
    await world.pass_time(UNDERSTOOD_S)
    assert world.carrier.peers == frozenset()


async def test_an_agent_that_is_killed_in_the_middle_goes_on_where_it_was(world: World) -> None:
    await world.configure(mesh_enabled=False, node_routes=NodeRoutes.DIRECT)
    await world.configure(encapsulation=ALWAYS)
    await world.answer(3)
    again = following(world)
    world.table.written.clear()
    async with running(again):
        await again.configure(mesh_enabled=False, node_routes=NodeRoutes.DIRECT, encapsulation=ALWAYS)
        assert (way(again, 2), way(again, 3)) == ((world.hop(2),), (tunnel(world, 3),))
        assert again.table.written == []
        await again.answer(2)
        assert way(again, 2) == (tunnel(world, 2),)


async def test_an_agent_that_hears_of_another_type_only_when_it_is_back_tries_it_first(world: World) -> None:
    await world.configure(mesh_enabled=False, node_routes=NodeRoutes.DIRECT, encapsulation=ALWAYS)
    again = following(world)
    async with running(again):
        await again.configure(mesh_enabled=False, node_routes=NodeRoutes.DIRECT, encapsulation=IPIP)
        assert way(again, 2) == (tunnel(world, 2),)
        assert Kind.VXLAN in again.tunnels.devices
        await again.answer(2, 3)
        assert way(again, 2) == (tunnel(world, 2, TunnelType.IPIP),)


async def test_an_agent_that_is_back_keeps_a_device_that_others_may_use_still(world: World) -> None:
    await world.configure(mesh_enabled=False, node_routes=NodeRoutes.DIRECT)
    again = following(world)
    again.tunnels.left = {Kind.VXLAN}
    async with running(again):
        await again.configure(mesh_enabled=False, node_routes=NodeRoutes.DIRECT)
        assert again.tunnels.devices.keys() == {Kind.VXLAN}
        assert again.carrier.peers == {world.host(2), world.host(3)}
        assert again.carrier.vnis == (4096,)
        again.tunnels.left = set()
        await again.pass_time(LINGER_S)
        assert again.tunnels.devices == {}


async def test_an_agent_that_is_back_understands_a_vni_that_others_may_use_still(world: World, tmp_path: Path) -> None:
    file = RememberedVnis(tmp_path / "vnis.json")
    once = following(world, file)
    async with running(once):
        await once.configure(mesh_enabled=False, encapsulation=ALWAYS, vxlan_vni=77)
        await once.configure(vxlan_vni=78)
        await once.answer(2, 3)
    again = following(once, file)
    async with running(again):
        await again.configure(mesh_enabled=False, encapsulation=ALWAYS, vxlan_vni=78)
        assert again.carrier.vnis == (77, 78)
        await again.pass_time(UNDERSTOOD_S)
        assert again.carrier.vnis == (78,)


async def test_a_device_stays_while_routes_of_before_a_restart_lead_through_it(world: World) -> None:
    await world.configure(encapsulation=ALWAYS)
    for number in (2, 3):
        await world.up(number)
        await world.hear(number, [world.cidr(number)])
    again = following(world)
    again.tunnels.left = {Kind.VXLAN}
    async with running(again):
        await again.configure()  # Never, in BGP: nobody has said anything yet
        assert way(again, 2) == (tunnel(world, 2),)
        await again.pass_time(LINGER_S)
        await again.pass_time(LINGER_S)
        assert way(again, 2) == (tunnel(world, 2),)
        assert Kind.VXLAN in again.tunnels.devices
        for number in (2, 3):
            await again.up(number)
            await again.hear(number, [again.cidr(number)])
        assert way(again, 2) == (again.hop(2),)
        again.tunnels.left = set()
        await again.pass_time(LINGER_S)
        assert again.tunnels.devices == {}


async def test_a_device_is_there_until_routes_of_before_a_restart_have_been_written_anew(world: World) -> None:
    await world.configure(encapsulation=ALWAYS)
    for number in (2, 3):
        await world.up(number)
        await world.hear(number, [world.cidr(number)])
    again = following(world)
    again.tunnels.left = {Kind.VXLAN}
    async with running(again):
        await again.configure()
        await again.pass_time(1000)  # all is due at a time
        assert not again.routing.is_deferring
        assert way(again, 2) is None
        assert Kind.VXLAN in again.tunnels.devices
        again.tunnels.left = set()
        await again.pass_time(LINGER_S)
        assert again.tunnels.devices == {}


def following(world: World, remembered: RememberedVnis | None = None) -> World:
    """Return the same node's next agent."""
    again = World(world.family, world.table, remembered)
    again.resolver.answers |= world.resolver.answers
    again.resolver.addresses |= world.resolver.addresses
    return again


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
        assert world.carrier.node_paths == node_paths(world.config, nodes["n1"], ownership, tunnels, on_link)
