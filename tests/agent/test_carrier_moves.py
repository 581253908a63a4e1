"""From one way to another while traffic flows, with agents that are killed meanwhile: node n1 on the whole loop."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bgp.config import Encapsulation, NodeRoutes, TunnelType
from bgp.switchover import LINGER_S, UNDERSTOOD_S, USE_UNHEARD_AFTER_S
from felix.trials import Trial
from inet.prefix import Family
from tests.agent.routing_world import World, running
from tests.agent.tunnel_world import (
    ALWAYS,
    FALLBACK,
    IPIP,
    ROUTER,
    device,
    following,
    tunnel,
    tunnel_world,
    way,
)


@pytest.fixture(params=list(Family), ids=lambda family: family.label)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with tunnel_world(request.param) as world:
        yield world


async def test_a_tunnel_is_used_as_soon_as_the_other_end_answers_through_it(world: World) -> None:
    await world.configure(mesh_enabled=False, node_routes=NodeRoutes.DIRECT)
    await world.configure(encapsulation=ALWAYS)
    assert world.tunnels.devices.keys() == {device(world)}
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
        world.tunnels.packets[device(world)] = world.tunnels.packets.get(device(world), 0) + 1
        await world.pass_time(LINGER_S)
        assert device(world) in world.tunnels.devices
        assert world.host(2) in world.carrier.peers
    await world.pass_time(LINGER_S)
    assert device(world) not in world.tunnels.devices


async def test_out_of_tunnels_all_that_others_may_send_is_understood_on(world: World) -> None:
    await world.configure(encapsulation=ALWAYS, node_routes=NodeRoutes.DIRECT)
    await world.pass_time(10 * UNDERSTOOD_S)
    far_ends, overhead = world.tunnels.far_ends, world.carrier.overhead
    await world.configure(encapsulation=Encapsulation())
    assert way(world, 2) == (world.hop(2),)
    assert world.tunnels.devices.keys() == {device(world)}
    assert world.host(2) in world.carrier.peers
    assert world.carrier.vnis == (4096,)
    assert sorted(world.tunnels.far_ends) == sorted(far_ends), (
        "or what is on its way to the device would wait there for an answer"
    )
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
        assert device(world) in again.tunnels.devices
        await again.answer(2, 3)
        assert way(again, 2) == (tunnel(world, 2, TunnelType.IPIP),)


async def test_an_agent_that_is_back_keeps_a_device_that_others_may_use_still(world: World) -> None:
    await world.configure(mesh_enabled=False, node_routes=NodeRoutes.DIRECT)
    again = following(world)
    again.tunnels.left = {device(world)}
    async with running(again):
        await again.configure(mesh_enabled=False, node_routes=NodeRoutes.DIRECT)
        assert again.tunnels.devices.keys() == {device(world)}
        assert again.carrier.peers == {world.host(2), world.host(3)}
        assert again.carrier.vnis == (4096,)
        again.tunnels.left = set()
        await again.pass_time(LINGER_S)
        assert again.tunnels.devices == {}


async def test_an_agent_that_is_back_understands_a_vni_that_others_may_use_still(world: World) -> None:
    once = following(world)
    async with running(once):
        await once.configure(mesh_enabled=False, encapsulation=ALWAYS, vxlan_vni=77)
        await once.configure(vxlan_vni=78)
        await once.answer(2, 3)
    again = following(once)
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
    async with running(again):
        await again.configure()  # Never, in BGP: nobody has said anything yet
        assert way(again, 2) == (tunnel(world, 2),)
        await again.pass_time(LINGER_S)
        await again.pass_time(LINGER_S)
        assert way(again, 2) == (tunnel(world, 2),)
        assert device(world) in again.tunnels.devices
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
    async with running(again):
        await again.configure()
        await again.pass_time(1000)  # all is due at a time
        assert not again.routing.is_deferring
        assert way(again, 2) is None
        assert device(world) in again.tunnels.devices
        again.tunnels.left = set()
        await again.pass_time(LINGER_S)
        assert again.tunnels.devices == {}
