"""The Fib against the route table in memory: what is written, and what is not."""

from __future__ import annotations

import asyncio
import errno

import pytest

from felix.faketable import FakeRouteTable
from felix.fib import Fib
from felix.guard import MassDeleteGuard
from felix.installed import State
from felix.route import METRIC, Kind, unicast
from felix.routetable import BLACKHOLE, UNKNOWN, DropGroup, DropRoute, Form, Group, PutGroup, PutRoute, Rival
from inet.prefix import Family, Prefix
from tests.felix.routes import Clock, hops, prefix, route, set_all


async def test_routes_with_the_same_next_hops_share_a_group(fib: Fib, table: FakeRouteTable, family: Family) -> None:
    await set_all(fib, route(family, 1, 1, 2), route(family, 2, 1, 2), route(family, 3, 1), route(family, 4))
    assert table.next_hops() == {
        prefix(family, 1): hops(family, 1, 2),
        prefix(family, 2): hops(family, 1, 2),
        prefix(family, 3): hops(family, 1),
        prefix(family, 4): (),
    }
    assert len(table.groups) == 2
    assert (fib.pending, fib.count) == (0, 4)


async def test_families_have_groups_of_their_own(fib: Fib, table: FakeRouteTable) -> None:
    through = hops(Family.IPV6, 1)
    await set_all(fib, unicast(prefix(Family.IPV4, 1), through), unicast(prefix(Family.IPV6, 1), through))
    assert sorted(table.groups.values(), key=lambda group: group.family) == [
        Group(family, through, Form.SINGLE) for family in Family
    ]


async def test_nothing_is_written_twice(fib: Fib, table: FakeRouteTable, family: Family) -> None:
    await set_all(fib, route(family, 1, 1, 2), route(family, 2))
    table.written.clear()
    await set_all(fib, route(family, 1, 1, 2), route(family, 2))
    assert table.written == []


async def test_the_last_word_counts(fib: Fib, table: FakeRouteTable, family: Family) -> None:
    fib.set(route(family, 1, 1))
    fib.set(route(family, 1, 2))
    fib.remove(prefix(family, 2))
    fib.set(route(family, 3))
    fib.remove(prefix(family, 3))
    await fib.apply()
    assert table.next_hops() == {prefix(family, 1): hops(family, 2)}
    assert [type(change) for change in table.written] == [PutGroup, PutRoute]


async def test_new_routes_come_before_removals_and_groups_go_last(
    fib: Fib, table: FakeRouteTable, family: Family
) -> None:
    await set_all(fib, route(family, 1, 1))
    table.written.clear()
    fib.remove(prefix(family, 1))
    fib.set(route(family, 2, 2))
    await fib.apply()
    assert [type(change).__name__ for change in table.written] == ["PutGroup", "PutRoute", "DropRoute", "DropGroup"]


async def test_a_moved_group_is_one_write_however_many_routes(fib: Fib, table: FakeRouteTable, family: Family) -> None:
    many = [route(family, i, 1, 2) for i in range(200)]
    await set_all(fib, *many)
    table.written.clear()
    await fib.move(hops(family, 1, 2), hops(family, 2))
    assert [type(change) for change in table.written] == [PutGroup]
    assert set(table.next_hops().values()) == {hops(family, 2)}
    await set_all(fib, *(route(family, i, 2) for i in range(200)))
    assert len(table.written) == 1


async def test_two_groups_may_come_to_hold_the_same_and_part_again(
    fib: Fib, table: FakeRouteTable, family: Family
) -> None:
    await set_all(fib, route(family, 1, 1, 2), route(family, 2, 2))
    await fib.move(hops(family, 1, 2), hops(family, 2))
    assert len(table.groups) == 2
    table.written.clear()
    await set_all(fib, route(family, 1, 2), route(family, 2, 2))
    assert table.written == []
    await fib.move(hops(family, 2), hops(family, 1))
    assert set(table.next_hops().values()) == {hops(family, 1)}
    await set_all(fib, route(family, 1, 1, 2))
    assert table.next_hops() == {prefix(family, 1): hops(family, 1, 2), prefix(family, 2): hops(family, 1)}
    assert fib.pending == 0


