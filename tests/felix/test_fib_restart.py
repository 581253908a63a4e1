"""The Fib after a restart: what a former life left behind, until it is claimed or may go."""

from __future__ import annotations

from felix.faketable import FakeRouteTable
from felix.fib import Fib
from felix.installed import State
from felix.routetable import UNKNOWN, DropRoute, PutGroup, PutRoute
from inet.prefix import Family
from tests.felix.routes import Clock, hops, prefix, route, set_all


async def restarted(table: FakeRouteTable, clock: Clock | None = None) -> Fib:
    table.written.clear()
    fib = Fib(table, clock=clock or Clock())
    await fib.adopt()
    return fib


async def test_a_restart_with_the_same_routes_writes_nothing(fib: Fib, table: FakeRouteTable, family: Family) -> None:
    routes = [route(family, 1, 1, 2), route(family, 2, 1, 2), route(family, 3, 1), route(family, 4)]
    await set_all(fib, *routes)
    fib = await restarted(table)
    assert (await fib.apply(), fib.count, fib.pending) == ([], 4, 0)
    await set_all(fib, *routes)
    await fib.release()
    await fib.apply()
    assert table.written == []
    assert fib.pending == 0


async def test_before_the_release_only_new_destinations_are_written(
    fib: Fib, table: FakeRouteTable, family: Family
) -> None:
    await set_all(fib, route(family, 1, 1), route(family, 2, 1), route(family, 3, 1), route(family, 4, 1))
    before = table.next_hops()
    fib = await restarted(table)
    fib.set(route(family, 1, 2))
    fib.set(route(family, 2))
    fib.set(route(family, 3, 2))
    fib.remove(prefix(family, 3))
    fib.set(route(family, 9, 2))
    await fib.apply()
    assert table.next_hops() == before | {prefix(family, 9): hops(family, 2)}
    await fib.release()
    await fib.apply()
    assert table.next_hops() == {
        prefix(family, 1): hops(family, 2),
        prefix(family, 2): (),
        prefix(family, 9): hops(family, 2),
    }


async def test_before_the_release_a_move_takes_adopted_routes_along(
    fib: Fib, table: FakeRouteTable, family: Family
) -> None:
    await set_all(fib, route(family, 1, 1), route(family, 2, 1))
    fib = await restarted(table)
    fib.set(route(family, 1, 1))
    fib.set(route(family, 9, 1))
    await fib.apply()
    table.written.clear()
    await fib.move(hops(family, 1), hops(family, 2))
    assert table.next_hops() == dict.fromkeys(
        (prefix(family, 1), prefix(family, 2), prefix(family, 9)), hops(family, 2)
    )
    assert len(table.written) == 1
    await fib.release()
    await fib.apply()
    assert table.next_hops() == {prefix(family, 1): hops(family, 2), prefix(family, 9): hops(family, 2)}


async def test_before_the_release_a_move_from_one_next_hop_to_several_takes_adopted_routes_along(
    fib: Fib, table: FakeRouteTable, family: Family
) -> None:
    await set_all(fib, route(family, 1, 1), route(family, 2, 1))
    fib = await restarted(table)
    fib.set(route(family, 1, 1))
    await fib.move(hops(family, 1), hops(family, 1, 2))
    await fib.apply()
    assert table.next_hops() == dict.fromkeys((prefix(family, 1), prefix(family, 2)), hops(family, 1, 2))
    await fib.release()
    await fib.apply()
    assert table.next_hops() == {prefix(family, 1): hops(family, 1, 2)}


async def test_groups_of_one_next_hop_are_kept_and_routes_on_them_grow_in_place(
    fib: Fib, table: FakeRouteTable, family: Family
) -> None:
    await set_all(fib, route(family, 1, 1, 2), route(family, 2, 1, 2))
    await fib.move(hops(family, 1, 2), hops(family, 1))
    fib = await restarted(table)
    await set_all(fib, route(family, 1, 1), route(family, 2, 1))
    await fib.release()
    assert (await fib.apply(), table.written) == ([], [])
    await fib.move(hops(family, 1), hops(family, 1, 2))
    assert [type(change) for change in table.written] == [PutGroup]
    assert set(table.next_hops().values()) == {hops(family, 1, 2)}
    assert fib.pending == 0


async def test_before_the_release_a_flapped_link_is_repaired(fib: Fib, table: FakeRouteTable, family: Family) -> None:
    await set_all(fib, route(family, 1, 1), route(family, 2, 1, 2))
    before = table.next_hops()
    fib = await restarted(table)
    table.link_down(1)
    fib.link_changed(1)
    await fib.apply()
    table.link_up(1)
    fib.link_changed(1)
    await fib.apply()
    assert table.next_hops() == before


async def test_a_route_of_a_shape_we_never_write_is_adopted_and_put_right_after_the_release(
    table: FakeRouteTable, family: Family
) -> None:
    table.routes = {prefix(family, 1): UNKNOWN, prefix(family, 2): UNKNOWN}
    fib = await restarted(table)
    fib.set(route(family, 1, 1))
    await fib.apply()
    assert not [change for change in table.written if isinstance(change, PutRoute | DropRoute)]
    await fib.release()
    await fib.apply()
    assert table.routes.keys() == {prefix(family, 1)}
    assert table.next_hops() == {prefix(family, 1): hops(family, 1)}


async def left_behind(table: FakeRouteTable, family: Family, clock: Clock) -> Fib:
    """Return a Fib after a restart and release in which 2 of 10 routes were claimed."""
    former = Fib(table, clock=clock)
    await set_all(former, *(route(family, i, 1) for i in range(10)))
    fib = await restarted(table, clock)
    await set_all(fib, route(family, 0, 1), route(family, 1, 1))
    await fib.release()
    await fib.apply()
    return fib


async def test_a_prune_of_most_routes_is_held_back_until_confirmed(
    table: FakeRouteTable, clock: Clock, family: Family
) -> None:
    fib = await left_behind(table, family, clock)
    assert len(table.routes) == 10
    assert fib.guard.held is not None
    assert (fib.guard.held.removals, fib.guard.held.total) == (8, 10)
    held = [line for line in await fib.installed() if line.state is State.PENDING]
    assert {line.reason for line in held} == {"removal held back: 8 of 10 routes at once"}
    fib.guard.confirm()
    await fib.apply()
    assert set(table.routes) == {prefix(family, 0), prefix(family, 1)}
    assert fib.pending == 0


async def test_a_prune_that_was_held_back_passes_after_the_first_minutes(
    table: FakeRouteTable, clock: Clock, family: Family
) -> None:
    fib = await left_behind(table, family, clock)
    clock.now += 300
    await fib.apply()
    assert len(table.routes) == 2


async def test_a_held_route_that_is_set_after_all_stays(table: FakeRouteTable, clock: Clock, family: Family) -> None:
    fib = await left_behind(table, family, clock)
    table.written.clear()
    await set_all(fib, *(route(family, i, 1) for i in range(10)))
    assert table.written == []
    assert (await fib.apply(), fib.guard.held, fib.pending) == ([], None, 0)


async def test_leftovers_are_told_from_claimed_routes(fib: Fib, table: FakeRouteTable, family: Family) -> None:
    await set_all(fib, route(family, 1, 1), route(family, 2, 1))
    fib = await restarted(table)
    fib.set(route(family, 1, 1))
    assert [line.is_claimed for line in await fib.installed()] == [True, False]
