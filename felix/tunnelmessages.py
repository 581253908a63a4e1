"""Tunnel devices and their far ends on the wire (linux/if_link.h, linux/neighbour.h, linux/if_tunnel.h)."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from felix.links import DELLINK, NEWADDR, NEWLINK
from felix.netlink import U32, Flag, attribute, attributes, message
from inet.prefix import Family

GETLINK: Final = 18
DELADDR: Final = 21
_NEWNEIGH: Final = 28
_DELNEIGH: Final = 29
_GETNEIGH: Final = 30

IFINFOMSG: Final = struct.Struct("=BBHiII")  # family, pad, type, index, flags, change
_IFADDRMSG: Final = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_NDMSG: Final = struct.Struct("=BBHiHBB")  # family, padding, padding, index, state, flags, type

_ADDRESS: Final = 1
_IFNAME: Final = 3
_MTU: Final = 4
_LINKINFO: Final = 18
_IFALIAS: Final = 20
_AF_SPEC: Final = 26
_INFO_KIND: Final = 1
_INFO_DATA: Final = 2
_ADDR_GEN_MODE: Final = 8  # IFLA_INET6_ADDR_GEN_MODE
_ADDR_GEN_NONE: Final = b"\1"
_NESTED: Final = 0x8000

_UP: Final = 0x1  # IFF_UP

_VXLAN_ID: Final = 1
_VXLAN_LOCAL: Final = {Family.IPV4: 4, Family.IPV6: 17}  # IFLA_VXLAN_LOCAL, _LOCAL6
_VXLAN_LEARNING: Final = 7
_VXLAN_PORT: Final = 15
_VXLAN_GROUP6: Final = 16
_VXLAN_EXTERNAL: Final = 25  # IFLA_VXLAN_COLLECT_METADATA
_IPTUN_PROTO: Final = 9
_IPTUN_EXTERNAL: Final = 19  # IFLA_IPTUN_COLLECT_METADATA
_IPPROTO_IPV6: Final = 41

_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_FLAGS: Final = 8
_NO_DAD_NO_ROUTE: Final = 0x2 | 0x200  # IFA_F_NODAD, IFA_F_NOPREFIXROUTE

_NDA_DST: Final = 1
_NDA_LLADDR: Final = 2
_NDA_IFINDEX: Final = 8
_PERMANENT: Final = 0x80  # NUD_PERMANENT: neither aged nor counted against the limits of the neighbour table
_BRIDGE: Final = 7  # AF_BRIDGE: by which forwarding entries are asked for, a bridge or not
_SELF: Final = 0x2  # NTF_SELF: those of the device itself

_BE16: Final = struct.Struct("!H")


ALIAS: Final = "tortie "
"""How the aliases of our tunnel devices and of pods' links begin."""

_LONG_VNI: Final = 10_000_000  # eight digits


class Kind(enum.Enum):
    """A kind of tunnel device, by the kernel's name for it. What it carries is what routes send there."""

    VXLAN = "vxlan"
    IPIP = "ipip"  # IPv4 in IPv4
    IP6TNL = "ip6tnl"  # IPv6 in IPv6


_MADE: Final = (
    (Kind.VXLAN, Family.IPV4),
    (Kind.VXLAN, Family.IPV6),
    (Kind.IPIP, Family.IPV4),
    (Kind.IP6TNL, Family.IPV6),
)


class DeviceId(NamedTuple):
    """Which device of ours: there is one of a kind, of VXLAN one of each family and VNI."""

    kind: Kind
    family: Family  # of the outer header
    vni: int = 0  # of VXLAN

    @property
    def name(self) -> str:
        """What the link is called: 15 characters at most."""
        if self.kind is not Kind.VXLAN:
            return f"tortie-{self.kind.value}"
        digit = "4" if self.family is Family.IPV4 else "6"
        return f"{'tortie' if self.vni < _LONG_VNI else 'tort'}{digit}-{self.vni}"

    @property
    def alias(self) -> str:
        """What stands on the link besides, so that it is known by another name, too."""
        words = f"{ALIAS}{self.kind.value}"
        return f"{words} {self.family.label} {self.vni}" if self.kind is Kind.VXLAN else words


@dataclass(frozen=True, slots=True)
class Device:
    """A device as it should be."""

    id: DeviceId
    mtu: int  # bytes of the largest packet inside
    port: int = 0  # UDP, of VXLAN
    mac: bytes = b""  # of VXLAN
    local: bytes = b""  # this end's outer address, of VXLAN, packed; empty: the kernel chooses
    address: bytes = b""  # what packets of this node itself bear inside, packed; empty: another link's


