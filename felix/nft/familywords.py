"""What the two families are called in nftables text, and sets of their prefixes."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from felix.nft.elements import PLAIN, Interval
from felix.nft.enforcement import SetContent
from felix.nft.table import SetText
from inet.intervals import normalise
from inet.prefix import Family, Prefix

WORDS: Final = {Family.IPV4: "ip", Family.IPV6: "ip6"}
TYPES: Final = {Family.IPV4: "ipv4_addr", Family.IPV6: "ipv6_addr"}


def digit(family: Family) -> int:
    """Return 4 or 6: what names of chains and sets of one family end with."""
    return 4 if family is Family.IPV4 else 6


@lru_cache(maxsize=32)
def prefix_set(prefixes: tuple[Prefix, ...], family: Family) -> SetContent:
    """Return an interval set of the prefixes of one family, which may overlap and touch.

    There may be ten thousands of them, of which nothing has changed since the last time: so it is remembered.
    """
    size = family.bits // 8
    host_bits = [(1 << (family.bits - length)) - 1 for length in range(family.bits + 1)]
    intervals = normalise(
        [
            (first := int.from_bytes(packed), first | host_bits[length])
            for packed, length in prefixes
            if len(packed) == size
        ]
    )
    packed = (Interval(first.to_bytes(size), last.to_bytes(size)) for first, last in intervals)
    return SetContent(SetText(f"type {TYPES[family]}; flags interval"), dict.fromkeys(packed, PLAIN))
