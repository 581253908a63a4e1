"""Routes on the wire (linux/rtnetlink.h): what we write, and what dumps, lookups and notifications say.

Everything we write has our protocol and metric and stands in the main table. A route leads to a nexthop object by
its id, or holds its hops itself (RTA_MULTIPATH) where the kernel has no nexthop objects, or is a blackhole.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from felix import encap
from felix.netlink import ATTRIBUTE, U32, Flag, attribute, attributes, message
from felix.nexthops import family_of_hop
from felix.route import BACKSTOP_METRIC, METRIC, NO_TUNNEL, PROTOCOL, TRIAL_METRIC, Kind, NextHop
from felix.routetable import BLACKHOLE, UNKNOWN
from inet.prefix import Family, Prefix

NEWROUTE: Final = 24
DELROUTE: Final = 25
GETROUTE: Final = 26

MAIN_TABLE: Final = 254
_SCOPE_NOWHERE: Final = 255  # in a deletion: whatever the scope

_DST: Final = 1
_SRC: Final = 2
_IIF: Final = 3
_OIF: Final = 4
_GATEWAY: Final = 5
_PRIORITY: Final = 6
_PREFSRC: Final = 7
_METRICS: Final = 8
_MULTIPATH: Final = 9
_TABLE: Final = 15
_VIA: Final = 18
_ENCAP_TYPE: Final = 21
_ENCAP: Final = 22
_IP_PROTO: Final = 27
_SPORT: Final = 28
_DPORT: Final = 29
_NH_ID: Final = 30
_METRIC_MTU: Final = 2  # RTAX_MTU
_NESTED: Final = 0x8000  # NLA_F_NESTED

_HOP_DEAD: Final = 0x01  # RTNH_F_DEAD
_HOP_ONLINK: Final = 0x04  # RTNH_F_ONLINK
_HOP_LINKDOWN: Final = 0x10  # RTNH_F_LINKDOWN
CLONED: Final = 0x200  # RTM_F_CLONED
FIB_MATCH: Final = 0x2000  # RTM_F_FIB_MATCH

RTMSG: Final = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_RTNEXTHOP: Final = struct.Struct("=HBBi")  # length, flags, weight - 1, ifindex
_U16: Final = struct.Struct("=H")

_REPLACE: Final = Flag.REQUEST | Flag.REPLACE
_CREATE: Final = Flag.REQUEST | Flag.CREATE | Flag.EXCL
_FAMILY: Final = {4: Family.IPV4, 16: Family.IPV6}

# A route by group id is one struct: a hundred thousand of them are packed in a tenth of a second.
_BY_GROUP: Final = {
    4: struct.Struct("=IHHII BBBBBBBBI HH4s HHI HHI"),
    16: struct.Struct("=IHHII BBBBBBBBI HH16s HHI HHI"),
}


def put_by_group(destination: Prefix, group: int, *, is_new: bool, mtu: int | None = None) -> bytes:
    """Build the message that adds a route, or replaces ours, so that it leads to a nexthop object.

    `mtu` is the route's own, in bytes, 0 for none. Without a word about it an IPv4 route may get that of another one
    to the same group: the kernel has the two share what it knows of them (fib_find_info_nh, net/ipv4).
    """
    packed, length = destination
    size = len(packed)
    layout, metrics = _BY_GROUP[size], b"" if mtu is None else _pack_mtu(mtu)
    return (
        layout.pack(
            *(layout.size + len(metrics), NEWROUTE, _CREATE if is_new else _REPLACE, 0, 0),
            *(_FAMILY[size], length, 0, 0, MAIN_TABLE, PROTOCOL, 0, Kind.UNICAST, 0),
            *(4 + size, _DST, packed, 8, _PRIORITY, METRIC, 8, _NH_ID, group),
        )
        + metrics
    )


def _pack_mtu(mtu: int) -> bytes:
    return attribute(_METRICS | _NESTED, attribute(_METRIC_MTU, U32.pack(mtu)))


def put_by_hops(destination: Prefix, hops: Sequence[NextHop], *, is_new: bool, mtu: int = 0) -> bytes:
    """Build the message that adds a route, or replaces ours, with its hops inside. `mtu` is its own, 0 for none."""
    metrics = _pack_mtu(mtu) if mtu else b""
    if len(hops) == 1:  # IPv6 takes a hop without gateway in this form alone
        (hop,) = hops
        where = attribute(_OIF, U32.pack(hop.interface)) + _pack_way(hop, destination) + metrics
        return _put(destination, Kind.UNICAST, where, is_new=is_new, flags=_HOP_ONLINK if hop.onlink else 0)
    paths = b""
    for hop in hops:
        way = _pack_way(hop, destination)
        flags = _HOP_ONLINK if hop.onlink else 0
        paths += _RTNEXTHOP.pack(_RTNEXTHOP.size + len(way), flags, 0, hop.interface) + way
    return _put(destination, Kind.UNICAST, attribute(_MULTIPATH, paths) + metrics, is_new=is_new)


def put_blackhole(destination: Prefix, *, is_new: bool) -> bytes:
    """Build the message that adds a blackhole, or turns our route into one."""
    return _put(destination, Kind.BLACKHOLE, b"", is_new=is_new)


def put_backstop(destination: Prefix) -> bytes:
    """Build the message that has a blackhole stand behind our route, whether or not there is one by now."""
    return message(NEWROUTE, Flag.CREATE | Flag.REPLACE, _body(destination, Kind.BLACKHOLE, metric=BACKSTOP_METRIC))


def delete_backstop(destination: Prefix) -> bytes:
    """Build the message that deletes the blackhole behind our route."""
    return message(DELROUTE, 0, _body(destination, 0, scope=_SCOPE_NOWHERE, metric=BACKSTOP_METRIC))


def put_trial(destination: Prefix, hop: NextHop) -> bytes:
    """Build the message that has packets for a single address leave by a next hop, whether or not some do by now."""
    flags = _HOP_ONLINK if hop.onlink else 0
    body = _body(destination, Kind.UNICAST, flags=flags, metric=TRIAL_METRIC)
    body += attribute(_OIF, U32.pack(hop.interface)) + _pack_way(hop, destination)
    return message(NEWROUTE, Flag.CREATE | Flag.REPLACE, body)


def delete_trial(destination: Prefix) -> bytes:
    """Build the message that undoes `put_trial`."""
    return message(DELROUTE, 0, _body(destination, 0, scope=_SCOPE_NOWHERE, metric=TRIAL_METRIC))


def delete(destination: Prefix) -> bytes:
    """Build the message that deletes our route, and nobody else's, to a destination."""
    return message(DELROUTE, 0, _body(destination, 0, scope=_SCOPE_NOWHERE))