class FoundLink(NamedTuple):
    """A link as the kernel has it."""

    interface: int
    name: str
    kind: str  # "" for one that is no virtual device
    is_up: bool
    mtu: int
    mac: bytes
    alias: str
    is_external: bool  # each route says where packets go
    port: int  # UDP, of VXLAN
    vni: int
    local: bytes  # of VXLAN, packed; empty: any

    @property
    def device(self) -> DeviceId | None:
        """Which device of ours it is, by its mark; None for a link of somebody else."""
        for kind, family in _MADE:
            found = DeviceId(kind, family, self.vni)
            if kind.value == self.kind and found.alias == self.alias:
                return found
        return None


def create(device: Device) -> bytes:
    """Build the message that creates a device, down."""
    data = {
        Kind.VXLAN: attribute(_VXLAN_ID, U32.pack(device.id.vni))
        + _local(device)
        + attribute(_VXLAN_LEARNING, b"\0")
        + attribute(_VXLAN_PORT, _BE16.pack(device.port)),
        Kind.IPIP: attribute(_IPTUN_EXTERNAL, b""),
        Kind.IP6TNL: attribute(_IPTUN_EXTERNAL, b"") + attribute(_IPTUN_PROTO, bytes([_IPPROTO_IPV6])),
    }[device.id.kind]
    body = IFINFOMSG.pack(0, 0, 0, 0, 0, 0) + attribute(_IFNAME, _text(device.id.name))
    if device.mac:
        body += attribute(_ADDRESS, device.mac)
    return message(NEWLINK, Flag.CREATE | Flag.EXCL, body + _info(device.id.kind, data))


def set_local(interface: int, device: Device) -> bytes:
    """Build the message that gives a VXLAN device another outer source."""
    return _set(interface, _info(device.id.kind, _local(device)))


