"""Whatever happens in whatever order, the kernel ends up with the routes that were asked for."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from felix.faketable import FakeRouteTable
from felix.fib import Fib
from felix.route import NextHop, blackhole, unicast
from felix.routetable import UNKNOWN
from inet.prefix import Prefix

LINKS = (1, 2, 3)
DESTINATIONS = [Prefix.parse(f"10.42.{i}.0/24") for i in range(3)] + [
    Prefix.parse(f"fd42:0:0:{i}::/64") for i in range(3)
]


def hops(links: frozenset[int]) -> tuple[NextHop, ...]:
    """Return next hops that serve both families."""
    return tuple(NextHop(bytes([link] * 16), link) for link in sorted(links))


@dataclass
class Story:
    """A Fib on a table, the wishes so far, and what may happen. Each event's name is a method."""

    table: FakeRouteTable = field(default_factory=FakeRouteTable)
    wishes: dict[Prefix, tuple[NextHop, ...]] = field(default_factory=dict)
    writing: list[asyncio.Task[object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fib = Fib(self.table)

    async def wish(self, destination: Prefix, links: frozenset[int]) -> None:
        self.wishes[destination] = hops(links)
        self.fib.set(unicast(destination, hops(links)) if links else blackhole(destination))

    async def unwish(self, destination: Prefix) -> None:
        self.wishes.pop(destination, None)
        self.fib.remove(destination)

    async def move(self, old: frozenset[int], new: frozenset[int]) -> None:
        for destination, wanted in self.wishes.items():
            if wanted == hops(old):
                self.wishes[destination] = hops(new)
        await self.fib.move(hops(old), hops(new))

    async def link_down(self, link: int) -> None:
        self.table.link_down(link)
        self.fib.link_changed(link)

    async def link_up(self, link: int) -> None:
        self.table.link_up(link)
        self.fib.link_changed(link)

    async def delete_route(self, destination: Prefix) -> None:
        self.table.routes.pop(destination, None)
        self.fib.route_changed(destination)

    async def change_route(self, destination: Prefix) -> None:
        self.table.routes[destination] = UNKNOWN
        self.fib.route_changed(destination)

    async def delete_groups(self) -> None:
        for number in list(self.table.groups):
            self.table._drop_group(number)
        self.fib.next_hops_changed()

    async def change_groups(self) -> None:
        for number, group in self.table.groups.items():
            self.table.groups[number] = group._replace(next_hops=hops(frozenset([2])))
        self.fib.next_hops_changed()

    async def fault(self, number: int, times: int) -> None:
        self.table.fail_next(number, times)

    async def apply(self) -> None:
        await self.fib.apply()

    async def begin_apply(self) -> None:
        """Let what comes next happen in the middle of a write."""
        self.writing.append(asyncio.create_task(self.fib.apply()))
        await asyncio.sleep(0)

    async def turn(self) -> None:
        await asyncio.sleep(0)

    async def resync(self) -> None:
        await self.fib.resync()

    async def restart(self) -> None:
        """Start a new life, which asks for the same again before it lets go of what it found."""
        await self.settle()
        self.fib = Fib(self.table)
        await self.fib.adopt()
        await self.fib.apply()
        for destination, wanted in self.wishes.items():
            self.fib.set(unicast(destination, wanted) if wanted else blackhole(destination))
        await self.fib.apply()
        await self.fib.release()

    async def settle(self) -> None:
        await asyncio.gather(*self.writing)
        self.writing.clear()

    async def end_well(self) -> None:
        """Take away every obstacle, and see that the Fib gets there."""
        await self.settle()
        self.table._faults.clear()
        for link in LINKS:
            await self.link_up(link)
        await self.fib.apply()
        self.fib.guard.confirm()
        self.fib.retry()
        await self.fib.apply()
        assert self.fib.errors == {}
        assert self.table.next_hops() == self.wishes
        assert self.fib.pending == 0
        assert set(self.table.groups) == set(self.table.routes.values()) - {-1}
        self.table.written.clear()
        await self.fib.resync()
        await self.fib.apply()
        assert self.table.written == []


Event = tuple[Callable[..., Awaitable[None]], tuple[object, ...]]


def event(method: Callable[..., Awaitable[None]], *arguments: st.SearchStrategy[object]) -> st.SearchStrategy[Event]:
    return st.tuples(st.just(method), st.tuples(*arguments))


DESTINATION = st.sampled_from(DESTINATIONS)
LINK = st.sampled_from(LINKS)
SOME_LINKS = st.frozensets(LINK, min_size=1)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    event(Story.wish, DESTINATION, st.frozensets(LINK)),
    event(Story.unwish, DESTINATION),
    event(Story.move, SOME_LINKS, SOME_LINKS),
    event(Story.link_down, LINK),
    event(Story.link_up, LINK),
    event(Story.delete_route, DESTINATION),
    event(Story.change_route, DESTINATION),
    event(Story.delete_groups),
    event(Story.change_groups),
    event(Story.fault, st.sampled_from([errno.ENOMEM, errno.EEXIST, errno.EBUSY, errno.EINVAL]), st.integers(1, 3)),
    event(Story.apply),
    event(Story.begin_apply),
    event(Story.turn),
    event(Story.resync),
    event(Story.restart),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(EVENTS, max_size=30))
def test_the_kernel_ends_up_with_what_was_asked_for(events: list[Event]) -> None:
    async def tell() -> None:
        story = Story()
        for method, arguments in events:
            await method(story, *arguments)
        await story.end_well()

    asyncio.run(tell())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(DESTINATION, st.frozensets(LINK)), max_size=8), st.randoms(use_true_random=False))
def test_wishes_in_any_order_end_in_the_same_routes(
    wishes: list[tuple[Prefix, frozenset[int]]], random: object
) -> None:
    last = dict(wishes)

    async def tell(order: list[tuple[Prefix, frozenset[int]]]) -> dict[Prefix, tuple[NextHop, ...]]:
        story = Story()
        for destination, links in order:
            await story.wish(destination, links)
            await story.begin_apply()
        await story.end_well()
        return story.table.next_hops()

    shuffled = list(last.items())
    random.shuffle(shuffled)
    assert asyncio.run(tell(wishes)) == asyncio.run(tell(shuffled))
