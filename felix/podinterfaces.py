"""Which link leads to which pod, and the mark by which rules know such links: an interface group.

A link may bear a name for people and for an agent that starts, its alias: it goes when the link goes.

A pod's link is the one that a route to just the pod's address leaves by, without a gateway: that is how CNI plugins
(ptp and its like) wire pods. Anything less exact, a default route say, would put the mark on a link to the world.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

from felix import routemessages
from felix.dad import settle
from felix.links import NEWLINK, addresses
from felix.netlink import U32, NetlinkSocket, attribute, attributes, dump, message
from felix.route import PROTOCOL, Kind
from inet.prefix import Family

_GETLINK: Final = 18
_IFINFOMSG: Final = struct.Struct("=BBHiII")  # family, pad, type, index, flags, change
_IFLA_IFALIAS: Final = 20
_IFLA_GROUP: Final = 27
_DEFAULT_GROUP: Final = 0


class PodLink(NamedTuple):
    """A link that may lead to a pod: `addresses` are packed, those to which routes of their own leave by it."""

    interface: int  # ifindex
    group: int
    alias: str
    addresses: tuple[bytes, ...]


async def aliased_links() -> list[PodLink]:
    """Return the links that have an alias, with the addresses behind them, both families. Raises OSError."""

    def parse_link(data: bytes, start: int, end: int) -> tuple[int, int, str] | None:
        family, _, _, index, _, _ = _IFINFOMSG.unpack_from(data, start)
        found = dict(attributes(data, start + _IFINFOMSG.size, end))
        if family or _IFLA_IFALIAS not in found:
            return None
        return index, _group_of(found), found[_IFLA_IFALIAS].rstrip(b"\0").decode(errors="replace")

    links = await dump(message(_GETLINK, 0, _IFINFOMSG.pack(0, 0, 0, 0, 0, 0)), parse_link)
    behind: dict[int, list[bytes]] = {index: [] for index, _, _ in links}
    own = {each.address.packed for each in await addresses()} if links else ()
    for address, interface in await _host_routes() if links else ():
        if interface in behind and address not in own:  # IPv6 has a route to the gateway's own address, too
            behind[interface].append(address)
    return [PodLink(index, group, alias, tuple(behind[index])) for index, group, alias in links]


async def host_route_addresses() -> set[bytes]:
    """Return the addresses that are reached over a link, by a route of their own without a gateway. Raises OSError."""
    return {address for address, _ in await _host_routes()}


async def pod_links(wanted: Collection[bytes]) -> dict[bytes, int]:
    """Return the ifindex of the link that leads to each of some packed addresses, where one does. Raises OSError."""
    wanted = frozenset(wanted)
    families = {Family.IPV4 if len(each) == 4 else Family.IPV6 for each in wanted}
    return {address: link for address, link in await _host_routes(families) if address in wanted}


async def _host_routes(families: Iterable[Family] = tuple(Family)) -> list[tuple[bytes, int]]:
    """Return packed addresses that have a route of their own, without a gateway, and the ifindex it leaves by."""

    def parse(data: bytes, start: int, end: int) -> tuple[bytes, int] | None:
        # Most rows are of networks or of others' protocols, and not taken apart.
        family, length, _, _, _, protocol, _, kind, _ = routemessages.RTMSG.unpack_from(data, start)
        if length != Family(family).bits or kind != Kind.UNICAST or protocol == PROTOCOL:
            return None
        route = routemessages.parse(data, start, end)
        if route.table != routemessages.MAIN_TABLE or len(route.hops) != 1:
            return None
        (hop,) = route.hops
        return None if hop.gateway else (route.destination.packed, hop.interface)

    return [row for family in families for row in await dump(routemessages.dump(family), parse)]


class LinkGroups:
    """Reads and sets the group of links."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket()

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    async def join(self, interface: int, group: int, alias: str = "") -> bool:
        """Put a link into a group unless it is there; whether it is now. A link that is gone is in none.

        With an alias (255 bytes at most), give it that too. Raises OSError where the kernel does not allow it.
        """
        try:
            if not alias and await self._group(interface) == group:
                return True
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise
        body = _IFINFOMSG.pack(0, 0, 0, interface, 0, 0) + attribute(_IFLA_GROUP, U32.pack(group))
        if alias:
            body += attribute(_IFLA_IFALIAS, alias.encode())
        for failure in await self._netlink.write([message(NEWLINK, 0, body)]):
            if failure.errno == errno.ENODEV:
                return False
            raise OSError(failure.errno, failure.message)
        return True

    async def settle(self, interface: int) -> None:
        """Have the host's end of a link answer at its IPv6 addresses at once. Raises OSError."""
        await settle(self._netlink, interface)

    async def leave(self, interface: int, *, without_alias: bool) -> None:
        """Put a link back into the group that all links are in, and take its alias away. Raises OSError.

        A link that is gone is in none.
        """
        body = _IFINFOMSG.pack(0, 0, 0, interface, 0, 0) + attribute(_IFLA_GROUP, U32.pack(_DEFAULT_GROUP))
        if without_alias:
            body += attribute(_IFLA_IFALIAS, b"")
        for failure in await self._netlink.write([message(NEWLINK, 0, body)]):
            if failure.errno != errno.ENODEV:
                raise OSError(failure.errno, failure.message)

    async def _group(self, interface: int) -> int:
        answer = await self._netlink.ask_aside(message(_GETLINK, 0, _IFINFOMSG.pack(0, 0, 0, interface, 0, 0)))
        return _group_of(dict(attributes(answer, _IFINFOMSG.size, len(answer))))


def _group_of(found: Mapping[int, bytes]) -> int:
    group: int = U32.unpack(found[_IFLA_GROUP])[0] if _IFLA_GROUP in found else 0
    return group
