"""Destinations, next hops and routes for the table in memory: number `i` of each, on link `i`, in either family."""

from __future__ import annotations

from felix.fib import Fib
from felix.route import NextHop, Route, blackhole, unicast
from inet.prefix import Family, Prefix


def prefix(family: Family, i: int) -> Prefix:
    return Prefix.parse(f"10.42.{i}.0/24" if family is Family.IPV4 else f"fd42:0:0:{i}::/64")


def hop(family: Family, i: int) -> NextHop:
    return NextHop(bytes([i] * (family.bits // 8)), i)


def hops(family: Family, *links: int) -> tuple[NextHop, ...]:
    return tuple(hop(family, i) for i in sorted(links))


def route(family: Family, i: int, *links: int) -> Route:
    return unicast(prefix(family, i), hops(family, *links)) if links else blackhole(prefix(family, i))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def set_all(fib: Fib, *routes: Route) -> None:
    for each in routes:
        fib.set(each)
    assert await fib.apply() == []
