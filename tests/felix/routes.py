"""Destinations and next hops for the route table in memory: number `i` of each, on link `i`, in either family."""

from __future__ import annotations

from felix.route import NextHop
from inet.prefix import Family, Prefix


def prefix(family: Family, i: int) -> Prefix:
    return Prefix.parse(f"10.42.{i}.0/24" if family is Family.IPV4 else f"fd42:0:0:{i}::/64")


def hop(family: Family, i: int) -> NextHop:
    return NextHop(bytes([i] * (family.bits // 8)), i)


def hops(family: Family, *links: int) -> tuple[NextHop, ...]:
    return tuple(hop(family, i) for i in sorted(links))
