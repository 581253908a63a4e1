"""Sessions that come and go, with the RIB, the kernel and the announcements that follow from them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from agent.sessions import ARRIVAL_S
from bgp.config import SecretKey
from bgp.path import Attributes
from bgp.speaker import Secret, Update
from felix.routetable import PutGroup
from inet.prefix import Family, Prefix
from tests.agent.routing_world import World, running


async def test_a_router_that_closes_its_session_is_left_with_one_write_for_all_prefixes(world: World) -> None:
    prefixes = [
        Prefix.parse(f"10.42.{number}.0/26")
        if world.family is Family.IPV4
        else Prefix.parse(f"fd42:0:0:{number:x}::/80")
        for number in range(2, 200)
    ]
    await world.with_routers(11, 12, pod_cidrs=(Prefix.parse("10.42.0.0/16"), Prefix.parse("fd42::/48")))
    for router in (11, 12):
        await world.up(router)
        await world.hear(router, prefixes, path=[65100, 65002])
    world.table.written.clear()
    world.speaker.take_down(world.host(11), notification=(6, 2))
    await world.settle()
    assert world.kernel() == dict.fromkeys(prefixes, (world.hop(12),))
    assert [type(change) for change in world.table.written] == [PutGroup]


async def test_a_peer_that_only_lost_its_connection_keeps_its_routes_until_the_restart_timer(world: World) -> None:
    await world.configure()
    await world.up(2)
    await world.hear(2, [world.cidr(2)])
    world.speaker.take_down(world.host(2))
    await world.settle()
    assert world.kernel() == {world.cidr(2): (world.hop(2),)}
    await world.pass_time(59)
    assert world.kernel() == {world.cidr(2): (world.hop(2),)}
    await world.pass_time(2)
    assert world.kernel() == {}


async def test_a_peer_that_comes_back_with_the_same_routes_changes_nothing(world: World) -> None:
    await world.configure()
    await world.up(2)
    await world.hear(2, [world.cidr(2)])
    world.table.written.clear()
    world.speaker.take_down(world.host(2))
    await world.up(2)
    await world.hear(2, [world.cidr(2)])
    await world.pass_time(500)
    assert world.table.written == []


async def test_what_a_restarted_peer_does_not_say_again_goes_with_its_end_of_rib(world: World) -> None:
    extra = Prefix(world.cidr(2).packed, world.cidr(2).length + 2)
    await world.configure()
    await world.up(2)
    await world.hear(2, [world.cidr(2), extra])
    world.speaker.take_down(world.host(2))
    await world.up(2)
    assert extra in world.kernel()
    await world.hear(2, [world.cidr(2)])
    assert world.kernel() == {world.cidr(2): (world.hop(2),)}


@pytest.mark.parametrize("notification", [None, (6, 7)], ids=["cut", "collision"])
async def test_a_connection_given_up_for_another_before_a_word_was_said_costs_no_route(
    world: World, notification: tuple[int, int] | None
) -> None:
    await world.configure()
    await world.up(2)
    await world.hear(2, [world.cidr(2)])
    world.table.written.clear()
    world.speaker.take_down(world.host(2))
    for _ in range(3):
        await world.up(2)
        world.speaker.take_down(world.host(2), "another connection", notification=notification)
        await world.settle()
    assert world.table.written == []
    await world.pass_time(61)
    assert world.kernel() == {}


async def test_a_peer_that_went_again_after_it_was_heard_keeps_only_what_it_said_anew(world: World) -> None:
    extra = Prefix(world.cidr(2).packed, world.cidr(2).length + 2)
    await world.configure()
    await world.up(2)
    await world.hear(2, [world.cidr(2), extra])
    world.speaker.take_down(world.host(2))
    await world.up(2)
    said = Attributes(next_hop=world.host(2))
    world.speaker.hear(Update(world.host(2), said, (world.cidr(2),)))
    world.speaker.take_down(world.host(2))
    await world.settle()
    assert world.kernel() == {world.cidr(2): (world.hop(2),)}


async def test_a_peer_that_is_back_and_silent_keeps_its_routes_beyond_the_restart_timer(world: World) -> None:
    await world.configure()
    await world.up(2)
    await world.hear(2, [world.cidr(2)])
    world.speaker.take_down(world.host(2))
    await world.pass_time(58)
    await world.up(2)
    await world.pass_time(100)
    assert world.kernel() == {world.cidr(2): (world.hop(2),)}
    await world.hear(2, [])
    assert world.kernel() == {}


async def test_without_graceful_restart_a_lost_connection_ends_the_routes(world: World) -> None:
    await world.configure(graceful_restart_time_s=None)
    await world.up(2)
    await world.hear(2, [world.cidr(2)])
    world.speaker.take_down(world.host(2))
    await world.settle()
    assert world.kernel() == {}


async def test_losing_our_own_speaker_touches_no_route(world: World) -> None:
    await world.configure()
    for number in (2, 3):
        await world.up(number)
        await world.hear(number, [world.cidr(number)])
    world.table.written.clear()
    for _ in range(2):
        world.speaker.lose()
        await world.settle()
    for number in (2, 3):
        await world.up(number)
        await world.hear(number, [world.cidr(number)])
    await world.pass_time(1000)
    assert world.table.written == []
    assert world.speaker.adj_rib_out[world.host(3)].keys() == {world.cidr(1)}


async def test_our_speaker_may_be_lost_again_and_again_before_a_peer_has_said_a_word(world: World) -> None:
    await world.configure()
    await world.up(2)
    await world.hear(2, [world.cidr(2)])
    for _ in range(5):
        world.speaker.lose()
        await world.pass_time(100)
        await world.up(2)
    assert world.kernel() == {world.cidr(2): (world.hop(2),)}


async def test_routes_of_before_the_restart_stay_until_every_peer_was_heard(world: World) -> None:
    await world.configure()
    for number in (2, 3):
        await world.up(number)
        await world.hear(number, [world.cidr(number)])
    async with running(World(world.family, world.table)) as again:
        again.table.written.clear()
        await again.configure()
        await again.up(2)
        await again.hear(2, [again.cidr(2)])
        assert again.kernel().keys() == {again.cidr(2), again.cidr(3)}
        assert again.routing.waiting_for() == {again.host(3)}
        await again.up(3)
        await again.hear(3, [])
        assert again.kernel().keys() == {again.cidr(2)}


async def test_routes_of_before_the_restart_stay_while_the_first_configuration_is_taken_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_answered = asyncio.Event()

    async def ask_a_slow_kernel(*, wanted: bool) -> bool:
        await is_answered.wait()
        return wanted

    monkeypatch.setattr(world.routing.forwarding, "choose_resilient", ask_a_slow_kernel)
    configuring = asyncio.create_task(world.configure())
    await asyncio.sleep(0)
    world.routing.wake()
    await world.settle()
    assert world.routing.is_deferring
    is_answered.set()
    await configuring
    assert world.routing.waiting_for() == {world.host(2), world.host(3)}


async def test_a_restart_with_the_same_peers_writes_nothing(world: World) -> None:
    await world.configure()
    for number in (2, 3):
        await world.up(number)
        await world.hear(number, [world.cidr(number)])
    async with running(World(world.family, world.table)) as again:
        again.table.written.clear()
        await again.configure()
        for number in (3, 2):
            await again.up(number)
            await again.hear(number, [again.cidr(number)])
        assert not again.routing.is_deferring
        assert again.table.written == []


async def test_a_peer_that_never_comes_back_holds_a_restart_up_for_the_restart_time_only(world: World) -> None:
    await world.configure()
    await world.up(2)
    await world.hear(2, [world.cidr(2)])
    async with running(World(world.family, world.table)) as again:
        await again.configure()
        await again.pass_time(119)
        assert again.kernel().keys() == {again.cidr(2)}
        await again.pass_time(2)
        assert again.kernel() == {}


async def test_a_session_taken_out_of_the_configuration_takes_its_routes_along_and_no_others(world: World) -> None:
    await world.configure()
    for number in (2, 3):
        await world.up(number)
        await world.hear(number, [world.cidr(number)])
    await world.configure(nodes={name: node for name, node in world.config.nodes.items() if name != "n3"})
    assert world.kernel() == {world.cidr(2): (world.hop(2),)}
    assert world.host(3) not in world.speaker.sessions
    assert world.routing.peers.keys() == {world.host(2)}


async def test_shutdown_ends_a_session_and_says_so(world: World) -> None:
    await world.with_routers(11)
    await world.up(11)
    await world.hear(11, [world.cidr(2)], path=[65100, 65002])
    (peering,) = world.config.peerings
    await world.configure(peerings=(replace(peering, shutdown="cable work"),))
    peer = world.routing.peers[world.host(11)]
    assert (peer.state, peer.reason) == ("Idle", "administratively down: cable work")
    assert world.kernel() == {}
    assert world.speaker.sessions == {}
    await world.configure(peerings=(peering,))
    await world.up(11)
    assert world.speaker.adj_rib_out[world.host(11)].keys() == {world.cidr(1)}


async def test_a_missing_password_keeps_that_session_down_until_it_is_there(world: World) -> None:
    key = SecretKey("bgp", "tor")
    await world.with_routers(11, 12)
    first, second = world.config.peerings
    await world.configure(peerings=(replace(first, password=key), second))
    assert world.speaker.sessions.keys() == {world.host(12)}
    assert world.routing.peers[world.host(11)].reason == "Secret bgp does not exist"
    await world.configure(secrets={key: Secret("x")}, secret_names=frozenset({"bgp"}))
    assert world.speaker.sessions[world.host(11)].password == Secret("x")


async def test_a_fresh_node_has_its_peers_come_up_until_all_were_heard_or_for_some_seconds(world: World) -> None:
    assert world.routing.coming_up() == set()  # nobody is known yet
    await world.configure()
    peers = world.routing.coming_up()
    assert peers == world.routing.peers.keys()
    await world.up(2)
    assert world.routing.coming_up() == peers
    await world.hear(2, [world.cidr(2)])
    assert len(world.routing.coming_up()) == len(peers) - 1
    await world.pass_time(ARRIVAL_S - 1)
    assert len(world.routing.coming_up()) == len(peers) - 1
    await world.pass_time(1)
    assert world.routing.coming_up() == set()


async def test_a_node_without_peers_has_nobody_to_wait_for(world: World) -> None:
    await world.configure(mesh_enabled=False)
    assert world.routing.coming_up() == set()
