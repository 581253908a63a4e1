"""Whether a next hop answers: the kernel's neighbour entries (linux/neighbour.h)."""

from __future__ import annotations

import errno
import struct
from typing import Final

from felix.netlink import NetlinkSocket, attribute, message
from inet.prefix import Family

_GETNEIGH: Final = 30
_NDMSG: Final = struct.Struct("=BBHiHBB")  # family, pad, pad, ifindex, state, flags, type
_DST: Final = 1

_STATES: Final = {
    0x01: "incomplete",
    0x02: "reachable",
    0x04: "stale",
    0x08: "delay",
    0x10: "probe",
    0x20: "failed",
    0x40: "noarp",
    0x80: "permanent",
}


def state(netlink: NetlinkSocket, address: bytes, interface: int) -> str:
    """Return the state of a neighbour by its packed address and its link's ifindex, as `ip neigh` names it.

    Empty where the kernel has no entry: nobody has spoken with it lately. Raises OSError otherwise.
    """
    family = Family.IPV4 if len(address) == 4 else Family.IPV6
    body = _NDMSG.pack(family, 0, 0, interface, 0, 0, 0) + attribute(_DST, address)
    try:
        answer = netlink.ask(message(_GETNEIGH, 0, body))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return ""
        raise
    number = _NDMSG.unpack_from(answer, 0)[4]
    return _STATES.get(number, "")
