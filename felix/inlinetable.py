"""The route table for kernels without nexthop objects: each route holds its next hops itself.

Groups live in memory alone: editing one rewrites every route behind it, and after a restart they are told by the
contents of routes. The kernel never takes a next hop out of a route, it marks it dead; such hops count as gone
here, and links are looked at before a group may use them, so that both tables look alike from outside.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Final

from felix import routemessages
from felix.kernelroutes import KernelRoutes
from felix.links import is_up, links
from felix.netlink import dump, in_turns
from felix.route import METRIC, PROTOCOL, Kind, NextHop
from felix.routemessages import MAIN_TABLE, KernelRoute
from felix.routetable import BLACKHOLE, UNKNOWN, Change, DropGroup, DropRoute, Group, PutGroup, PutRoute, Refusal
from inet.prefix import Family, Prefix

_GONE: Final = (errno.ENOENT, errno.ESRCH)


class InlineRouteTable(KernelRoutes):
    """Routes that hold their next hops. See `felix.routetable.RouteTable`."""

    has_nexthop_objects: Final = False

    def __init__(self) -> None:
        super().__init__()
        self._groups: dict[int, Group] = {}
        self._routes: dict[Prefix, int] = {}
        self._numbers = count(1)

    async def can_be_resilient(self) -> bool:
        """Return what it always is: no."""
        return False

    def new_group(self, family: Family) -> int:  # noqa: ARG002 - ids say nothing here
        """Return an id for a group that is yet to be created."""
        return next(self._numbers)

    async def dump_routes(self) -> dict[Prefix, int]:
        """Return our routes and where each leads. Raises OSError."""
        up = {index for index, link in (await links()).items() if link.is_up}
        self._groups = {
            number: Group(group.family, alive)
            for number, group in self._groups.items()
            if (alive := tuple(hop for hop in group.next_hops if hop.interface in up))
        }
        numbers = {group: number for number, group in self._groups.items()}
        routes: dict[Prefix, int] = {}
        mtus: dict[Prefix, int] = {}
        for family in Family:
            for route in await dump(routemessages.dump(family, protocol=PROTOCOL), _parse_own):
                routes[route.destination] = self._group_of(route, up, numbers)
                if route.mtu:
                    mtus[route.destination] = route.mtu
        self._routes, self.mtus = routes, mtus
        return dict(routes)

    async def dump_groups(self) -> dict[int, Group]:
        """Return the groups as the last `dump_routes` found them."""
        return dict(self._groups)

    async def write(self, changes: Sequence[Change]) -> list[Refusal]:
        """Apply in order; return what was refused."""
        refusals: list[Refusal] = []
        routes: list[tuple[int, PutRoute | DropRoute]] = []
        for index, change in enumerate(changes):
            if isinstance(change, PutRoute | DropRoute):
                routes.append((index, change))
                continue
            refusals += await self._write_routes(routes)
            routes = []
            refusals += await self._write_group(index, change)
        return refusals + await self._write_routes(routes)

    async def tidy(self) -> None:
        """Do nothing: next hops come and go with their routes."""

    def _group_of(self, route: KernelRoute, up: set[int], numbers: dict[Group, int]) -> int:
        """Return the group that a route's content tells: the one it was written with, where that still fits."""
        if route.kind == Kind.BLACKHOLE:
            return BLACKHOLE
        hops = tuple(hop for hop in route.hops if hop.interface in up)
        if route.kind != Kind.UNICAST or route.group or not hops:
            return UNKNOWN
        content = Group(route.destination.family, hops)
        number = self._routes.get(route.destination, UNKNOWN)
        held = self._groups.get(number)
        if held is None or held.next_hops != hops:
            if content not in numbers:
                numbers[content] = next(self._numbers)
            number = numbers[content]
            self._groups[number] = content
        return number

    async def _write_group(self, index: int, change: PutGroup | DropGroup) -> list[Refusal]:
        behind = [prefix for prefix, number in self._routes.items() if number == change.group]
        if isinstance(change, DropGroup):
            self._groups.pop(change.group, None)
            await self._write_routes((0, DropRoute(prefix)) for prefix in behind)
            return []
        if not change.is_new and change.group not in self._groups:
            return [Refusal(index, errno.ENOENT, os.strerror(errno.ENOENT))]
        refusals = [r for hop in change.next_hops if (r := self._refuse(index, hop)) is not None]
        if refusals:
            return refusals
        former = self._groups.get(change.group)
        self._groups[change.group] = Group(change.family, change.next_hops, change.form)
        failures = await self._write_routes(
            (index, PutRoute(prefix, change.group, is_new=False, mtu=self.mtus.get(prefix, 0))) for prefix in behind
        )
        if failures and former is not None:  # no route moved, or the next dump tells which did
            self._groups[change.group] = former
        return failures[:1]

    def _refuse(self, index: int, hop: NextHop) -> Refusal | None:
        """Refuse a hop whose link could not carry it, as the kernel does for a nexthop object."""
        try:
            if is_up(self._netlink, hop.interface):
                return None
        except OSError as error:
            return Refusal(index, error.errno or errno.EIO, error.strerror or str(error), hop)
        return Refusal(index, errno.ENETDOWN, os.strerror(errno.ENETDOWN), hop)

    async def _write_routes(self, changes: Iterable[tuple[int, PutRoute | DropRoute]]) -> list[Refusal]:
        """Write routes, each with the position that its refusal is to bear."""
        refusals: list[Refusal] = []
        async for piece in in_turns(changes):
            refusals += await self._write_piece(piece)
        return refusals

    async def _write_piece(self, changes: list[tuple[int, PutRoute | DropRoute]]) -> list[Refusal]:
        refusals: list[Refusal] = []
        sent: list[tuple[int, PutRoute | DropRoute]] = []
        requests: list[bytes] = []
        for index, change in changes:
            request = self._request(change)
            if request is None:
                refusals.append(Refusal(index, errno.EINVAL, "no such group"))
            else:
                sent.append((index, change))
                requests.append(request)
        failures = {failure.position: failure for failure in await self._netlink.write(requests)}
        for position, (index, change) in enumerate(sent):
            failure = failures.get(position)
            if failure and not (isinstance(change, DropRoute) and failure.errno in _GONE):
                refusals.append(Refusal(index, failure.errno, failure.message))
                continue
            self._note_mtu(change)
            if isinstance(change, DropRoute):
                self._routes.pop(change.destination, None)
            else:
                self._routes[change.destination] = change.group
        return refusals

    def _request(self, change: PutRoute | DropRoute) -> bytes | None:
        if isinstance(change, DropRoute):
            return routemessages.delete(change.destination)
        if change.group == BLACKHOLE:
            return routemessages.put_blackhole(change.destination, is_new=change.is_new)
        group = self._groups.get(change.group)
        if group is None:
            return None
        return routemessages.put_by_hops(change.destination, group.next_hops, is_new=change.is_new, mtu=change.mtu)


def _parse_own(data: bytes, start: int, end: int) -> KernelRoute | None:
    route = routemessages.parse(data, start, end)
    is_own = route.protocol == PROTOCOL and route.table == MAIN_TABLE and route.metric == METRIC
    return route if is_own else None