def _local(device: Device) -> bytes:
    family = device.id.family
    local = attribute(_VXLAN_LOCAL[family], device.local or bytes(family.bits // 8))
    # Without a source it is the far end, nobody in particular, that says of which family the device is.
    return local if device.local or family is Family.IPV4 else attribute(_VXLAN_GROUP6, bytes(16)) + local


def _info(kind: Kind, data: bytes) -> bytes:
    content = attribute(_INFO_KIND, kind.value.encode()) + attribute(_INFO_DATA | _NESTED, data)
    return attribute(_LINKINFO | _NESTED, content)


def mark(interface: int, alias: str) -> bytes:
    """Build the message that writes our name on a link, and has it make no IPv6 addresses of its own."""
    family = attribute(Family.IPV6 | _NESTED, attribute(_ADDR_GEN_MODE, _ADDR_GEN_NONE))
    return _set(interface, attribute(_IFALIAS, _text(alias)) + attribute(_AF_SPEC | _NESTED, family))


def rename(interface: int, name: str) -> bytes:
    """Build the message that gives a link another name."""
    return _set(interface, attribute(_IFNAME, _text(name)))


def set_mac(interface: int, mac: bytes) -> bytes:
    """Build the message that gives a link another hardware address."""
    return _set(interface, attribute(_ADDRESS, mac))


def set_mtu(interface: int, mtu: int) -> bytes:
    """Build the message that gives a link another MTU."""
    return _set(interface, attribute(_MTU, U32.pack(mtu)))


def set_up(interface: int, *, up: bool) -> bytes:
    """Build the message that sets a link up or down."""
    return message(NEWLINK, 0, IFINFOMSG.pack(0, 0, 0, interface, _UP if up else 0, _UP))


def delete(interface: int) -> bytes:
    """Build the message that deletes a link."""
    return message(DELLINK, 0, IFINFOMSG.pack(0, 0, 0, interface, 0, 0))


def get(name: str) -> bytes:
    """Build the question for a link by its name."""
    return message(GETLINK, 0, IFINFOMSG.pack(0, 0, 0, 0, 0, 0) + attribute(_IFNAME, _text(name)))


DUMP_LINKS: Final = message(GETLINK, 0, IFINFOMSG.pack(0, 0, 0, 0, 0, 0))


def parse_link(data: bytes, start: int, end: int) -> FoundLink | None:
    """Read a link of a dump or an answer."""
    family, _, _, interface, flags, _ = IFINFOMSG.unpack_from(data, start)
    if family:
        return None
    found = dict(attributes(data, start + IFINFOMSG.size, end))
    info = dict(attributes(found.get(_LINKINFO, b""), 0, len(found.get(_LINKINFO, b""))))
    kind = info.get(_INFO_KIND, b"").rstrip(b"\0").decode(errors="replace")
    content = info.get(_INFO_DATA, b"")
    data_of_kind = dict(attributes(content, 0, len(content)))
    is_external, port, vni, local = False, 0, 0, b""
    if kind == Kind.VXLAN.value:
        is_external = data_of_kind.get(_VXLAN_EXTERNAL, b"\0") != b"\0"
        port = _BE16.unpack(data_of_kind[_VXLAN_PORT])[0] if _VXLAN_PORT in data_of_kind else 0
        vni = U32.unpack(data_of_kind[_VXLAN_ID])[0] if _VXLAN_ID in data_of_kind else 0
        local = next((data_of_kind[each] for each in _VXLAN_LOCAL.values() if each in data_of_kind), b"")
    elif kind in {Kind.IPIP.value, Kind.IP6TNL.value}:
        is_external = _IPTUN_EXTERNAL in data_of_kind
    return FoundLink(
        interface,
        found.get(_IFNAME, b"").rstrip(b"\0").decode(errors="replace"),
        kind,
        bool(flags & _UP),
        U32.unpack(found[_MTU])[0] if _MTU in found else 0,
        found.get(_ADDRESS, b""),
        found.get(_IFALIAS, b"").rstrip(b"\0").decode(errors="replace"),
        is_external,
        port,
        vni,
        local,
    )


def put_address(interface: int, packed: bytes, *, is_wanted: bool) -> bytes:
    """Build the message that adds an address to a link, or removes it. It brings no route but to itself."""
    family = Family.IPV4 if len(packed) == 4 else Family.IPV6
    body = _IFADDRMSG.pack(family, len(packed) * 8, 0, 0, interface) + attribute(_IFA_LOCAL, packed)
    body += attribute(_IFA_ADDRESS, packed) + attribute(_IFA_FLAGS, U32.pack(_NO_DAD_NO_ROUTE))
    return message(NEWADDR, Flag.CREATE | Flag.REPLACE, body) if is_wanted else message(DELADDR, 0, body)


def put_neighbour(interface: int, packed: bytes, mac: bytes) -> bytes:
    """Build the message that says for good which hardware address a neighbour has."""
    body = _neighbour(interface, packed, _PERMANENT) + attribute(_NDA_LLADDR, mac)
    return message(_NEWNEIGH, Flag.CREATE | Flag.REPLACE, body)


def drop_neighbour(interface: int, packed: bytes) -> bytes:
    """Build the message that forgets a neighbour."""
    return message(_DELNEIGH, 0, _neighbour(interface, packed, 0))


def dump_neighbours(family: Family, interface: int) -> bytes:
    """Build the message that dumps the neighbours of a link."""
    body = _NDMSG.pack(family, 0, 0, 0, 0, 0, 0) + attribute(_NDA_IFINDEX, U32.pack(interface))
    return message(_GETNEIGH, 0, body)


def parse_neighbour(data: bytes, start: int, end: int) -> tuple[int, bytes, bytes] | None:
    """Read a neighbour that is there for good: the link's ifindex, address, hardware address."""
    _family, _, _, interface, state, _flags, _type = _NDMSG.unpack_from(data, start)
    found = dict(attributes(data, start + _NDMSG.size, end))
    if not state & _PERMANENT or _NDA_DST not in found:
        return None
    return interface, found[_NDA_DST], found.get(_NDA_LLADDR, b"")


def put_forwarding(interface: int, mac: bytes, packed: bytes) -> bytes:
    """Build the message that says for good to which outer address of a VXLAN device a hardware address belongs."""
    body = _forwarding(interface, mac, _PERMANENT) + attribute(_NDA_DST, packed)
    return message(_NEWNEIGH, Flag.CREATE | Flag.REPLACE, body)


def drop_forwarding(interface: int, mac: bytes) -> bytes:
    """Build the message that forgets where a hardware address is."""
    return message(_DELNEIGH, 0, _forwarding(interface, mac, 0))


def dump_forwarding(interface: int) -> bytes:
    """Build the message that dumps the forwarding entries of a link."""
    return message(_GETNEIGH, 0, _NDMSG.pack(_BRIDGE, 0, 0, interface, 0, 0, 0))


def parse_forwarding(data: bytes, start: int, end: int) -> tuple[int, bytes, bytes] | None:
    """Read a forwarding entry that leads to somewhere: the link's ifindex, hardware address, outer address."""
    _family, _, _, interface, _state, _flags, _type = _NDMSG.unpack_from(data, start)
    found = dict(attributes(data, start + _NDMSG.size, end))
    if _NDA_LLADDR not in found or _NDA_DST not in found:
        return None
    return interface, found[_NDA_LLADDR], found[_NDA_DST]


def _neighbour(interface: int, packed: bytes, state: int) -> bytes:
    family = Family.IPV4 if len(packed) == 4 else Family.IPV6
    return _NDMSG.pack(family, 0, 0, interface, state, 0, 0) + attribute(_NDA_DST, packed)


def _forwarding(interface: int, mac: bytes, state: int) -> bytes:
    return _NDMSG.pack(_BRIDGE, 0, 0, interface, state, _SELF, 0) + attribute(_NDA_LLADDR, mac)


def _set(interface: int, attributes_: bytes) -> bytes:
    return message(NEWLINK, 0, IFINFOMSG.pack(0, 0, 0, interface, 0, 0) + attributes_)


def _text(text: str) -> bytes:
    return text.encode() + b"\0"
