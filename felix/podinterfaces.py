"""Which link leads to which pod, and the mark by which rules know such links: an interface group.

A pod's link is the one that a route to just the pod's address leaves by, without a gateway: that is how CNI plugins
(ptp and its like) wire pods. Anything less exact, a default route say, would put the mark on a link to the world.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Collection
from typing import Final

from felix import routemessages
from felix.links import NEWLINK
from felix.netlink import U32, NetlinkSocket, attribute, attributes, dump, message
from felix.route import PROTOCOL, Kind
from inet.prefix import Family

_GETLINK: Final = 18
_IFINFOMSG: Final = struct.Struct("=BBHiII")  # family, pad, type, index, flags, change
_IFLA_GROUP: Final = 27


async def pod_links(addresses: Collection[bytes]) -> dict[bytes, int]:
    """Return the ifindex of the link that leads to each of some packed addresses, where one does. Raises OSError."""
    wanted = frozenset(addresses)

    def parse(data: bytes, start: int, end: int) -> tuple[bytes, int] | None:
        # Most rows are of networks or of others' protocols, and not taken apart.
        family, length, _, _, _, protocol, _, kind, _ = routemessages.RTMSG.unpack_from(data, start)
        if length != Family(family).bits or kind != Kind.UNICAST or protocol == PROTOCOL:
            return None
        route = routemessages.parse(data, start, end)
        if route.table != routemessages.MAIN_TABLE or route.destination.packed not in wanted or len(route.hops) != 1:
            return None
        (hop,) = route.hops
        return None if hop.gateway else (route.destination.packed, hop.interface)

    found: dict[bytes, int] = {}
    for family in {Family.IPV4 if len(each) == 4 else Family.IPV6 for each in wanted}:
        found |= dict(await dump(routemessages.dump(family), parse))
    return found


class LinkGroups:
    """Reads and sets the group of links."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket()

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    async def join(self, interface: int, group: int) -> bool:
        """Put a link into a group unless it is there; whether it is now. A link that is gone is in none.

        Raises OSError where the kernel does not allow it.
        """
        try:
            if self._group(interface) == group:
                return True
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise
        body = _IFINFOMSG.pack(0, 0, 0, interface, 0, 0) + attribute(_IFLA_GROUP, U32.pack(group))
        for failure in await self._netlink.write([message(NEWLINK, 0, body)]):
            if failure.errno == errno.ENODEV:
                return False
            raise OSError(failure.errno, failure.message)
        return True

    def _group(self, interface: int) -> int:
        answer = self._netlink.ask(message(_GETLINK, 0, _IFINFOMSG.pack(0, 0, 0, interface, 0, 0)))
        found = dict(attributes(answer, _IFINFOMSG.size, len(answer)))
        group: int = U32.unpack(found[_IFLA_GROUP])[0] if _IFLA_GROUP in found else 0
        return group
