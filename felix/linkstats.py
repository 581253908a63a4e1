"""What links have carried, as the kernel counts it (struct rtnl_link_stats64, linux/if_link.h)."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from felix.netlink import attributes, dump, message

_GETLINK: Final = 18
_IFINFOMSG: Final = struct.Struct("=BBHiII")  # family, pad, type, index, flags, change
_STATS64: Final = 23
_COUNTS: Final = struct.Struct("=4Q")  # rx_packets, tx_packets, rx_bytes, tx_bytes: the first of many


class LinkTraffic(NamedTuple):
    """Packets and bytes since the link was made, as this end sees them."""

    received_packets: int
    sent_packets: int
    received_bytes: int
    sent_bytes: int


async def traffic() -> dict[int, LinkTraffic]:
    """Return the counts of every link of this namespace by ifindex. Raises OSError."""
    return dict(await dump(message(_GETLINK, 0, _IFINFOMSG.pack(0, 0, 0, 0, 0, 0)), _parse))


def _parse(data: bytes, start: int, end: int) -> tuple[int, LinkTraffic] | None:
    interface: int = _IFINFOMSG.unpack_from(data, start)[3]
    counts = dict(attributes(data, start + _IFINFOMSG.size, end)).get(_STATS64)
    return (interface, LinkTraffic(*_COUNTS.unpack_from(counts))) if counts else None
