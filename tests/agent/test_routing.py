from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from agent.routing import RESYNC_INTERVAL_S
from bgp.config import SecretKey
from bgp.path import Attributes
from bgp.speaker import EndOfRib, Secret, Update
from felix.monitor import ForeignRouteChanged, LinkChanged, Overflow, OwnRouteChanged
from felix.resolver import Resolution
from felix.routetable import BLACKHOLE, PutGroup, PutRoute
from inet.prefix import Family, Prefix
from tests.agent.routing_world import World, running


@pytest.fixture(params=list(Family), ids=lambda family: family.label)
def family(request: pytest.FixtureRequest) -> Family:
    chosen: Family = request.param
    return chosen


@pytest.fixture
async def world(family: Family) -> AsyncIterator[World]:
    async with running(World(family)) as built:
        yield built


async def test_without_a_session_the_node_drops_what_goes_to_no_pod_of_its_own(world: World) -> None:
    await world.configure()
    assert world.table.routes == {world.cidr(1): BLACKHOLE}


async def test_a_node_announces_its_pod_cidr_and_then_that_this_is_all(world: World) -> None:
    await world.configure()
    await world.up(2)
    ((prefix, attributes),) = world.speaker.adj_rib_out[world.host(2)].items()
    assert prefix == world.cidr(1)
    assert attributes.next_hop == world.host(1)
    assert world.speaker.ends_of_rib == [(world.host(2), world.family)]


async def test_what_a_node_owns_and_announces_is_in_the_kernel(world: World) -> None:
    await world.configure()
    await world.up(2)
    await world.hear(2, [world.cidr(2)])
    assert world.kernel() == {world.cidr(2): (world.hop(2),)}


async def test_a_node_is_not_believed_for_the_pods_of_another(world: World) -> None:
    await world.configure()
    await world.up(2)
    await world.hear(2, [world.cidr(3)])
    assert world.kernel() == {}
    (candidate,) = world.routing.rib.explain(world.cidr(3))
    assert candidate.note == f"refused: {world.cidr(3)} belongs to Node n3, not n2"


async def test_two_routers_share_the_load(world: World) -> None:
    await world.with_routers(11, 12)
    for router in (11, 12):
        await world.up(router)
        await world.hear(router, [world.cidr(2)], path=[65100, 65002])
    assert world.kernel() == {world.cidr(2): (world.hop(11), world.hop(12))}


async def test_flows_stay_on_their_path_by_choice(world: World) -> None:
    await world.with_routers(11, 12, resilient_multipath=True)
    for router in (11, 12):
        await world.up(router)
        await world.hear(router, [world.cidr(2)], path=[65100, 65002])
    assert [group.is_resilient for group in world.table.groups.values()] == [True]


async def test_a_choice_that_the_kernel_does_not_know_is_complained_of(world: World) -> None:
    world.table.knows_resilient = False
    await world.with_routers(11, resilient_multipath=True)
    assert world.routing.plan is not None
    assert [each.field for each in world.routing.plan.complaints] == ["spec.resilientMultipath"]


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


async def test_changed_rules_judge_what_was_heard_before(world: World) -> None:
    outside = Prefix.parse("198.51.100.0/24" if world.family is Family.IPV4 else "2001:db8:1::/48")
    await world.with_routers(11)
    await world.up(11)
    await world.hear(11, [outside], path=[65100])
    assert world.kernel() == {}
    await world.configure(pod_cidrs=(outside,))
    assert world.kernel() == {outside: (world.hop(11),)}


async def test_a_next_hop_that_cannot_be_reached_is_not_used_until_it_can(world: World) -> None:
    target = (world.host(11), None)
    world.resolver.answers[target] = Resolution((), is_on_link=False, reason="there is no route to it")
    await world.with_routers(11)
    await world.up(11)
    await world.hear(11, [world.cidr(2)], path=[65100, 65002])
    assert world.kernel() == {}
    del world.resolver.answers[target]
    world.monitor.tell(ForeignRouteChanged(Prefix.of_host(world.host(11))))
    await world.settle()
    assert world.kernel() == {world.cidr(2): (world.hop(11),)}


async def test_when_a_link_dies_the_other_hop_is_left_and_comes_back_with_it(world: World) -> None:
    down = Resolution((), is_on_link=False, reason="the link eth1 is down")
    world.resolver.answers[world.host(12), None] = Resolution((world.hop(12, 2),), is_on_link=True)
    await world.with_routers(11, 12)
    for router in (11, 12):
        await world.up(router)
        await world.hear(router, [world.cidr(2)], path=[65100, 65002])
    before = world.kernel()
    world.table.link_down(2)
    world.resolver.answers[world.host(12), None] = down
    world.monitor.tell(LinkChanged(2, "eth1", is_up=False))
    await world.settle()
    assert world.kernel() == {world.cidr(2): (world.hop(11),)}
    world.table.link_up(2)
    world.resolver.answers[world.host(12), None] = Resolution((world.hop(12, 2),), is_on_link=True)
    world.monitor.tell(LinkChanged(2, "eth1", is_up=True))
    await world.settle()
    assert world.kernel() == before


