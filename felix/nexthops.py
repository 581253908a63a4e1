"""Kernel nexthop objects on the wire (linux/nexthop.h, since Linux 5.3): single next hops, and groups of them.

Routes point at a group or at a single object: the kernel gives either another content in place, however many routes
stand behind it, but never turns one into the other. What an object is for can be read off its id, so that a dump after
a restart needs nothing else. Encapsulation is an attribute of single objects (NHA_ENCAP).
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, TypeAlias

from felix import encap
from felix.netlink import U16, U32, Flag, attribute, attributes, message
from felix.route import NO_TUNNEL, PROTOCOL, NextHop
from inet.prefix import Family

HOP_IDS: Final = range(0x61000000, 0x61400000)
"""Ids of single next hops that are members of our groups."""

GROUP_IDS: Final = {Family.IPV4: range(0x61400000, 0x61800000), Family.IPV6: range(0x61800000, 0x61C00000)}
"""Ids of what routes point at, groups and single next hops, by the family of the routes."""

NEWNEXTHOP: Final = 104
DELNEXTHOP: Final = 105
_GETNEXTHOP: Final = 106

_ID: Final = 1
_GROUP: Final = 2
_GROUP_TYPE: Final = 3
_BLACKHOLE: Final = 4
_OIF: Final = 5
_GATEWAY: Final = 6
_ENCAP_TYPE: Final = 7
_ENCAP: Final = 8
_RES_GROUP: Final = 12

_RESILIENT: Final = 1  # NEXTHOP_GRP_TYPE_RES, since Linux 5.13
_RES_GROUP_BUCKETS: Final = 1
_BUCKETS: Final = 512  # eight for each of 64 hops; the kernel cannot change it in place
_NESTED: Final = 0x8000  # NLA_F_NESTED

_ONLINK: Final = 0x4  # RTNH_F_ONLINK

_NHMSG: Final = struct.Struct("=BBBBI")  # family, scope, protocol, reserved, flags
_MEMBER: Final = struct.Struct("=IBBH")  # nexthop_grp: id, weight - 1, its high byte (since 6.12), reserved

DUMP: Final = message(_GETNEXTHOP, 0, _NHMSG.pack(0, 0, 0, 0, 0))


class KernelHop(NamedTuple):
    """A single next hop as the kernel has it. `family` is what `family_of_hop` tells of ours."""

    id: int
    protocol: int
    family: int
    hop: NextHop


class KernelGroup(NamedTuple):
    """A group as the kernel has it: ids of single next hops, and whether each has weight 1."""

    id: int
    protocol: int
    members: tuple[int, ...]
    is_even: bool
    is_resilient: bool


KernelNextHop: TypeAlias = KernelHop | KernelGroup


def family_of_hop(hop: NextHop, routes: Family) -> Family:
    """Return the family of the object that carries a hop: its gateway's, else that of the routes it serves."""
    if not hop.gateway:
        return routes
    return Family.IPV4 if len(hop.gateway) == 4 else Family.IPV6


def put_hop(number: int, family: Family, hop: NextHop, *, is_new: bool) -> bytes:
    """Build the message that creates a single next hop, or puts it in the place of an existing one, never both.

    `family` as `family_of_hop` tells.
    """
    body = _NHMSG.pack(family, 0, PROTOCOL, 0, _ONLINK if hop.onlink else 0)
    body += attribute(_ID, U32.pack(number)) + attribute(_OIF, U32.pack(hop.interface))
    if hop.gateway:
        body += attribute(_GATEWAY, hop.gateway)
    if hop.outer.destination:
        body += encap.pack(hop.outer, _ENCAP_TYPE, _ENCAP)
    return message(NEWNEXTHOP, Flag.CREATE | Flag.EXCL if is_new else Flag.REPLACE, body)


def create_blackhole(number: int) -> bytes:
    """Build the message that creates a single object that drops what it is given, and needs no link but loopback."""
    body = _NHMSG.pack(Family.IPV4, 0, PROTOCOL, 0, 0)
    return message(NEWNEXTHOP, Flag.CREATE | Flag.EXCL, body + attribute(_ID, U32.pack(number)) + attribute(_BLACKHOLE))


def put_group(number: int, members: tuple[int, ...], *, is_new: bool, is_resilient: bool = False) -> bytes:
    """Build the message that creates a group, or gives an existing one of its type other members in place.

    Never both: a group that the kernel took away has taken its routes with it, which must not go unnoticed. A
    resilient group keeps flows on the hops they have: a new hop gets only buckets that were idle for two minutes.
    """
    body = _NHMSG.pack(0, 0, PROTOCOL, 0, 0) + attribute(_ID, U32.pack(number))
    body += attribute(_GROUP, b"".join(_MEMBER.pack(member, 0, 0, 0) for member in members))
    if is_resilient:
        body += attribute(_GROUP_TYPE, U16.pack(_RESILIENT))
        body += attribute(_RES_GROUP | _NESTED, attribute(_RES_GROUP_BUCKETS, U16.pack(_BUCKETS)))
    return message(NEWNEXTHOP, Flag.CREATE | Flag.EXCL if is_new else Flag.REPLACE, body)


def delete(number: int) -> bytes:
    """Build the message that deletes an object. With a group go its routes."""
    return message(DELNEXTHOP, 0, _NHMSG.pack(0, 0, 0, 0, 0) + attribute(_ID, U32.pack(number)))


def get(number: int) -> bytes:
    """Build the message that asks for one object."""
    return message(_GETNEXTHOP, 0, _NHMSG.pack(0, 0, 0, 0, 0) + attribute(_ID, U32.pack(number)))


def parse(data: bytes, start: int, end: int) -> KernelNextHop:
    """Read one object, anyone's, of a dump, an answer or a notification. A blackhole is a hop without interface."""
    family, _scope, protocol, _reserved, flags = _NHMSG.unpack_from(data, start)
    found = dict(attributes(data, start + _NHMSG.size, end))
    (number,) = U32.unpack(found[_ID])
    if (members := found.get(_GROUP)) is not None:
        entries = list(_MEMBER.iter_unpack(members))
        is_even = not any(low or high for _, low, high, _ in entries)
        is_resilient = found.get(_GROUP_TYPE) == U16.pack(_RESILIENT)
        return KernelGroup(number, protocol, tuple(member for member, *_ in entries), is_even, is_resilient)
    interface = U32.unpack(found[_OIF])[0] if _OIF in found else 0
    outer = encap.parse(found, _ENCAP_TYPE, _ENCAP) or NO_TUNNEL
    hop = NextHop(found.get(_GATEWAY, b""), interface, bool(flags & _ONLINK), outer)
    return KernelHop(number, protocol, family, hop)