async def test_moving_what_no_route_uses_writes_nothing(fib: Fib, table: FakeRouteTable, family: Family) -> None:
    await fib.move(hops(family, 1), hops(family, 2))
    assert table.written == []


async def test_a_refused_route_is_reported_once_and_written_when_retried(
    fib: Fib, table: FakeRouteTable, family: Family
) -> None:
    await set_all(fib, route(family, 9))
    fib.set(route(family, 1))
    table.fail_next(errno.ENOMEM)
    (error,) = await fib.apply()
    assert (error.destination, error.errno) == (prefix(family, 1), errno.ENOMEM)
    assert await fib.apply() == []
    assert (fib.pending, fib.errors) == (1, {prefix(family, 1): error})
    fib.retry()
    assert await fib.apply() == []
    assert (fib.pending, fib.errors) == (0, {})


async def test_another_wish_for_a_refused_route_is_tried_at_once(
    fib: Fib, table: FakeRouteTable, family: Family
) -> None:
    fib.set(route(family, 1))
    table.fail_next(errno.ENOMEM)
    await fib.apply()
    await set_all(fib, route(family, 1, 1))
    assert fib.errors == {}


async def test_a_refused_group_keeps_its_routes_out_until_retried(
    fib: Fib, table: FakeRouteTable, family: Family
) -> None:
    fib.set(route(family, 1, 1))
    table.fail_next(errno.ENOMEM)
    assert await fib.apply() == []
    assert fib.errors[prefix(family, 1)].errno == errno.ENOMEM
    fib.retry()
    await fib.apply()
    assert table.next_hops() == {prefix(family, 1): hops(family, 1)}


async def test_a_refused_removal_is_retried(fib: Fib, table: FakeRouteTable, family: Family) -> None:
    await set_all(fib, route(family, 1))
    fib.remove(prefix(family, 1))
    table.fail_next(errno.EBUSY)
    (error,) = await fib.apply()
    assert error.errno == errno.EBUSY
    fib.retry()
    await fib.apply()
    assert table.routes == {}
    assert (fib.pending, fib.errors) == (0, {})


async def test_a_dead_link_leaves_the_group_and_comes_back(fib: Fib, table: FakeRouteTable, family: Family) -> None:
    await set_all(fib, route(family, 1, 1, 2))
    table.link_down(1)
    table.written.clear()
    fib.link_changed(1)
    await fib.apply()
    assert table.next_hops() == {prefix(family, 1): hops(family, 2)}
    assert fib.pending == 1
    table.link_up(1)
    fib.link_changed(1)
    await fib.apply()
    assert table.next_hops() == {prefix(family, 1): hops(family, 1, 2)}
    assert fib.pending == 0
    assert not [change for change in table.written if isinstance(change, PutRoute | DropRoute)]


async def test_routes_lost_with_their_last_hop_return_with_the_link(
    fib: Fib, table: FakeRouteTable, family: Family
) -> None:
    await set_all(fib, route(family, 1, 1), route(family, 2, 1), route(family, 3, 2))
    table.link_down(1)
    fib.link_changed(1)
    await fib.apply()
    assert set(table.routes) == {prefix(family, 3)}
    assert fib.errors[prefix(family, 1)].errno == errno.ENETDOWN
    assert "next hop" in fib.errors[prefix(family, 1)].message
    table.link_up(1)
    fib.link_changed(1)
    await fib.apply()
    assert set(table.routes) == {prefix(family, i) for i in (1, 2, 3)}
    assert (fib.pending, fib.errors) == (0, {})


async def test_a_flap_that_nobody_saw_is_repaired_by_the_next_news(
    fib: Fib, table: FakeRouteTable, family: Family
) -> None:
    await set_all(fib, route(family, 1, 1), route(family, 2, 1, 2))
    table.link_down(1)
    table.link_up(1)
    fib.link_changed(1)
    await fib.apply()
    assert table.next_hops() == {prefix(family, 1): hops(family, 1), prefix(family, 2): hops(family, 1, 2)}