async def test_a_route_deleted_by_hand_is_put_back(world: World) -> None:
    await world.configure()
    await world.up(2)
    await world.hear(2, [world.cidr(2)])
    del world.table.routes[world.cidr(2)]
    world.monitor.tell(OwnRouteChanged(world.cidr(2)))
    await world.settle()
    assert world.kernel() == {world.cidr(2): (world.hop(2),)}
    assert world.fib.repaired


@pytest.mark.parametrize("how", ["overflow", "time"])
async def test_what_no_event_told_is_found_by_looking(world: World, how: str) -> None:
    await world.configure()
    await world.up(2)
    await world.hear(2, [world.cidr(2)])
    del world.table.routes[world.cidr(2)]
    if how == "overflow":
        world.monitor.tell(Overflow())
        await world.settle()
    else:
        await world.pass_time(RESYNC_INTERVAL_S)
    assert world.kernel() == {world.cidr(2): (world.hop(2),)}


async def test_what_the_kernel_refuses_is_tried_again(world: World) -> None:
    await world.configure()
    await world.up(2)
    world.table.fail_next(12)
    await world.hear(2, [world.cidr(2)])
    assert world.kernel() == {}
    await world.pass_time(1)
    assert world.kernel() == {world.cidr(2): (world.hop(2),)}


async def test_a_transit_node_passes_on_what_it_hears_and_takes_it_back(world: World) -> None:
    await world.with_routers(11, 12, nodes={"n1": world.node(1, is_transit=True), "n2": world.node(2)})
    for router in (11, 12):
        await world.up(router)
    await world.hear(12, [])
    await world.hear(11, [world.cidr(2)], path=[65100, 65002])
    assert world.speaker.adj_rib_out[world.host(12)][world.cidr(2)].as_path.sequence == (64512, 65100, 65002)
    assert world.cidr(2) not in world.speaker.adj_rib_out[world.host(11)]
    world.speaker.hear(Update(world.host(11), None, withdrawn=(world.cidr(2),)))
    await world.settle()
    assert world.speaker.adj_rib_out[world.host(12)].keys() == {world.cidr(1)}


async def test_a_transit_node_finishes_its_own_rib_only_after_hearing_its_peers(world: World) -> None:
    await world.with_routers(11, 12, nodes={"n1": world.node(1, is_transit=True)})
    for router in (11, 12):
        await world.up(router)
    assert world.speaker.ends_of_rib == []
    for router in (11, 12):
        world.speaker.hear(EndOfRib(world.host(router), world.family))
    await world.settle()
    assert sorted(world.speaker.ends_of_rib, key=str) == [
        (world.host(11), world.family),
        (world.host(12), world.family),
    ]


async def test_an_ordinary_node_is_no_transit(world: World) -> None:
    await world.with_routers(11, 12)
    for router in (11, 12):
        await world.up(router)
    await world.hear(11, [world.cidr(2)], path=[65100, 65002])
    assert world.speaker.adj_rib_out[world.host(12)].keys() == {world.cidr(1)}


async def test_more_prefixes_than_the_maximum_are_counted_and_left_out(world: World) -> None:
    await world.with_routers(11, max_prefixes=2)
    await world.up(11)
    await world.hear(11, [world.cidr(number) for number in (2, 3, 4, 5)], path=[65100, 65002])
    assert len(world.routing.rib.peers()[world.host(11)].received) == 2
    assert world.routing.rib.peers()[world.host(11)].overflow[world.family] == 2


async def test_a_peer_is_asked_again_when_there_is_room_for_what_was_left_out(world: World) -> None:
    await world.with_routers(11, max_prefixes=2)
    await world.up(11)
    await world.hear(11, [world.cidr(number) for number in (2, 3, 4)], path=[65100, 65002])
    assert world.speaker.refreshes == []
    await world.configure(max_prefixes=10)
    assert world.speaker.refreshes == [(world.host(11), world.family)]
    await world.hear(11, [world.cidr(number) for number in (2, 3, 4)], path=[65100, 65002])
    assert len(world.routing.rib.peers()[world.host(11)].received) == 3
    await world.pass_time(100)
    assert len(world.speaker.refreshes) == 1


async def test_an_unchanged_configuration_says_nothing_to_anybody(world: World) -> None:
    await world.configure()
    await world.up(2)
    await world.hear(2, [world.cidr(2)])
    world.speaker.log.clear()
    world.table.written.clear()
    await world.configure()
    assert world.speaker.log == []
    assert [change for change in world.table.written if isinstance(change, PutRoute)] == []


async def test_another_way_to_a_peer_does_not_change_the_session_while_its_own_address_is_there(world: World) -> None:
    await world.with_routers(11)
    before = world.speaker.sessions[world.host(11)]
    world.resolver.sources[world.host(11), None] = world.host(99)
    world.monitor.tell(ForeignRouteChanged(Prefix.of_host(world.host(11))))
    await world.settle()
    assert world.speaker.sessions[world.host(11)] is before
    world.resolver.addresses = {world.host(99)}
    world.monitor.tell(ForeignRouteChanged(Prefix.of_host(world.host(11))))
    await world.settle()
    assert world.speaker.sessions[world.host(11)].local_address == world.host(99)
