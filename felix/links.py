"""Links and addresses of this node, as the kernel has them (linux/if_link.h, linux/if_addr.h)."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Final, NamedTuple

from felix.netlink import U32, NetlinkSocket, attributes, dump, message
from inet.prefix import IPAddress

NEWLINK: Final = 16
DELLINK: Final = 17
_GETLINK: Final = 18
NEWADDR: Final = 20
DELADDR: Final = 21
_GETADDR: Final = 22

_IFINFOMSG: Final = struct.Struct("=BBHiII")  # family, pad, type, index, flags, change
_IFADDRMSG: Final = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index

_IFLA_IFNAME: Final = 3
_IFLA_MTU: Final = 4
_IFLA_GROUP: Final = 27
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2

_IFF_UP: Final = 0x1
_IFF_LOWER_UP: Final = 0x10000  # carrier


class Link(NamedTuple):
    """A link: `interface` is its ifindex; `is_up` says that it is wanted up and has a carrier, as next hops need."""

    interface: int
    name: str
    is_up: bool
    mtu: int = 0
    group: int = 0


class LocalAddress(NamedTuple):
    """An address of this node, and the ifindex of the link that has it."""

    address: IPAddress
    interface: int


def parse_link(data: bytes, start: int, end: int) -> Link | None:
    """Read a link of a dump, an answer or a notification; None for a bridge port's or address family's extra news."""
    family, _, _, index, flags, _ = _IFINFOMSG.unpack_from(data, start)
    if family:
        return None
    name, mtu, group = "", 0, 0
    for kind, payload in attributes(data, start + _IFINFOMSG.size, end):
        if kind == _IFLA_IFNAME:
            name = payload.rstrip(b"\0").decode(errors="replace")
        elif kind == _IFLA_MTU:
            (mtu,) = U32.unpack(payload)
        elif kind == _IFLA_GROUP:  # the last of them in every message of the kernel's
            (group,) = U32.unpack(payload)
            break
    return Link(index, name, bool(flags & _IFF_UP and flags & _IFF_LOWER_UP), mtu, group)


def parse_address(data: bytes, start: int, end: int) -> LocalAddress | None:
    """Read an address of a dump or a notification."""
    _family, _length, _flags, _scope, interface = _IFADDRMSG.unpack_from(data, start)
    found = dict(attributes(data, start + _IFADDRMSG.size, end))
    packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)  # on a point-to-point link ADDRESS is the other end
    return LocalAddress(ip_address(packed), interface) if packed else None


def interface_of_address(data: bytes, start: int) -> int:
    """Return the ifindex of the link that an address of a dump or a notification is on."""
    interface: int = _IFADDRMSG.unpack_from(data, start)[4]
    return interface


async def links() -> dict[int, Link]:
    """Return every link of this namespace, by ifindex."""
    rows = await dump(message(_GETLINK, 0, _IFINFOMSG.pack(0, 0, 0, 0, 0, 0)), parse_link)
    return {link.interface: link for link in rows}


async def addresses() -> list[LocalAddress]:
    """Return every address of this node, loopback's and link-local ones included."""
    return await dump(message(_GETADDR, 0, _IFADDRMSG.pack(0, 0, 0, 0, 0)), parse_address)


def is_up(netlink: NetlinkSocket, interface: int) -> bool:
    """Return whether a link is up, with a carrier. Raises OSError (ENODEV) where there is none of this index."""
    data = netlink.ask(message(_GETLINK, 0, _IFINFOMSG.pack(0, 0, 0, interface, 0, 0)))
    link = parse_link(data, 0, len(data))
    return link is not None and link.is_up
