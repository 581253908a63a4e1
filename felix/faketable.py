"""A route table in memory that behaves as the kernel's with nexthop objects does, and fails on demand."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Container, Sequence
from itertools import count
from typing import Final

from felix.route import METRIC, NextHop
from felix.routetable import BLACKHOLE, UNKNOWN, Change, DropRoute, Form, Group, PutGroup, PutRoute, Refusal, Rival
from inet.prefix import Family, Prefix


class FakeRouteTable:
    """See `felix.routetable.RouteTable`. What has no underscore is for tests to read and to change."""

    has_nexthop_objects: Final = True

    def __init__(self) -> None:
        self.groups: dict[int, Group] = {}
        self.routes: dict[Prefix, int] = {}
        self.mtus: dict[Prefix, int] = {}
        self.foreign: dict[Prefix, Rival] = {}
        self.written: list[Change] = []
        self.dumps = 0  # of routes
        self.knows_resilient = True
        self._down: set[int] = set()
        self._faults: list[int] = []
        self._numbers = count(1)

    def fail_next(self, number: int, times: int = 1) -> None:
        """Let the next changes fail with an errno."""
        self._faults += [number] * times

    def link_down(self, interface: int) -> None:
        """Do what the kernel does: dead hops leave their groups, empty groups go and take their routes along."""
        self._down.add(interface)
        for number, group in list(self.groups.items()):
            alive = tuple(hop for hop in group.next_hops if hop.interface != interface)
            if alive:
                self.groups[number] = group._replace(next_hops=alive)
            else:
                self._drop_group(number)

    def link_up(self, interface: int) -> None:
        """Let next hops use a link again. The kernel puts nothing back."""
        self._down.discard(interface)

    def next_hops(self) -> dict[Prefix, tuple[NextHop, ...]]:
        """Return where packets to each destination go; () for a blackhole."""
        return {
            prefix: () if group == BLACKHOLE else self.groups[group].next_hops
            for prefix, group in self.routes.items()
            if group != UNKNOWN
        }

    async def can_be_resilient(self) -> bool:
        """Return what `knows_resilient` says."""
        return self.knows_resilient

    def new_group(self, family: Family) -> int:  # noqa: ARG002 - ids say nothing here
        """Return an id for a group that is yet to be created."""
        return next(self._numbers)

    async def dump_routes(self) -> dict[Prefix, int]:
        """Return our routes and where each leads."""
        self.dumps += 1
        await asyncio.sleep(0)
        return dict(self.routes)

    async def dump_groups(self) -> dict[int, Group]:
        """Return the groups."""
        await asyncio.sleep(0)
        return dict(self.groups)

    async def rivals(self, destinations: Container[Prefix]) -> dict[Prefix, Rival]:
        """Return which of the destinations others have routes to."""
        return {prefix: rival for prefix, rival in self.foreign.items() if prefix in destinations}

    async def write(self, changes: Sequence[Change]) -> list[Refusal]:
        """Apply in order; return what was refused. Others get a turn before and after, as with a long write."""
        await asyncio.sleep(0)
        self.written += changes
        refusals = [refusal for index, change in enumerate(changes) for refusal in self._apply(index, change)]
        await asyncio.sleep(0)
        return refusals

    async def tidy(self) -> None:
        """Do nothing: there are no single next hops here."""

    def close(self) -> None:
        """Do nothing."""

    def _apply(self, index: int, change: Change) -> list[Refusal]:
        if self._faults:
            return [_refusal(index, self._faults.pop(0))]
        if isinstance(change, PutGroup):
            return self._put_group(index, change)
        if isinstance(change, PutRoute):
            return self._put_route(index, change)
        if isinstance(change, DropRoute):
            self.routes.pop(change.destination, None)
            self.mtus.pop(change.destination, None)
        else:
            self._drop_group(change.group)
        return []

    def _put_group(self, index: int, change: PutGroup) -> list[Refusal]:
        if change.is_new == (change.group in self.groups):
            return [_refusal(index, errno.EEXIST if change.is_new else errno.ENOENT)]
        former = self.groups.get(change.group, change)
        if (former.form is Form.SINGLE) != (change.form is Form.SINGLE):
            return [_refusal(index, errno.EINVAL)]
        dead = [hop for hop in change.next_hops if hop.interface in self._down]
        if not dead:
            self.groups[change.group] = Group(change.family, change.next_hops, change.form)
        return [_refusal(index, errno.ENETDOWN, hop) for hop in dead]

    def _put_route(self, index: int, change: PutRoute) -> list[Refusal]:
        if change.group != BLACKHOLE and change.group not in self.groups:
            return [_refusal(index, errno.EINVAL)]
        is_there = change.destination in self.routes
        if change.is_new and (is_there or self._has_twin(change.destination)):
            return [_refusal(index, errno.EEXIST)]
        if not change.is_new and not is_there:
            return [_refusal(index, errno.ENOENT)]
        self.routes[change.destination] = change.group
        self.mtus.pop(change.destination, None)
        if change.mtu:
            self.mtus[change.destination] = change.mtu
        return []

    def _has_twin(self, destination: Prefix) -> bool:
        rival = self.foreign.get(destination)
        return rival is not None and rival.metric == METRIC

    def _drop_group(self, number: int) -> None:
        self.groups.pop(number, None)
        self.routes = {prefix: group for prefix, group in self.routes.items() if group != number}


def _refusal(index: int, number: int, hop: NextHop | None = None) -> Refusal:
    return Refusal(index, number, os.strerror(number), hop)
