"""Routes as they should be, and the kernel made to have them.

In go routes (`set`, `remove`, `move`) and news of the kernel (`link_changed`, `route_changed`, `next_hops_changed`,
`resync`); `apply` writes the difference: new groups, then routes, then removals, then groups that nobody uses.
What the kernel refuses comes back as values, and waits for `retry`, for news about it, or for another wish.

After a restart `adopt` owns what a former life left behind. Until `release` those routes stay as they are (RFC 4724
section 4.1: forwarding state is kept while the peers send theirs again); a route that is set to what it already is
claims its place, and nothing is written for it. A `move` takes them along: next hops that died are dead for them,
too. Adopted routes that nobody claimed go, unless the guard says that these are suspiciously many.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Final, TypeAlias

from felix.delta import Delta
from felix.groups import GroupRecord, Groups
from felix.guard import MassDeleteGuard
from felix.installed import InstalledRoute, State
from felix.netlink import in_turns
from felix.route import METRIC, Kind, NextHop, Route, RouteError, unicast
from felix.routetable import DropRoute, PutRoute, Refusal, Rival, RouteTable
from inet.prefix import Prefix

_Prefixes: TypeAlias = set[Prefix]  # a class with a method `set` cannot say this itself
_PASSES: Final = 4  # of one apply: each looks at the kernel again where a write showed that we knew it wrong


class _Due(enum.IntEnum):
    """What to look up in the kernel before anything else is written."""

    NOTHING = 0
    GROUPS = 1
    EVERYTHING = 2


class Fib:
    """The routes of this node. One task at a time works on the kernel; `set` and its like never wait."""

    def __init__(
        self,
        table: RouteTable,
        *,
        clock: Callable[[], float] = time.monotonic,
        guard: MassDeleteGuard | None = None,
    ) -> None:
        self.guard = guard or MassDeleteGuard(started=clock())
        self.repaired = 0
        """How many routes went from the kernel or were changed there without our doing."""
        self.refused = 0
        """How many changes of routes the kernel refused."""
        self._written = 0
        self._mtu_of: Callable[[Prefix], int] | None = None
        self._table = table
        self._clock = clock
        self._groups = Groups(table)
        self._routes: Delta[Prefix, GroupRecord] = Delta()
        self._since: dict[Prefix, float] = {}
        self._errors: dict[Prefix, RouteError] = {}
        self._conflicts: _Prefixes = set()  # refused with EEXIST, and looked up since: not ours
        self._doubtful: _Prefixes = set()  # changed by someone: gone, or no longer as we wrote them
        self._overtaken: _Prefixes = set()  # changed by someone after the last dump or write began: it knows nothing
        self._is_deferring = False
        self._adopted: _Prefixes = set()  # not to be touched before `release`
        self._claims: dict[Prefix, Route] = {}  # what was set for them meanwhile
        self._unclaimed: _Prefixes = set()  # what was adopted, released, and never set
        self._due = _Due.NOTHING
        self._losses = 0  # counts losses of whole groups, to notice one in the middle of a write
        self._lock = asyncio.Lock()

    # Wishes

    def set(self, route: Route) -> None:
        """Say that a route should be. The last word about a destination counts."""
        if route.destination in self._adopted:
            self._claims[route.destination] = route
        else:
            self._want(route)

    def remove(self, destination: Prefix) -> None:
        """Say that no route to a destination should be."""
        if destination in self._adopted:
            self._claims.pop(destination, None)
        else:
            self._unwant(destination)

    async def move(self, old: tuple[NextHop, ...], new: tuple[NextHop, ...]) -> None:
        """Give every route whose next hops should be `old` the next hops `new`, in the kernel before this returns.

        Takes one write for each group of `old`, usually one, however many routes there are. Both are sorted and
        not empty. Moves happen one after another: once `old` has become `new`, a move of `new` takes it along. What
        else is needed is left to `apply`: routes that were lost with their group, and those that had a single next
        hop and get several.
        """
        for destination, route in self._claims.items():
            if route.next_hops == old:
                self._claims[destination] = route._replace(next_hops=new)
        self._forget_routes_of(await self._groups.move(old, new))
        if len(new) > 1 and self._groups.has_single(old):
            async for piece in in_turns(list(self._routes.desired.items())):
                for destination, record in piece:
                    if record.wanted == old:
                        self._want(unicast(destination, new))

    async def choose_resilient(self, *, wanted: bool) -> bool:
        """Have groups keep flows on the hops that they have, or not; from the next `apply` on routes follow.

        Returns False, and leaves everything as it is, where the kernel has no such groups. Raises OSError.
        """
        if wanted == self._groups.is_resilient:
            return True
        if not await self._groups.choose_resilient(wanted=wanted):
            return False
        async for piece in in_turns(list(self._routes.desired)):
            for destination in piece:
                record = self._routes.desired.get(destination)
                if record is not None and record.wanted and destination not in self._adopted:
                    self._want(unicast(destination, record.wanted))
        return True

    async def choose_mtu(self, mtu_of: Callable[[Prefix], int]) -> None:
        """Say which routes are to have an MTU of their own: 0 for one that takes what its links take.

        Until then, and until `release`, routes keep those that they have. From the next `apply` on they are as said.
        """
        self._mtu_of = mtu_of
        async for piece in in_turns(list(self._routes.actual.items())):
            for destination, record in piece:
                if record.wanted and destination not in self._adopted and not self._has_right_mtu(destination):
                    self._keep(destination, self._groups.unknown)

    def _has_right_mtu(self, destination: Prefix) -> bool:
        return self._mtu_of is None or self._table.mtus.get(destination, 0) == self._mtu_of(destination)

    # Start

    async def adopt(self) -> None:
        """Own the routes that are in the kernel, and leave them alone until `release`. Raises OSError."""
        async with self._lock:
            self._is_deferring = True
            await self._resync()
            self.repaired = 0
            self._adopted = set(self._routes.actual)
            async for piece in in_turns(list(self._routes.actual.items())):
                for destination, record in piece:
                    if record is not self._groups.unknown:
                        self._groups.use(record)
                        self._routes.want(destination, record)

    async def release(self) -> None:
        """End the deferral: from the next `apply` on, adopted routes are changed as was asked, or removed."""
        async for piece in in_turns(list(self._adopted)):
            for destination in piece:
                self._adopted.discard(destination)
                route = self._claims.pop(destination, None)
                if route is None:
                    self._unwant(destination)
                    self._unclaimed.add(destination)
                else:
                    self._want(route)
        self._is_deferring = False
        if self._mtu_of is not None:
            await self.choose_mtu(self._mtu_of)

    # News of the kernel

    def link_changed(self, interface: int) -> bool:
        """A link went up or down, or its addresses changed: groups may have lost hops, and may use others again.

        Returns whether any group wants to use the link.
        """
        self._groups.allow(interface)
        is_used = self._groups.uses(interface)
        if is_used:
            self._look_up(_Due.GROUPS)
        return is_used

    def next_hops_changed(self) -> None:
        """Someone else changed our nexthop objects."""
        self._look_up(_Due.GROUPS)

    def route_changed(self, destination: Prefix) -> None:
        """Someone else deleted or changed our route to a destination, or a route that stood in its way."""
        self._overtaken.add(destination)
        self._errors.pop(destination, None)
        self._conflicts.discard(destination)
        if destination not in self._routes.desired:
            self._keep(destination, self._groups.unknown)  # perhaps one that nobody asked for: to be removed
            return
        self._doubtful.add(destination)
        if destination in self._routes.actual:
            self.repaired += 1
            self._lose(destination)

    def retry(self) -> None:
        """Let everything that was refused be tried again by the next `apply`."""
        self._errors.clear()
        self._groups.allow()

    async def resync(self) -> None:
        """Compare everything with the kernel (after lost events, and every few minutes). `apply` repairs it."""
        self._look_up(_Due.EVERYTHING)
        async with self._lock:
            await self._look()

    # Writing

    async def apply(self) -> list[RouteError]:
        """Write what differs. Returns what was refused just now; the rest is done. Raises OSError if a dump fails."""
        async with self._lock:
            refused: _Prefixes = set()
            for _ in range(_PASSES):
                await self._look()
                self._forget_routes_of(await self._groups.write())
                refused |= await self._write_routes()
                if self._due is _Due.NOTHING:
                    break
            if not self._is_deferring:
                await self._groups.drop_unused()
            return [self._errors[destination] for destination in refused if destination in self._errors]

    @property
    def pending(self) -> int:
        """How many routes and groups are not in the kernel as they should be."""
        return len(self._routes.pending) + self._groups.pending

    @property
    def errors(self) -> dict[Prefix, RouteError]:
        """What is refused, and why."""
        errors = {prefix: error for prefix in self._routes.pending if (error := self._problem(prefix)) is not None}
        return errors | self._errors

    @property
    def written(self) -> int:
        """How many changes of routes and groups were given to the kernel."""
        return self._written + self._groups.written

    @property
    def count(self) -> int:
        """How many routes are in the kernel."""
        return len(self._routes.actual)

    @property
    def destinations(self) -> list[Prefix]:
        """Where routes through next hops should lead; after a start, those of before, too, until `release`."""
        return [prefix for prefix, record in self._routes.desired.items() if record.wanted]

    @property
    def has_nexthop_objects(self) -> bool:
        """Whether the kernel moves groups by itself; without, each route is rewritten."""
        return self._table.has_nexthop_objects

    async def installed(self) -> list[InstalledRoute]:
        """Return every route that should be or is, IPv4 first. Asks the kernel for routes of others. Raises OSError."""
        everything = self._routes.desired.keys() | self._routes.actual.keys()
        destinations = sorted(everything, key=lambda each: (each.family, each))
        rivals = await self._table.rivals(set(destinations))
        return [
            self._describe(destination, rivals.get(destination))
            async for piece in in_turns(destinations)
            for destination in piece
            if destination in self._routes.desired or destination in self._routes.actual
        ]

    def _want(self, route: Route) -> None:
        destination = route.destination
        self._unclaimed.discard(destination)
        current = self._routes.desired.get(destination)
        if route.kind is Kind.BLACKHOLE:
            record = self._groups.blackhole
        elif current is not None and current.serves(route.next_hops, self._groups.form_of(route.next_hops)):
            return
        else:
            record = self._groups.claim(destination.family, route.next_hops)
        if record is current:
            return
        self._errors.pop(destination, None)
        self._desire(destination, record)

    def _desire(self, destination: Prefix, record: GroupRecord) -> None:
        current = self._routes.desired.get(destination)
        self._groups.use(record)
        self._routes.want(destination, record)
        if current is not None:
            self._groups.release(current)

    def _unwant(self, destination: Prefix) -> None:
        record = self._routes.desired.get(destination)
        if record is not None:
            self._errors.pop(destination, None)
            self._conflicts.discard(destination)
            self._routes.unwant(destination)
            self._groups.release(record)
            if destination in self._doubtful:
                self._keep(destination, self._groups.unknown)

    def _keep(self, destination: Prefix, record: GroupRecord) -> None:
        """Note that the kernel has a route."""
        former = self._routes.actual.get(destination)
        self._groups.use(record)
        self._routes.found(destination, record)
        self._errors.pop(destination, None)
        self._doubtful.discard(destination)
        self._conflicts.discard(destination)
        if former is None:
            self._since[destination] = self._clock()
        else:
            self._groups.release(former)

    def _lose(self, destination: Prefix) -> None:
        """Note that the kernel has no route of ours."""
        record = self._routes.actual.get(destination)
        if record is not None:
            self._routes.lost(destination)
            self._groups.release(record)
            self._since.pop(destination, None)
            self._unclaimed.discard(destination)

    def _look_up(self, due: _Due) -> None:
        if due is _Due.GROUPS and not self._table.has_nexthop_objects:
            due = _Due.EVERYTHING  # only routes tell what the kernel did to their hops
        self._due = max(self._due, due)

    async def _look(self) -> None:
        due, self._due = self._due, _Due.NOTHING
        try:
            if due is _Due.EVERYTHING:
                await self._resync()
            elif due is _Due.GROUPS:
                self._forget_routes_of(await self._groups.check())
        except BaseException:  # cancelled, too: what was due is due still
            self._look_up(due)
            raise

    async def _resync(self) -> None:
        # Routes first: a group that is made meanwhile is then known when the routes are looked at.
        self._overtaken.clear()
        routes = await self._table.dump_routes()
        self._forget_routes_of(await self._groups.check())
        async for piece in in_turns(list(self._routes.actual)):
            for destination in piece:
                if destination not in routes and destination not in self._overtaken:
                    self.repaired += 1
                    self._lose(destination)
        async for rows in in_turns(routes.items()):
            for destination, number in rows:
                if destination not in self._overtaken:
                    record = self._groups.of_number(number)
                    is_free = record.wanted and destination not in self._adopted
                    is_right = not is_free or self._has_right_mtu(destination)
                    self._observe(destination, record if is_right else self._groups.unknown)

    def _observe(self, destination: Prefix, record: GroupRecord) -> None:
        """Compare one route with what the kernel has."""
        if self._routes.actual.get(destination) is record:
            return
        if destination not in self._doubtful:  # those have been counted
            self.repaired += 1
        self._keep(destination, record)
        desired = self._routes.desired.get(destination)
        if desired is not None and desired is not record and record.serves(desired.wanted, desired.form):
            self._desire(destination, record)  # another group, but with the right content: good as it is

    def _forget_routes_of(self, gone: list[GroupRecord]) -> None:
        """Note that groups went, and their routes with them."""
        if not gone:
            return
        self._losses += 1
        lost = set(gone)
        for destination, record in list(self._routes.actual.items()):
            if record in lost:
                self.repaired += 1
                self._lose(destination)
        for destination in [d for d in self._errors if self._routes.desired.get(d) in lost]:
            del self._errors[destination]

    def _change(self, destination: Prefix) -> PutRoute | DropRoute | None:
        desired = self._routes.desired.get(destination)
        if desired is not None and not self._groups.is_usable(desired):
            desired = None
        actual = self._routes.actual.get(destination)
        if desired is actual or destination in self._errors:
            return None
        if desired is None:
            return DropRoute(destination)
        mtu = (self._mtu_of or self._mtu_now)(destination) if desired.wanted else 0
        return PutRoute(destination, desired.number, is_new=actual is None, mtu=mtu)

    def _mtu_now(self, destination: Prefix) -> int:
        return self._table.mtus.get(destination, 0)

    async def _write_routes(self) -> _Prefixes:
        """Write routes, then removals. Returns what was refused."""
        refused: _Prefixes = set()
        drops: list[Prefix] = []
        async for piece in in_turns(list(self._routes.pending)):
            changes = [change for destination in piece if (change := self._change(destination)) is not None]
            refused |= await self._write([change for change in changes if isinstance(change, PutRoute)])
            drops += [change.destination for change in changes if isinstance(change, DropRoute)]
        async for piece in in_turns(self._without_held(drops)):
            # By now another route may be wanted; that one waits for the next apply.
            changes = [change for destination in piece if (change := self._change(destination)) is not None]
            refused |= await self._write([change for change in changes if isinstance(change, DropRoute)])
        return refused

    def _without_held(self, drops: list[Prefix]) -> list[Prefix]:
        """Leave out removals of leftovers that have to wait: for the release, or for the guard."""
        leftovers = {d for d in drops if d in self._adopted or d in self._unclaimed}
        if not self._is_deferring and self.guard.allows(len(leftovers), self.count, self._clock()):
            return drops
        return [destination for destination in drops if destination not in leftovers]

    async def _write(self, changes: Sequence[PutRoute | DropRoute]) -> _Prefixes:
        records = [self._groups.of_number(c.group) if isinstance(c, PutRoute) else None for c in changes]
        losses = self._losses
        self._overtaken.clear()
        refusals = {refusal.position: refusal for refusal in await self._table.write(changes)}
        self._written += len(changes)
        self.refused += len(refusals)
        for position, (change, record) in enumerate(zip(changes, records, strict=True)):
            if change.destination in self._overtaken:
                continue
            if position in refusals:
                self._note_refusal(change, refusals[position])
            elif record is None:
                self._lose(change.destination)
            else:
                self._keep(change.destination, record)
        if self._losses != losses:  # some of these routes may have gone with a group since they were written
            self._look_up(_Due.EVERYTHING)
        return {changes[position].destination for position in refusals}

    def _note_refusal(self, change: PutRoute | DropRoute, refusal: Refusal) -> None:
        destination = change.destination
        message = refusal.message
        if isinstance(change, PutRoute) and not change.is_new and refusal.errno == errno.ENOENT:
            self.repaired += 1
            self._lose(destination)
            self._look_up(_Due.GROUPS)
            return
        if isinstance(change, PutRoute) and change.is_new and refusal.errno == errno.EEXIST:
            message = f"someone else has a route to this destination with metric {METRIC}"
            if destination not in self._conflicts:  # unless it turns out to be ours
                self._conflicts.add(destination)
                self._look_up(_Due.EVERYTHING)
        elif isinstance(change, PutRoute):
            self._look_up(_Due.GROUPS)  # perhaps the group is gone
        self._errors[destination] = RouteError(destination, refusal.errno, message)

    def _problem(self, destination: Prefix) -> RouteError | None:
        """Return why a route cannot be written: its own error, or that of its group."""
        if destination in self._errors:
            return self._errors[destination]
        record = self._routes.desired.get(destination)
        refusal = self._groups.problem(record) if record is not None else None
        if refusal is None:
            return None
        where = ""
        if refusal.next_hop is not None and refusal.next_hop.gateway:
            where = f"next hop {ip_address(refusal.next_hop.gateway)}: "
        return RouteError(destination, refusal.errno, where + refusal.message)

    def _why_still_here(self, destination: Prefix) -> str:
        if destination in self._unclaimed and self.guard.held:
            return f"removal held back: {self.guard.held.removals} of {self.guard.held.total} routes at once"
        return "to be removed"

    def _describe(self, destination: Prefix, rival: Rival | None) -> InstalledRoute:
        desired, actual = self._routes.desired.get(destination), self._routes.actual.get(destination)
        record = actual or desired or self._groups.unknown
        shadow = rival if actual is not None and rival is not None and rival.metric < METRIC else None
        state, reason = State.IN_KERNEL, ""
        if destination in self._routes.pending:
            problem = self._problem(destination)
            state = State.REFUSED if problem else State.PENDING
            reason = problem.message if problem else "" if desired else self._why_still_here(destination)
        elif shadow:
            state = State.SHADOWED
        return InstalledRoute(
            destination,
            Kind.BLACKHOLE if record is self._groups.blackhole else Kind.UNICAST,
            self._groups.next_hops(record),
            state,
            reason,
            shadow,
            self._since.get(destination),
            is_claimed=destination not in self._unclaimed
            and (destination not in self._adopted or destination in self._claims),
        )
