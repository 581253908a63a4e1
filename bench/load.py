"""The prefixes that load consists of: /24s from 20.0.0.0 on, /64s from 2001:db8:: on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bench.measure import BenchError
from bench.network import Network, run
from inet.prefix import Family, Prefix

COVERS: Final = {Family.IPV4: Prefix.parse("20.0.0.0/6"), Family.IPV6: Prefix.parse("2001:db8::/32")}
"""What all prefixes of a family lie in."""

LENGTHS: Final = {Family.IPV4: 24, Family.IPV6: 64}
MOST: Final = 1 << 18

MARKERS: Final = {Family.IPV4: Prefix.parse("192.0.2.0/24"), Family.IPV6: Prefix.parse("2001:db9::/64")}
"""Announced after all others where asked for: a subject that passes it on has taken in everything before."""


def prefixes(family: Family, count: int) -> Iterator[Prefix]:
    """Yield `count` different prefixes, at most MOST."""
    first, length = COVERS[family].packed, LENGTHS[family]
    start, shift = int.from_bytes(first), family.bits - length
    for number in range(count):
        yield Prefix((start + (number << shift)).to_bytes(len(first)), length)


def verify(net: Network, family: Family, count: int) -> None:
    """See in another program's words that the routes are in the node's kernel. Raises BenchError."""
    version = "-4" if family is Family.IPV4 else "-6"
    shown = run("ip", "-n", net.node, version, "-o", "route", "show", "root", str(COVERS[family]))
    found = len(shown.splitlines())
    if found != count:
        raise BenchError(f"ip route shows {found} routes of {count}")