def _put(destination: Prefix, kind: Kind, where: bytes, *, is_new: bool, flags: int = 0) -> bytes:
    return message(NEWROUTE, _CREATE if is_new else _REPLACE, _body(destination, kind, flags=flags) + where)


def _body(destination: Prefix, kind: int, *, scope: int = 0, flags: int = 0, metric: int = METRIC) -> bytes:
    return (
        RTMSG.pack(destination.family, destination.length, 0, 0, MAIN_TABLE, PROTOCOL, scope, kind, flags)
        + attribute(_DST, destination.packed)
        + attribute(_PRIORITY, U32.pack(metric))
    )


def _pack_way(hop: NextHop, destination: Prefix) -> bytes:
    tunnel = encap.pack(hop.outer, _ENCAP_TYPE, _ENCAP) if hop.outer.destination else b""
    if hop.gateway and len(hop.gateway) != len(destination.packed):  # IPv4 through an IPv6 gateway (RFC 8950)
        return attribute(_VIA, _U16.pack(family_of_hop(hop, destination.family)) + hop.gateway) + tunnel
    return (attribute(_GATEWAY, hop.gateway) if hop.gateway else b"") + tunnel


def dump(family: Family, *, protocol: int = 0, table: int = MAIN_TABLE, interface: int = 0) -> bytes:
    """Build the message that dumps a table, or (0) all, of one protocol or all, over one link, by its ifindex, or all.

    Kernels before 4.20 take no notice of the link.
    """
    body = RTMSG.pack(family, 0, 0, 0, table, protocol, 0, 0, 0)
    if table:
        body += attribute(_TABLE, U32.pack(table))
    if interface:
        body += attribute(_OIF, U32.pack(interface))
    return message(GETROUTE, 0, body)


def lookup(
    address: bytes,
    interface: int = 0,
    *,
    fib_match: bool,
    source: bytes = b"",
    arriving: int = 0,
    flow: tuple[int, int, int] = (0, 0, 0),
) -> bytes:
    """Build the question how packets to an address leave: with `fib_match` the route, else the path of a packet.

    `interface` is the link they must leave by, `arriving` the one they come in by, if any. `flow` is what else the
    choice among equal ways goes by: protocol, source port, destination port, 0 for what is not known.
    """
    family = Family.IPV4 if len(address) == 4 else Family.IPV6
    flags = FIB_MATCH if fib_match else 0
    body = RTMSG.pack(family, len(address) * 8, len(source) * 8, 0, 0, 0, 0, 0, flags) + attribute(_DST, address)
    if source:
        body += attribute(_SRC, source)
    for kind, link in ((_OIF, interface), (_IIF, arriving)):
        if link:
            body += attribute(kind, U32.pack(link))
    protocol, *ports = flow
    if protocol:
        body += attribute(_IP_PROTO, bytes([protocol]))
        body += b"".join(
            attribute(kind, port.to_bytes(2)) for kind, port in zip((_SPORT, _DPORT), ports, strict=True) if port
        )
    return message(GETROUTE, 0, body)


