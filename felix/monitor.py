"""What happens in the kernel without our doing: links, addresses, routes and nexthop objects.

Out come batches of small events, repetitions left out: news that something may differ, not what it is now; whoever
needs that looks. Notifications of our own writes never reach us: a socket filter drops them by port id, so that
10,000 written routes cost nothing to listen to. When the kernel could not keep all news for us, it says so, and
`Overflow` tells everyone to look at everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from felix import nexthops, routemessages
from felix.links import DELADDR, DELLINK, NEWADDR, NEWLINK, Link, interface_of_address, links, parse_link
from felix.netlink import SOL_NETLINK, Message, in_turns, leave_out, messages, open_socket, readable
from felix.nexthops import DELNEXTHOP, NEWNEXTHOP
from felix.route import METRIC, PROTOCOL
from felix.routemessages import CLONED, DELROUTE, MAIN_TABLE, NEWROUTE, KernelRoute
from inet.prefix import Prefix

_ADD_MEMBERSHIP: Final = 1
_GROUPS: Final = (1, 5, 7, 9, 11)  # RTNLGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE
_NEXTHOP_GROUP: Final = 32  # RTNLGRP_NEXTHOP, since Linux 5.3

_RECEIVE_BUFFER: Final = 8 * 1024 * 1024  # 100,000 notifications
_RECEIVE_BYTES: Final = 64 * 1024
_BATCH: Final = 4096  # much at a time: whoever hears of many changes may look at everything once

_LOCAL_TABLE: Final = 255
_ADDRESS_KINDS: Final = range(2, 6)  # RTN_LOCAL, _BROADCAST, _ANYCAST, _MULTICAST: they come and go with addresses


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """A link appeared, went, was renamed, got another MTU, or lost or got its carrier, perhaps all that and back."""

    interface: int  # ifindex
    name: str
    is_up: bool
    group: int = field(default=0, compare=False)
    is_new: bool = field(default=False, compare=False)  # it appeared just now


@dataclass(frozen=True, slots=True)
class AddressChanged:
    """An address was added to a link, changed or removed."""

    interface: int
    group: int = field(default=0, compare=False)  # of the link


@dataclass(frozen=True, slots=True)
class OwnRouteChanged:
    """Someone else changed or deleted our route to a destination, or a route that has its place."""

    destination: Prefix


@dataclass(frozen=True, slots=True)
class OwnNextHopsChanged:
    """Someone else changed or deleted nexthop objects of ours."""


@dataclass(frozen=True, slots=True)
class ForeignRouteChanged:
    """A route of someone else changed: next hops may be reached in another way."""

    destination: Prefix
    interface: int = field(default=0, compare=False)  # where it leads; 0: nowhere, or over several links
    group: int = field(default=0, compare=False)  # of that link


@dataclass(frozen=True, slots=True)
class ForeignNextHopsChanged:
    """Nexthop objects of someone else changed, and so may have the routes that lead to them."""


@dataclass(frozen=True, slots=True)
class Overflow:
    """News was lost: anything may have changed."""


Event: TypeAlias = (
    LinkChanged
    | AddressChanged
    | OwnRouteChanged
    | OwnNextHopsChanged
    | ForeignRouteChanged
    | ForeignNextHopsChanged
    | Overflow
)


class Monitor:
    """Listens from the moment it is made, in the network namespace of the thread that makes it."""

    def __init__(self, own_port: int, *, receive_buffer: int = _RECEIVE_BUFFER) -> None:
        self._own_port = own_port  # the port id of the socket that writes our routes
        self._receive_buffer = receive_buffer
        self._links: dict[int, Link] = {}
        self._socket = self._listen()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    async def batches(self) -> AsyncGenerator[list[Event], None]:
        """Yield news for ever, first of every link there is. Raises OSError only if no socket can be opened."""
        yield await self._compare_links()
        while True:
            await readable(self._socket)
            taken, lost = self._take()
            if lost:
                await self._empty()
                yield [Overflow(), *await self._compare_links()]
            elif events := await self._read(taken):
                yield events

    def _listen(self) -> socket.socket:
        netlink = open_socket(self._receive_buffer)
        leave_out(netlink, self._own_port)
        netlink.bind((0, 0))
        for group in _GROUPS:
            netlink.setsockopt(SOL_NETLINK, _ADD_MEMBERSHIP, group)
        with contextlib.suppress(OSError):  # a kernel without nexthop objects has no news of them
            netlink.setsockopt(SOL_NETLINK, _ADD_MEMBERSHIP, _NEXTHOP_GROUP)
        return netlink

    async def _compare_links(self) -> list[Event]:
        """Return what changed about links since they were last heard of."""
        known, self._links = self._links, await links()
        changed: list[Event] = [_told(link) for number, link in self._links.items() if known.get(number) != link]
        return changed + [
            _told(link._replace(is_up=False)) for number, link in known.items() if number not in self._links
        ]

    async def _empty(self) -> None:
        """Throw away what has come in: until then the kernel goes on dropping news, and does not say so again."""
        taken, lost = self._take()
        while taken or lost:
            await asyncio.sleep(0)
            taken, lost = self._take()

    def _take(self) -> tuple[list[bytes], bool]:
        """Return what has come in, up to a batch, and whether something was lost."""
        taken: list[bytes] = []
        try:
            while len(taken) < _BATCH:
                taken.append(self._socket.recv(_RECEIVE_BYTES))
        except BlockingIOError:
            return taken, False
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                self._socket.close()
                self._socket = self._listen()
            return taken, True
        return taken, False

    async def _read(self, taken: list[bytes]) -> list[Event]:
        events: dict[Event, None] = {}
        changed_links: dict[int, LinkChanged] = {}
        async for piece in in_turns(taken):
            for data in piece:
                for news in messages(data):
                    if news.kind in (NEWLINK, DELLINK):
                        self._read_link(data, news, changed_links)
                    else:
                        events.update(dict.fromkeys(self._read_other(data, news)))
        return [*changed_links.values(), *events]

    def _read_link(self, data: bytes, news: Message, changed: dict[int, LinkChanged]) -> None:
        """Add what a notification says of a link to what is told of links."""
        link = parse_link(data, news.start, news.end)
        if link is None:
            return
        known, told = self._links.get(link.interface), changed.get(link.interface)
        is_new = told.is_new if told else known is None
        if news.kind == DELLINK:
            link, is_new = link._replace(is_up=False), False
            self._links.pop(link.interface, None)
        elif link == known:
            return
        else:
            self._links[link.interface] = link
        changed[link.interface] = _told(link, is_new=is_new)

    def _read_other(self, data: bytes, news: Message) -> Iterator[Event]:
        """Say what a notification means, other than of links."""
        if news.kind in (NEWADDR, DELADDR):
            interface = interface_of_address(data, news.start)
            yield AddressChanged(interface, self._group_of(interface))
        elif news.kind in (NEWNEXTHOP, DELNEXTHOP):
            found = nexthops.parse(data, news.start, news.end)
            yield OwnNextHopsChanged() if found.protocol == PROTOCOL else ForeignNextHopsChanged()
        elif news.kind in (NEWROUTE, DELROUTE):
            _, _, _, _, table, _, _, kind, flags = routemessages.RTMSG.unpack_from(data, news.start)
            # Most news of a new link: not taken apart.
            if table != _LOCAL_TABLE and kind not in _ADDRESS_KINDS and not flags & CLONED:
                yield from self._read_route(routemessages.parse(data, news.start, news.end))

    def _read_route(self, route: KernelRoute) -> Iterator[Event]:
        if route.table == MAIN_TABLE and route.metric == METRIC:  # a replacement is not announced as a deletion
            yield OwnRouteChanged(route.destination)
        if route.protocol != PROTOCOL:
            interface = route.hops[0].interface if len(route.hops) == 1 else 0
            yield ForeignRouteChanged(route.destination, interface, self._group_of(interface))

    def _group_of(self, interface: int) -> int:
        known = self._links.get(interface)
        return known.group if known else 0


def _told(link: Link, *, is_new: bool = False) -> LinkChanged:
    return LinkChanged(link.interface, link.name, link.is_up, link.group, is_new)
