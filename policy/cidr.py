"""CIDR blocks as policies have them: read as the API server reads them, and turned into intervals of addresses.

An address is a plain integer on purpose: intervals are compared, cut and searched, and nothing else.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import Final, NamedTuple

from inet.intervals import Interval, Intervals
from inet.prefix import Family

_MAPPED: Final = (0xFFFF << 32, 96)  # ::ffff:0:0/96
_LEADING_ZEROS: Final = re.compile(r"(?<![0-9])0+(?=[0-9])")


class Block(NamedTuple):
    """A CIDR block of either family."""

    family: Family
    first: int
    length: int

    @property
    def interval(self) -> Interval:
        """First and last address."""
        return self.first, self.first | ((1 << (self.family.bits - self.length)) - 1)

    def holds(self, other: Block) -> bool:
        """Whether `other` is a strict part of this."""
        if self.family is not other.family or self.length >= other.length:
            return False
        shift = self.family.bits - self.length
        return self.first >> shift == other.first >> shift

    def __str__(self) -> str:
        return f"{address_text(pack(self.family, self.first))}/{self.length}"


def parse_block(text: str) -> Block:
    """Read a CIDR as the API server does for its old fields. Raises ValueError.

    Host bits are dropped, leading zeros of an IPv4 octet are decimal, an IPv4-mapped IPv6 block is an IPv4 block: all
    this is accepted there, so refusing it here would leave a policy unenforced.
    """
    address, slash, length_text = text.partition("/")
    family = Family.IPV6 if ":" in address else Family.IPV4
    if family is Family.IPV4:
        address = _LEADING_ZEROS.sub("", address)
    if not slash or not length_text.isdecimal() or not length_text.isascii() or int(length_text) > family.bits:
        raise ValueError("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
    try:
        value = int.from_bytes(socket.inet_pton(family, address))
    except (OSError, UnicodeEncodeError, ValueError):
        raise ValueError("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)") from None
    length = int(length_text)
    mapped, mapped_length = _MAPPED
    if family is Family.IPV6 and value >> 32 == mapped >> 32 and length >= mapped_length:
        family, value, length = Family.IPV4, value & 0xFFFFFFFF, length - mapped_length
    host_bits = family.bits - length
    return Block(family, value >> host_bits << host_bits, length)


def is_strict_cidr(text: str) -> bool:
    """Whether a text is a CIDR as CEL's isCIDR takes it: no leading zeros, no IPv4-mapped address."""
    try:
        (IPv6Network if ":" in text else IPv4Network)(text, strict=False)
        family = parse_block(text).family
    except ValueError:
        return False
    return "/" in text and text.rpartition("/")[2].isdecimal() and (family is Family.IPV6) == (":" in text)


def holds_address(blocks: Iterable[Block], address: bytes) -> bool:
    """Whether one of the blocks has a packed address."""
    value = int.from_bytes(address)
    return any(
        block.family.bits == len(address) * 8 and block.interval[0] <= value <= block.interval[1] for block in blocks
    )


def is_whole(intervals: Intervals, family: Family) -> bool:
    """Whether these are all the addresses of a family."""
    return intervals == ((0, (1 << family.bits) - 1),)


def pack(family: Family, value: int) -> bytes:
    """Return an address in network byte order: 4 or 16 bytes."""
    return value.to_bytes(family.bits // 8)


def pack_address(text: str) -> bytes:
    """Read an address into 4 or 16 bytes. Raises ValueError."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, UnicodeEncodeError, ValueError):
        raise ValueError("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)") from None


def address_text(packed: bytes) -> str:
    """Return an address as people write it (RFC 5952 for IPv6)."""
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
