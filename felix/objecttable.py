"""The route table on kernel nexthop objects (Linux 5.3 and later).

A group of one next hop that is to stay one is a single object of its own; packets then choose nothing. Each other is
a group object, and each next hop that some group object needs a single object that all of them share. All are found
again by id range and protocol after a restart. The shared objects are this module's affair alone: they are created
just before the first group that needs them, in the same write, and removed by `tidy`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import cycle
from typing import Final, TypeAlias

from felix import nexthops, routemessages
from felix.kernelroutes import KernelRoutes
from felix.netlink import Failure, dump, in_turns
from felix.nexthops import GROUP_IDS, HOP_IDS, KernelHop, KernelNextHop
from felix.route import PROTOCOL, NextHop
from felix.routetable import (
    BLACKHOLE,
    UNKNOWN_HOP,
    Change,
    DropGroup,
    DropRoute,
    Form,
    Group,
    PutGroup,
    PutRoute,
    Refusal,
)
from inet.prefix import Family, Prefix

_HopKey: TypeAlias = tuple[int, NextHop]  # family of the object, hop

_GONE: Final = (errno.ENOENT, errno.ESRCH)


class ObjectRouteTable(KernelRoutes):
    """Routes that lead to nexthop objects by id. See `felix.routetable.RouteTable`."""

    has_nexthop_objects: Final = True

    def __init__(self) -> None:
        super().__init__()
        self._hops: dict[_HopKey, int] = {}  # one object to use for each hop
        self._keys: dict[int, _HopKey] = {}  # the same the other way round
        self._hop_ids: set[int] = set()  # every single object that is ours
        self._members: dict[int, tuple[int, ...]] = {}  # group id -> hop ids
        self._taken: set[int] = set()  # ids of our ranges that are in use, by anyone
        self._free_hops = cycle(HOP_IDS)
        self._free_groups = {family: cycle(ids) for family, ids in GROUP_IDS.items()}

    async def can_be_resilient(self) -> bool:
        """Return whether the kernel makes such a group, which a moment later is gone again."""
        hop, group = self._new_id(self._free_hops), self.new_group(Family.IPV4)
        requests = (
            nexthops.create_blackhole(hop),
            nexthops.put_group(group, (hop,), is_new=True, is_resilient=True),
            nexthops.delete(group),
            nexthops.delete(hop),
        )
        failures = await self._netlink.write(requests)
        self._taken -= {hop, group}
        return not failures

    def new_group(self, family: Family) -> int:
        """Return an id for a group that is yet to be created."""
        return self._new_id(self._free_groups[family])

    async def dump_routes(self) -> dict[Prefix, int]:
        """Return our routes and where each leads. Raises OSError."""
        routes: dict[Prefix, int] = {}
        mtus: dict[Prefix, int] = {}
        for family in Family:
            rows = await dump(
                routemessages.dump(family, protocol=PROTOCOL), partial(routemessages.parse_own, mtus=mtus)
            )
            async for piece in in_turns(rows):
                routes.update(piece)
        self.mtus = mtus
        return routes

    async def dump_groups(self) -> dict[int, Group]:
        """Return our groups with the next hops that the kernel still has in them. Raises OSError."""
        rows: list[KernelNextHop] = await dump(nexthops.DUMP, nexthops.parse)
        own_hops = {
            row.id: row for row in rows if isinstance(row, KernelHop) and row.protocol == PROTOCOL and row.id in HOP_IDS
        }
        self._hops = {(row.family, row.hop): row.id for row in own_hops.values()}
        self._keys = {number: key for key, number in self._hops.items()}
        self._hop_ids = set(own_hops)
        self._taken = {row.id for row in rows}
        self._members = {}
        groups: dict[int, Group] = {}
        for row in rows:
            family = _family_of_group(row.id)
            if row.protocol != PROTOCOL or family is None:
                continue
            if isinstance(row, KernelHop):
                groups[row.id] = Group(family, (_usable_hop(row, family),), Form.SINGLE)
                continue
            self._members[row.id] = row.members
            hops = (_usable_hop(own_hops.get(member), family) for member in row.members)
            form = Form.RESILIENT if row.is_resilient else Form.HASHED
            groups[row.id] = Group(family, tuple(sorted(hops)) if row.is_even else (UNKNOWN_HOP,), form)
        return groups

    async def write(self, changes: Sequence[Change]) -> list[Refusal]:
        """Apply in order; return what was refused.

        A group that is refused for no reason of its own names a hop that the kernel took away meanwhile: what
        there is is looked up, and those groups are written once more.
        """
        refusals: list[Refusal] = []
        position = 0
        async for piece in in_turns(changes):
            refusals += [r._replace(position=position + r.position) for r in await self._write(piece)]
            position += len(piece)
        doubtful = [r.position for r in refusals if r.errno == errno.EINVAL and r.next_hop is None]
        doubtful = [index for index in doubtful if isinstance(changes[index], PutGroup)]
        if not doubtful:
            return refusals
        await self.dump_groups()
        again = await self._write([changes[index] for index in doubtful])
        return [r for r in refusals if r.position not in doubtful] + [
            r._replace(position=doubtful[r.position]) for r in again
        ]

    async def tidy(self) -> None:
        """Remove single objects that no group holds any more. One that stays behind is met again by a later tidy."""
        used = {member for members in self._members.values() for member in members}
        idle = sorted(self._hop_ids - used)
        if not idle:
            return
        for number in idle:
            self._hop_ids.discard(number)
            key = self._keys.pop(number, None)
            if key is not None and self._hops.get(key) == number:
                del self._hops[key]
        await self._netlink.write(nexthops.delete(number) for number in idle)
        self._taken.difference_update(idle)

    async def _write(self, changes: Sequence[Change]) -> list[Refusal]:
        says_mtu = bool(self.mtus) or any(isinstance(change, PutRoute) and change.mtu for change in changes)
        requests: list[bytes] = []
        origins: list[tuple[int, _HopKey | None]] = []  # of each request: its change, and the hop that it creates
        for index, change in enumerate(changes):
            if isinstance(change, PutGroup):
                for key in self._missing_hops(change):
                    requests.append(nexthops.put_hop(self._adopt_new_hop(key), Family(key[0]), key[1], is_new=True))
                    origins.append((index, key))
            requests.append(self._request(change, says_mtu=says_mtu))
            origins.append((index, None))
        refused_hops: dict[_HopKey, Failure] = {}
        refused: dict[int, Failure] = {}
        for failure in await self._netlink.write(requests):
            index, hop = origins[failure.position]
            if hop is None:
                refused[index] = failure
            else:
                refused_hops[hop] = failure
        for key in refused_hops:
            self._hop_ids.discard(self._hops.pop(key))
        refusals: list[Refusal] = []
        for index, change in enumerate(changes):
            reasons = _reasons(index, change, refused.get(index), refused_hops)
            refusals += reasons
            if not reasons:
                self._note(change)
        return refusals

    def _request(self, change: Change, *, says_mtu: bool) -> bytes:
        if isinstance(change, PutRoute):
            if change.group == BLACKHOLE:
                return routemessages.put_blackhole(change.destination, is_new=change.is_new)
            mtu = change.mtu if says_mtu else None
            return routemessages.put_by_group(change.destination, change.group, is_new=change.is_new, mtu=mtu)
        if isinstance(change, DropRoute):
            return routemessages.delete(change.destination)
        if isinstance(change, DropGroup):
            return nexthops.delete(change.group)
        if change.form is Form.SINGLE:
            (hop,) = change.next_hops
            family = nexthops.family_of_hop(hop, change.family)
            return nexthops.put_hop(change.group, family, hop, is_new=change.is_new)
        is_resilient = change.form is Form.RESILIENT
        return nexthops.put_group(
            change.group, self._member_ids(change), is_new=change.is_new, is_resilient=is_resilient
        )

    def _note(self, change: Change) -> None:
        """Remember what a change that took effect means for groups and MTUs."""
        if isinstance(change, PutRoute | DropRoute):
            self._note_mtu(change)
        elif isinstance(change, PutGroup):
            if change.form is not Form.SINGLE:
                self._members[change.group] = self._member_ids(change)
        elif isinstance(change, DropGroup):
            self._members.pop(change.group, None)
            self._taken.discard(change.group)

    def _member_ids(self, change: PutGroup) -> tuple[int, ...]:
        return tuple(self._hops[key] for key in _keys(change))

    def _missing_hops(self, change: PutGroup) -> list[_HopKey]:
        return [] if change.form is Form.SINGLE else [key for key in _keys(change) if key not in self._hops]

    def _adopt_new_hop(self, key: _HopKey) -> int:
        number = self._new_id(self._free_hops)
        self._hops[key] = number
        self._keys[number] = key
        self._hop_ids.add(number)
        return number

    def _new_id(self, candidates: Iterator[int]) -> int:
        number = next(number for number in candidates if number not in self._taken)
        self._taken.add(number)
        return number


def _key(hop: NextHop, family: Family) -> _HopKey:
    return nexthops.family_of_hop(hop, family), hop


def _keys(change: PutGroup) -> list[_HopKey]:
    return [_key(hop, change.family) for hop in change.next_hops]


def _usable_hop(found: KernelHop | None, family: Family) -> NextHop:
    """Return the hop of an object, UNKNOWN_HOP if it is not ours or of no use to routes of the family."""
    if found is None or found.family != nexthops.family_of_hop(found.hop, family):
        return UNKNOWN_HOP
    return found.hop


def _family_of_group(number: int) -> Family | None:
    return next((family for family, ids in GROUP_IDS.items() if number in ids), None)


def _reasons(
    index: int, change: Change, failure: Failure | None, refused_hops: dict[_HopKey, Failure]
) -> list[Refusal]:
    """Say why a change failed, if it did: a group for each of its hops that was refused, if that is the reason."""
    if isinstance(change, PutGroup) and change.form is Form.SINGLE:
        if failure is None:
            return []
        is_of_id = failure.errno == (errno.EEXIST if change.is_new else errno.ENOENT)
        return [Refusal(index, failure.errno, failure.message, None if is_of_id else change.next_hops[0])]
    if isinstance(change, PutGroup) and refused_hops:
        reasons = ((hop, refused_hops.get(_key(hop, change.family))) for hop in change.next_hops)
        refusals = [Refusal(index, reason.errno, reason.message, hop) for hop, reason in reasons if reason]
        if refusals:
            return refusals
    if failure is None or (isinstance(change, DropRoute | DropGroup) and failure.errno in _GONE):
        return []
    return [Refusal(index, failure.errno, failure.message)]