async def test_news_of_a_link_without_next_hops_costs_nothing(fib: Fib, table: FakeRouteTable, family: Family) -> None:
    await set_all(fib, route(family, 1, 1))

    async def unexpected() -> dict[int, Group]:
        raise AssertionError

    table.dump_groups = unexpected
    fib.link_changed(7)
    await fib.apply()


async def test_a_group_moved_to_a_dead_link_takes_its_routes_out(
    fib: Fib, table: FakeRouteTable, family: Family
) -> None:
    await set_all(fib, route(family, 1, 1))
    table.link_down(2)
    await fib.move(hops(family, 1), hops(family, 2))
    await fib.apply()
    assert table.next_hops() == {}
    table.link_up(2)
    fib.link_changed(2)
    await fib.apply()
    assert table.next_hops() == {prefix(family, 1): hops(family, 2)}


async def test_a_route_deleted_by_hand_is_put_back(fib: Fib, table: FakeRouteTable, family: Family) -> None:
    await set_all(fib, route(family, 1, 1), route(family, 2))
    for i in (1, 2):
        del table.routes[prefix(family, i)]
        fib.route_changed(prefix(family, i))
    await fib.apply()
    assert table.next_hops() == {prefix(family, 1): hops(family, 1), prefix(family, 2): ()}
    assert fib.repaired == 2


async def test_a_route_changed_by_hand_is_put_right(fib: Fib, table: FakeRouteTable, family: Family) -> None:
    await set_all(fib, route(family, 1, 1), route(family, 2))
    table.routes = {prefix(family, 1): UNKNOWN, prefix(family, 2): UNKNOWN}
    for i in (1, 2):
        fib.route_changed(prefix(family, i))
    assert await fib.apply() == []
    assert table.next_hops() == {prefix(family, 1): hops(family, 1), prefix(family, 2): ()}


async def test_a_route_led_by_hand_to_another_group_with_the_same_hops_is_good_as_it_is(
    fib: Fib, table: FakeRouteTable, family: Family
) -> None:
    await set_all(fib, route(family, 1, 1, 2), route(family, 2, 2))
    await fib.move(hops(family, 1, 2), hops(family, 2))
    table.routes[prefix(family, 1)] = table.routes[prefix(family, 2)]
    table.written.clear()
    await fib.resync()
    await fib.apply()
    assert [type(change) for change in table.written] == [DropGroup]
    await fib.move(hops(family, 2), hops(family, 1))
    assert set(table.next_hops().values()) == {hops(family, 1)}


@pytest.mark.parametrize("is_wanted", [True, False])
async def test_a_change_by_hand_in_the_middle_of_a_write_is_not_overlooked(
    fib: Fib, table: FakeRouteTable, family: Family, is_wanted: bool
) -> None:
    here = prefix(family, 1)
    if is_wanted:
        fib.set(route(family, 1))
    else:
        await set_all(fib, route(family, 1))
        fib.remove(here)
    writing = asyncio.create_task(fib.apply())
    while (here in table.routes) is not is_wanted:  # noqa: ASYNC110 - turn by turn, into the middle of it
        await asyncio.sleep(0)
    if is_wanted:
        del table.routes[here]
    else:
        table.routes[here] = UNKNOWN
    fib.route_changed(here)
    await writing
    await fib.apply()
    assert (here in table.routes) is is_wanted
    assert fib.pending == 0


async def test_a_change_by_hand_in_the_middle_of_a_dump_is_not_overlooked(
    fib: Fib, table: FakeRouteTable, family: Family
) -> None:
    here, stray = prefix(family, 1), prefix(family, 2)
    await set_all(fib, route(family, 1))
    real = table.dump_routes

    async def overtaken() -> dict[Prefix, int]:
        routes = await real()
        del table.routes[here]
        table.routes[stray] = UNKNOWN
        for changed in (here, stray):
            fib.route_changed(changed)
        return routes

    table.dump_routes = overtaken
    await fib.resync()
    table.dump_routes = real
    await fib.apply()
    assert set(table.routes) == {here}