class KernelRoute(NamedTuple):
    """A route, anyone's. `hops` without those that are dead; `group` is a nexthop object's id or 0."""

    destination: Prefix
    table: int
    protocol: int
    kind: int  # rtm_type
    flags: int
    metric: int
    group: int
    hops: tuple[NextHop, ...]
    preferred_source: bytes
    mtu: int = 0  # as the route has it; 0: as its link has it


def parse(data: bytes, start: int, end: int) -> KernelRoute:
    """Read a route of a dump, an answer or a notification."""
    family, length, _, _, table, protocol, _scope, kind, flags = RTMSG.unpack_from(data, start)
    found = dict(attributes(data, start + RTMSG.size, end))
    destination = Prefix(found.get(_DST, bytes(4 if family == socket.AF_INET else 16)), length)
    hops: list[NextHop] = []
    if (paths := found.get(_MULTIPATH)) is not None:
        hops = _parse_multipath(paths)
    elif _OIF in found and not flags & (_HOP_DEAD | _HOP_LINKDOWN):
        (interface,) = U32.unpack(found[_OIF])
        hops = [_hop(found, interface, flags)]
    return KernelRoute(
        destination,
        U32.unpack(found[_TABLE])[0] if _TABLE in found else table,
        protocol,
        kind,
        flags,
        U32.unpack(found[_PRIORITY])[0] if _PRIORITY in found else 0,
        U32.unpack(found[_NH_ID])[0] if _NH_ID in found else 0,
        tuple(sorted(hops)),
        found.get(_PREFSRC, b""),
        _parse_mtu(found.get(_METRICS, b"")),
    )


def parse_own(data: bytes, start: int, end: int, mtus: dict[Prefix, int]) -> tuple[Prefix, int] | None:
    """Read one of our routes and its group's id, BLACKHOLE or UNKNOWN; None for anyone else's.

    An MTU of its own is noted in `mtus`.
    This is `parse` for the ten thousands of routes of a dump.
    """
    family, length, _, tos, table, protocol, _, kind, _ = RTMSG.unpack_from(data, start)
    if protocol != PROTOCOL or table != MAIN_TABLE or tos:
        return None
    packed = b""
    metric = group = mtu = 0
    offset = start + RTMSG.size
    while offset < end:
        size, attribute_kind = ATTRIBUTE.unpack_from(data, offset)
        if attribute_kind == _DST:
            packed = data[offset + 4 : offset + size]
        elif attribute_kind == _PRIORITY:
            (metric,) = U32.unpack_from(data, offset + 4)
        elif attribute_kind == _NH_ID:
            (group,) = U32.unpack_from(data, offset + 4)
        elif attribute_kind == _METRICS:
            mtu = _parse_mtu(data[offset + 4 : offset + size])
        offset += (size + 3) & ~3
    if metric != METRIC:
        return None
    destination = Prefix(packed or bytes(4 if family == socket.AF_INET else 16), length)
    if mtu:
        mtus[destination] = mtu
    return destination, BLACKHOLE if kind == Kind.BLACKHOLE else group or UNKNOWN


def _parse_multipath(paths: bytes) -> list[NextHop]:
    hops: list[NextHop] = []
    offset = 0
    while offset + _RTNEXTHOP.size <= len(paths):
        length, flags, _weight, interface = _RTNEXTHOP.unpack_from(paths, offset)
        if length < _RTNEXTHOP.size:
            break
        if not flags & (_HOP_DEAD | _HOP_LINKDOWN):
            found = dict(attributes(paths, offset + _RTNEXTHOP.size, offset + length))
            hops.append(_hop(found, interface, flags))
        offset += (length + 3) & ~3
    return hops


def _parse_mtu(metrics: bytes) -> int:
    mtu = dict(attributes(metrics, 0, len(metrics))).get(_METRIC_MTU)
    return int(U32.unpack(mtu)[0]) if mtu else 0


def _hop(found: dict[int, bytes], interface: int, flags: int) -> NextHop:
    outer = encap.parse(found, _ENCAP_TYPE, _ENCAP) or NO_TUNNEL
    return NextHop(_gateway(found), interface, bool(flags & _HOP_ONLINK), outer)


def _gateway(found: dict[int, bytes]) -> bytes:
    if _VIA in found:
        return found[_VIA][2:]
    return found.get(_GATEWAY, b"")
