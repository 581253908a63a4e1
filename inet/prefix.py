"""Address families and prefixes as the smallest thing that the kernel, BGP and policy all understand.

A `Prefix` is a tuple of packed network-order bytes and a length: it hashes and compares at C speed, sorts as
people expect within a family, and its bytes go into a netlink message as they are. Text comes in through
`Prefix.parse` (strict: host bits are an error, as in a route) and leaves through `str`.
"""

from __future__ import annotations

import enum
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple, TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address


class Family(enum.IntEnum):
    """An address family, numbered as the kernel does (linux/socket.h)."""

    IPV4 = socket.AF_INET
    IPV6 = socket.AF_INET6

    @property
    def bits(self) -> int:
        """The length of an address: 32 or 128."""
        return 32 if self is Family.IPV4 else 128

    @property
    def label(self) -> str:
        """The name people read: IPv4 or IPv6."""
        return "IPv4" if self is Family.IPV4 else "IPv6"


def family_of(address: IPAddress) -> Family:
    """Return the family of an address."""
    return Family.IPV4 if address.version == 4 else Family.IPV6


class Prefix(NamedTuple):
    """A destination: `packed` is 4 or 16 bytes with no host bits set, `length` counts bits."""

    packed: bytes
    length: int

    @classmethod
    def parse(cls, text: str) -> Prefix:
        """Read `10.42.0.0/24` or `fd42::/64`. Raises ValueError, naming what is wrong with the text."""
        address, _, length_text = text.partition("/")
        try:
            packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
            length = int(length_text)
        except (OSError, ValueError):
            raise ValueError(f"{text!r} is not a prefix such as 10.42.0.0/24 or fd42::/64") from None
        bits = len(packed) * 8
        if length > bits or str(length) != length_text or length < 0:
            raise ValueError(f"{text!r}: the length must be a number from 0 to {bits}")
        if int.from_bytes(packed) & ((1 << (bits - length)) - 1):
            raise ValueError(f"{text!r} has host bits set: the prefix is {ip_network(text, strict=False)}")
        return cls(packed, length)

    @classmethod
    def of_host(cls, address: IPAddress) -> Prefix:
        """Return the /32 or /128 of an address."""
        return cls(address.packed, address.max_prefixlen)

    @property
    def family(self) -> Family:
        """The address family."""
        return Family.IPV4 if len(self.packed) == 4 else Family.IPV6

    @property
    def is_default(self) -> bool:
        """Whether this is 0.0.0.0/0 or ::/0."""
        return self.length == 0

    @property
    def is_host(self) -> bool:
        """Whether this names a single address."""
        return self.length == len(self.packed) * 8

    def shortened(self, length: int) -> Prefix:
        """Return the prefix of `length` bits, at most as long as this one, that this one lies in."""
        shift = len(self.packed) * 8 - length
        return Prefix((int.from_bytes(self.packed) >> shift << shift).to_bytes(len(self.packed)), length)

    def contains(self, other: Prefix) -> bool:
        """Whether every address of `other` is in this prefix. Families never contain one another."""
        if other.length < self.length or len(other.packed) != len(self.packed):
            return False
        shift = len(self.packed) * 8 - self.length
        return int.from_bytes(other.packed) >> shift == int.from_bytes(self.packed) >> shift

    def holds(self, address: IPAddress) -> bool:
        """Whether the address is in this prefix."""
        return self.contains(Prefix.of_host(address))

    def overlaps(self, other: Prefix) -> bool:
        """Whether some address is in both."""
        return self.contains(other) or other.contains(self)

    def __str__(self) -> str:
        # inet_ntop renders IPv6 as RFC 5952 asks.
        return f"{socket.inet_ntop(self.family, self.packed)}/{self.length}"


def parse_address(text: str) -> IPAddress:
    """Read an address. Raises ValueError, naming the text."""
    try:
        return ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv4 or IPv6 address") from None