async def test_groups_deleted_or_changed_by_hand_are_put_right(fib: Fib, table: FakeRouteTable, family: Family) -> None:
    await set_all(fib, route(family, 1, 1), route(family, 2, 1, 2))
    wanted = table.next_hops()
    gone, changed = table.routes[prefix(family, 1)], table.routes[prefix(family, 2)]
    table._drop_group(gone)
    table.groups[changed] = Group(family, hops(family, 3))
    table.groups[77] = Group(family, hops(family, 4))
    fib.next_hops_changed()
    await fib.apply()
    assert table.next_hops() == wanted
    assert 77 not in table.groups


async def test_a_loss_that_a_write_stumbles_over_is_repaired_at_once(
    fib: Fib, table: FakeRouteTable, family: Family
) -> None:
    await set_all(fib, route(family, 1, 1), route(family, 2, 2), route(family, 3, 2))
    del table.routes[prefix(family, 1)]
    table._drop_group(table.routes[prefix(family, 2)])
    await set_all(fib, route(family, 1, 2), route(family, 4, 2))
    assert table.next_hops() == {prefix(family, i): hops(family, 2) for i in (1, 2, 3, 4)}
    assert fib.pending == 0


async def test_a_resync_repairs_what_no_event_told(fib: Fib, table: FakeRouteTable, family: Family) -> None:
    await set_all(fib, route(family, 1, 1), route(family, 2, 1, 2), route(family, 3))
    wanted = table.next_hops()
    table._drop_group(table.routes[prefix(family, 1)])
    table.routes[prefix(family, 3)] = UNKNOWN
    table.routes[prefix(family, 4)] = BLACKHOLE  # of our protocol: ours, but nobody wants it
    await fib.resync()
    await fib.apply()
    assert table.next_hops() == wanted
    assert fib.pending == 0


async def test_a_dump_that_fails_is_taken_by_the_next_apply(fib: Fib, table: FakeRouteTable, family: Family) -> None:
    await set_all(fib, route(family, 1))
    table.routes.clear()
    real = table.dump_routes

    async def fails() -> dict[Prefix, int]:
        raise OSError(errno.ENOBUFS, "No buffer space available")

    table.dump_routes = fails
    with pytest.raises(OSError, match="buffer"):
        await fib.resync()
    table.dump_routes = real
    await fib.apply()
    assert table.next_hops() == {prefix(family, 1): ()}


async def test_a_dump_that_is_cancelled_is_taken_by_the_next_apply(
    fib: Fib, table: FakeRouteTable, family: Family
) -> None:
    await set_all(fib, route(family, 1))
    table.routes.clear()
    looking = asyncio.create_task(fib.resync())
    await asyncio.sleep(0)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    await fib.apply()
    assert table.next_hops() == {prefix(family, 1): ()}


async def test_a_foreign_route_with_our_metric_is_a_conflict_until_it_goes(
    fib: Fib, table: FakeRouteTable, family: Family
) -> None:
    table.foreign[prefix(family, 1)] = Rival(METRIC, 4)
    fib.set(route(family, 1, 1))
    fib.set(route(family, 2, 1))
    (error,) = await fib.apply()
    assert (error.destination, error.errno) == (prefix(family, 1), errno.EEXIST)
    assert set(table.routes) == {prefix(family, 2)}
    table.written.clear()
    await fib.apply()
    assert table.written == []
    dumps = table.dumps
    fib.retry()
    await fib.apply()
    assert table.dumps == dumps  # it is known not to be ours
    del table.foreign[prefix(family, 1)]
    fib.route_changed(prefix(family, 1))
    assert await fib.apply() == []
    assert set(table.routes) == {prefix(family, 1), prefix(family, 2)}


async def test_what_was_asked_for_in_this_life_is_removed_at_once(
    fib: Fib, table: FakeRouteTable, family: Family
) -> None:
    await set_all(fib, *(route(family, i, 1) for i in range(10)))
    for i in range(10):
        fib.remove(prefix(family, i))
    await fib.apply()
    assert table.routes == {}
    assert table.groups == {}


