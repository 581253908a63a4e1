from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from agent.parting import PARTING_S
from agent.routing import RESYNC_INTERVAL_S
from bgp.config import BgpConfig, Node, NodeRoutes
from bgp.speaker import EndOfRib, Update
from felix.monitor import AddressChanged, ForeignRouteChanged, LinkChanged, Overflow, OwnRouteChanged
from felix.resolver import Doubts, Resolution, Target
from felix.routetable import BLACKHOLE, Form, PutRoute
from inet.prefix import Family, Prefix
from policy.nftskeleton import POD_INTERFACE_GROUP
from tests.agent.routing_world import World


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
    assert [group.form for group in world.table.groups.values()] == [Form.RESILIENT]


async def test_a_choice_that_the_kernel_does_not_know_is_complained_of(world: World) -> None:
    world.table.knows_resilient = False
    await world.with_routers(11, resilient_multipath=True)
    assert world.routing.plan is not None
    assert [each.field for each in world.routing.plan.complaints] == ["spec.resilientMultipath"]


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


async def test_a_pods_link_is_no_reason_to_look_unless_it_leads_to_a_next_hop(world: World) -> None:
    await world.with_routers(11)
    await world.up(11)
    await world.hear(11, [world.cidr(2)], path=[65100, 65002])
    looks = count_looks(world)
    world.monitor.tell(LinkChanged(9, "veth9", is_up=True, is_new=True), AddressChanged(9))
    world.monitor.tell(LinkChanged(9, "veth9", is_up=True, group=POD_INTERFACE_GROUP))
    world.monitor.tell(ForeignRouteChanged(Prefix.of_host(world.host(77)), 9, POD_INTERFACE_GROUP))
    await world.settle()
    await world.pass_time(5)
    assert looks == []
    world.monitor.tell(ForeignRouteChanged(Prefix.of_host(world.host(11)), 9, POD_INTERFACE_GROUP))
    await world.settle()
    assert len(looks) == 1


def count_looks(world: World) -> list[object]:
    """Return a list that grows whenever all next hops are looked up again."""
    looks: list[object] = []
    refresh = world.resolver.refresh

    async def counted(doubts: Doubts) -> dict[Target, Resolution]:
        looks.append(None)
        return await refresh(doubts)

    world.resolver.refresh = counted  # type: ignore[method-assign]  # to hear of it
    return looks


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


async def test_a_route_that_a_new_node_makes_one_to_pods_gets_their_mtu_at_once(world: World) -> None:
    cluster = Prefix.parse("10.42.0.0/16" if world.family is Family.IPV4 else "fd42::/48")
    await world.with_routers(8, pod_cidrs=(cluster,))
    await world.up(8)
    await world.hear(8, [world.cidr(4)], path=[65100])
    world.routing.set_pod_mtu(1400)
    await world.settle()
    assert world.cidr(4) in world.kernel()
    assert world.table.mtus.get(world.cidr(4), 0) == 0
    await world.configure(nodes={**world.config.nodes, "n4": world.node(4)})
    assert world.table.mtus[world.cidr(4)] == 1400
    await world.configure(nodes={name: node for name, node in world.config.nodes.items() if name != "n4"})
    assert world.table.mtus.get(world.cidr(4), 0) == 0


@pytest.mark.parametrize("is_newer_first", [True, False], ids=["newer-first", "older-first"])
async def test_the_end_of_a_parting_brings_no_older_configuration_back(
    world: World, monkeypatch: pytest.MonkeyPatch, *, is_newer_first: bool
) -> None:
    await world.with_routers(11)
    await world.configure(node_routes=NodeRoutes.DIRECT)
    look, held = world.routing._local_addresses.look, list[asyncio.Event]()

    async def hold(config: BgpConfig, node: Node) -> bool:
        held.append(asyncio.Event())
        await held[-1].wait()
        return await look(config, node)

    async def pass_turns() -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    monkeypatch.setattr(world.routing._local_addresses, "look", hold)
    newer = replace(world.config, peerings=())
    taking_over = world.routing.configure(newer, newer.nodes["n1"])
    if is_newer_first:
        configuring = asyncio.create_task(taking_over)
        await pass_turns()
    world.time += PARTING_S
    world.routing.wake()
    await pass_turns()
    if not is_newer_first:
        configuring = asyncio.create_task(taking_over)
        await pass_turns()
    for let_go in held if is_newer_first else reversed(held):
        let_go.set()
        await pass_turns()
    monkeypatch.setattr(world.routing._local_addresses, "look", look)
    while not configuring.done() or not all(each.is_set() for each in held):
        for let_go in held:
            let_go.set()
        await pass_turns()
    await world.settle()
    assert world.speaker.sessions == {}
    assert world.routing.peers == {}
