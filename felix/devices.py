"""Network devices with what a person asks of one that packets cross: its kind, MTU, other end (linux/if_link.h).

A pod's link is a veth pair with its far end in the pod's namespace. Where the kernel has a number for that namespace
the far end's name and MTU can be asked for from here (IFLA_TARGET_NETNSID), without entering it.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from felix.netlink import U32, NetlinkSocket, attribute, attributes, dump, message

_GETLINK: Final = 18
_IFINFOMSG: Final = struct.Struct("=BBHiII")  # family, pad, type, index, flags, change
_S32: Final = struct.Struct("=i")

_ADDRESS: Final = 1
_IFNAME: Final = 3
_MTU: Final = 4
_LINK: Final = 5
_MASTER: Final = 10
_LINKINFO: Final = 18
_GROUP: Final = 27
_IFALIAS: Final = 20
_LINK_NETNSID: Final = 37
_TARGET_NETNSID: Final = 46
_INFO_KIND: Final = 1

_UP: Final = 0x1
_LOOPBACK: Final = 0x8
_CARRIER: Final = 0x10000


class Device(NamedTuple):
    """A device. Indexes are ifindexes, 0 for none; `kind` is the kernel's word (veth, vxlan), empty for hardware."""

    interface: int
    name: str
    kind: str
    mtu: int
    is_up: bool
    has_carrier: bool
    is_loopback: bool
    master: int
    group: int
    peer: int  # ifindex of the other end, in the namespace `peer_namespace`
    peer_namespace: int | None  # the kernel's number for it, as seen from here; None: this one, or not known
    alias: str
    address: bytes


class Devices:
    """Asks for single devices."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket()

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def get(self, index: int, namespace: int | None = None) -> Device:
        """Return a device by its ifindex, in another namespace by the kernel's number for that. Raises OSError."""
        body = _IFINFOMSG.pack(0, 0, 0, index, 0, 0)
        if namespace is not None:
            body += attribute(_TARGET_NETNSID, _S32.pack(namespace))
        answer = self._netlink.ask(message(_GETLINK, 0, body))
        return parse(answer, 0, len(answer))

    def other_end(self, device: Device) -> Device | None:
        """Return the far end of a pair; None where there is none, or it is not to be seen from here."""
        if not device.peer:
            return None
        try:
            return self.get(device.peer, device.peer_namespace)
        except OSError:
            return None


async def devices() -> list[Device]:
    """Return every device of this namespace. Raises OSError."""
    return await dump(message(_GETLINK, 0, _IFINFOMSG.pack(0, 0, 0, 0, 0, 0)), parse)


def parse(data: bytes, start: int, end: int) -> Device:
    """Read a device of a dump or an answer."""
    _, _, _, index, flags, _ = _IFINFOMSG.unpack_from(data, start)
    found = dict(attributes(data, start + _IFINFOMSG.size, end))
    info = found.get(_LINKINFO, b"")
    kind = dict(attributes(info, 0, len(info))).get(_INFO_KIND, b"")
    return Device(
        interface=index,
        name=_text(found.get(_IFNAME, b"")),
        kind=_text(kind),
        mtu=_number(found.get(_MTU)),
        is_up=bool(flags & _UP),
        has_carrier=bool(flags & _CARRIER),
        is_loopback=bool(flags & _LOOPBACK),
        master=_number(found.get(_MASTER)),
        group=_number(found.get(_GROUP)),
        peer=_number(found.get(_LINK)),
        peer_namespace=_S32.unpack(found[_LINK_NETNSID])[0] if _LINK_NETNSID in found else None,
        alias=_text(found.get(_IFALIAS, b"")),
        address=found.get(_ADDRESS, b""),
    )


def _text(payload: bytes) -> str:
    return payload.rstrip(b"\0").decode(errors="replace")


def _number(payload: bytes | None) -> int:
    return int(U32.unpack(payload)[0]) if payload else 0