async def test_installed_routes_say_how_they_stand(
    fib: Fib, table: FakeRouteTable, clock: Clock, family: Family
) -> None:
    table.link_down(3)
    await set_all(fib, route(family, 1, 1, 2), route(family, 2), route(family, 3, 1))
    clock.now = 2000.0
    table.foreign[prefix(family, 3)] = Rival(100, 4)
    fib.set(route(family, 4, 3))
    fib.set(route(family, 5, 1, 3))
    await fib.apply()
    fib.set(route(family, 6))
    one, two, three, four, five, six = await fib.installed()
    assert (one.state, one.kind, one.next_hops, one.since) == (
        State.IN_KERNEL,
        Kind.UNICAST,
        hops(family, 1, 2),
        1000.0,
    )
    assert (two.state, two.kind, two.next_hops) == (State.IN_KERNEL, Kind.BLACKHOLE, ())
    assert (three.state, three.rival) == (State.SHADOWED, Rival(100, 4))
    assert (four.state, four.since) == (State.REFUSED, None)
    assert "Network is down" in four.reason
    assert (five.state, five.next_hops, five.since) == (State.IN_KERNEL, hops(family, 1), 2000.0)
    assert (six.state, six.reason) == (State.PENDING, "")


async def test_installed_routes_are_sorted_by_family_then_address(fib: Fib) -> None:
    routes = [route(Family.IPV6, 1, 1), route(Family.IPV4, 2, 1), route(Family.IPV4, 1), route(Family.IPV6, 0)]
    await set_all(fib, *routes)
    assert [line.destination for line in await fib.installed()] == [
        *(prefix(Family.IPV4, i) for i in (1, 2)),
        *(prefix(Family.IPV6, i) for i in (0, 1)),
    ]


async def test_a_guard_can_be_shared(table: FakeRouteTable, clock: Clock) -> None:
    guard = MassDeleteGuard(started=clock())
    assert Fib(table, clock=clock, guard=guard).guard is guard


async def test_routes_say_an_mtu_where_they_are_to_and_follow_when_it_changes(
    fib: Fib, table: FakeRouteTable, family: Family
) -> None:
    await set_all(fib, route(family, 1, 1, 2), route(family, 2, 1), route(family, 3))
    for mtu in (1450, 1400, 0):
        table.written.clear()
        await fib.choose_mtu(lambda destination, mtu=mtu: 0 if destination == prefix(family, 2) else mtu)
        await fib.apply()
        assert table.mtus == ({prefix(family, 1): mtu} if mtu else {}), "a blackhole has none"
        ((written,), number) = (table.written, table.routes[prefix(family, 1)])
        assert written == PutRoute(prefix(family, 1), number, is_new=False, mtu=mtu), "replaced in place"
    assert fib.repaired == 0


async def test_a_route_that_comes_later_says_it_from_the_beginning(
    fib: Fib, table: FakeRouteTable, family: Family
) -> None:
    await fib.choose_mtu(lambda _: 1450)
    await set_all(fib, route(family, 1, 1))
    assert table.mtus == {prefix(family, 1): 1450}
    table.written.clear()
    await fib.choose_mtu(lambda _: 1450)
    await fib.apply()
    assert table.written == []


async def test_an_mtu_that_somebody_changed_is_put_back(fib: Fib, table: FakeRouteTable, family: Family) -> None:
    await fib.choose_mtu(lambda _: 1450)
    await set_all(fib, route(family, 1, 1))
    table.mtus[prefix(family, 1)] = 9000
    await fib.resync()
    await fib.apply()
    assert table.mtus == {prefix(family, 1): 1450}
    assert fib.repaired == 1


async def test_after_a_restart_routes_keep_their_mtu_until_they_are_free(table: FakeRouteTable, family: Family) -> None:
    before = Fib(table)
    await before.choose_mtu(lambda _: 1450)
    await set_all(before, route(family, 1, 1), route(family, 2, 1))
    table.written.clear()
    fib = Fib(table)
    await fib.adopt()
    await fib.choose_mtu(lambda _: 0)  # tunnels are not known yet
    await set_all(fib, route(family, 1, 1), route(family, 2, 1))
    assert table.written == []
    await fib.choose_mtu(lambda _: 1450)
    await fib.release()
    await fib.apply()
    assert table.written == []
    assert table.mtus == {prefix(family, 1): 1450, prefix(family, 2): 1450}
