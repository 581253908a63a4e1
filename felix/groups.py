"""The groups that routes share: which there should be, which the kernel has, and what stands in the way.

A `GroupRecord` is shared by every route with the same next hops. Routes refer to the record, not to its content,
so that moving all of them to other next hops changes one record and one kernel group, and no route is looked at.
After a move two records may hold the same next hops: they stay two, each with its routes. The form of a group stays
what it was when it was claimed: where another is needed, routes are given another group.

A hop that the kernel refuses (its link is down, its gateway is not on a link) is set aside: groups go on without
it until `allow`. A group that has no other hop is not in the kernel, and its routes cannot be.
"""

from __future__ import annotations

import asyncio
import errno
from collections import defaultdict
from itertools import product
from typing import Final

from felix.delta import Delta
from felix.route import NextHop
from felix.routetable import BLACKHOLE, UNKNOWN, DropGroup, Form, Group, PutGroup, Refusal, RouteTable
from inet.prefix import Family

_ROUNDS: Final = 8  # each sets a refused hop aside, or tries another id


class GroupRecord:
    """One group, compared by identity. `wanted` is sorted; `users` counts routes that lead or should lead here."""

    __slots__ = ("family", "form", "number", "users", "wanted")

    def __init__(
        self, family: Family | None, wanted: tuple[NextHop, ...], number: int = UNKNOWN, form: Form = Form.HASHED
    ) -> None:
        self.family = family
        self.wanted = wanted
        self.form = form
        self.number = number  # its id in the kernel, once it is there
        self.users = 0

    def serves(self, next_hops: tuple[NextHop, ...], form: Form) -> bool:
        """Whether routes that should lead to a group of these next hops and this form may lead to this one."""
        return bool(next_hops) and self.wanted == next_hops and (self.form is form or len(next_hops) == 1)


class Groups:
    """All group records, and the way to have them in the kernel."""

    def __init__(self, table: RouteTable) -> None:
        self.blackhole = GroupRecord(None, (), BLACKHOLE)
        self.unknown = GroupRecord(None, (), UNKNOWN)
        self.written = 0
        self.is_resilient = False
        self._table = table
        self._contents: Delta[GroupRecord, tuple[NextHop, ...]] = Delta()
        self._by_wanted: defaultdict[Group, list[GroupRecord]] = defaultdict(list)
        self._by_number: dict[int, GroupRecord] = {}
        self._refused_hops: dict[tuple[Family, NextHop], Refusal] = {}
        self._refused_groups: dict[GroupRecord, Refusal] = {}
        self._lock = asyncio.Lock()

    def form_of(self, next_hops: tuple[NextHop, ...]) -> Form:
        """Return the form of a group that is claimed now."""
        if len(next_hops) == 1:
            return Form.SINGLE
        return Form.RESILIENT if self.is_resilient else Form.HASHED

    def claim(self, family: Family, next_hops: tuple[NextHop, ...]) -> GroupRecord:
        """Return the record for these next hops, a new one if there is none. To be followed by `use`."""
        form = self.form_of(next_hops)
        records = self._by_wanted[Group(family, next_hops, form)]
        if not records:
            records.append(GroupRecord(family, next_hops, form=form))
        return records[0]

    def use(self, record: GroupRecord) -> None:
        """Count one more route."""
        record.users += 1
        if record.users == 1:
            self._refresh(record)

    def release(self, record: GroupRecord) -> None:
        """Count one route less. A record without any can still be claimed while the kernel has its group."""
        record.users -= 1
        if record.users == 0:
            self._refresh(record)
            self._forget_if_gone(record)

    async def choose_resilient(self, *, wanted: bool) -> bool:
        """Have groups that are claimed from now on be resilient, or not; return False where the kernel cannot.

        Raises OSError. The kernel is not asked, which shows, where it has such groups.
        """
        is_proven = not wanted or any(record.form is Form.RESILIENT for record in self._contents.actual)
        if not is_proven and not await self._table.can_be_resilient():
            return False
        self.is_resilient = wanted
        return True

    def has_single(self, wanted: tuple[NextHop, ...]) -> bool:
        """Return whether some group that should hold these next hops can never hold several."""
        return any(self._by_wanted.get(Group(family, wanted, Form.SINGLE)) for family in Family)

    def is_usable(self, record: GroupRecord) -> bool:
        """Return whether a route can lead here now."""
        return record in self._contents.actual or record is self.blackhole

    def of_number(self, number: int) -> GroupRecord:
        """Return the record of a kernel id, of BLACKHOLE, or the one for all that is unknown."""
        return self.blackhole if number == BLACKHOLE else self._by_number.get(number, self.unknown)

    def next_hops(self, record: GroupRecord) -> tuple[NextHop, ...]:
        """Return the next hops that the kernel uses, or would, for a group that it does not have."""
        return self._contents.actual.get(record, record.wanted)

    def problem(self, record: GroupRecord) -> Refusal | None:
        """Return why a group is not in the kernel as wanted, if the kernel refused it or a hop of it."""
        if record in self._refused_groups:
            return self._refused_groups[record]
        return next((refusal for hop in record.wanted if (refusal := self._refusal(record, hop))), None)

    @property
    def pending(self) -> int:
        """How many groups in use the kernel has not, or with other next hops than wanted."""
        return sum(1 for record in self._records() if record.users and not self._is_as_wanted(record))

    def uses(self, interface: int) -> bool:
        """Return whether some group wants a hop on a link."""
        return any(hop.interface == interface for record in self._records() for hop in record.wanted)

    def allow(self, interface: int | None = None) -> None:
        """Let hops on a link that were set aside be tried again, and refused groups: None stands for all links."""
        self._refused_groups.clear()
        for family, hop in list(self._refused_hops):
            if interface in (None, hop.interface):
                del self._refused_hops[family, hop]
                self._refresh_with(family, hop)

    async def write(self) -> list[GroupRecord]:
        """Bring the groups in use into the kernel. Return those that went meanwhile, and their routes with them."""
        async with self._lock:
            return await self._write()

    async def move(self, old: tuple[NextHop, ...], new: tuple[NextHop, ...]) -> list[GroupRecord]:
        """Give every group that should hold `old` the next hops `new`, in the kernel too. Returns as `write` does.

        Single ones stay as they are where `new` is several: their routes need another group.
        """
        forms = [form for form in Form if form is not Form.SINGLE or len(new) == 1]
        async with self._lock:
            for family, form in product(Family, forms):
                for record in self._by_wanted.pop(Group(family, old, form), []):
                    record.wanted = new
                    self._by_wanted[Group(family, new, form)].append(record)
                    self._refused_groups.pop(record, None)
                    self._refresh(record)
                self._forget_refusals(family, old)
            return await self._write()

    async def check(self) -> list[GroupRecord]:
        """Look what the kernel has, and own all that is there. Return groups that are gone with their routes."""
        async with self._lock:
            kernel = await self._table.dump_groups()
            gone: list[GroupRecord] = []
            for record, content in list(self._contents.actual.items()):
                group = kernel.get(record.number)
                if group is None or group.form is not record.form:
                    self._lose(record)
                    gone.append(record)
                    continue
                del kernel[record.number]
                if group.next_hops != content:
                    self._contents.found(record, group.next_hops)
            for number, group in kernel.items():
                record = GroupRecord(group.family, group.next_hops, number, group.form)
                self._by_wanted[group].append(record)
                self._keep(record, group.next_hops)
            return gone

    async def drop_unused(self) -> None:
        """Remove from the kernel what no route leads or should lead to. What fails is met again the next time."""
        async with self._lock:
            unused = [record for record in self._contents.pending if not record.users]
            if unused:
                refusals = await self._table.write([DropGroup(record.number) for record in unused])
                stay = {refusal.position for refusal in refusals}
                for position, record in enumerate(unused):
                    if position not in stay:
                        self._lose(record)
            await self._table.tidy()

    async def _write(self) -> list[GroupRecord]:
        gone: list[GroupRecord] = []
        for _ in range(_ROUNDS):
            records = [r for r in self._contents.pending if r.users and r not in self._refused_groups]
            if not records:
                break
            changes = [self._change(record) for record in records]
            refusals: defaultdict[int, list[Refusal]] = defaultdict(list)
            self.written += len(changes)
            for refusal in await self._table.write(changes):
                refusals[refusal.position].append(refusal)
            for position, (record, change) in enumerate(zip(records, changes, strict=True)):
                if self._took_routes_along(record, change, refusals[position]):
                    gone.append(record)
        return gone

    def _change(self, record: GroupRecord) -> PutGroup | DropGroup:
        content = self._contents.desired.get(record)
        if content is None or record.family is None:  # no hop is left that could be used
            return DropGroup(record.number)
        is_new = record not in self._contents.actual
        if is_new:
            record.number = self._table.new_group(record.family)
        return PutGroup(record.number, record.family, content, is_new, record.form)

    def _took_routes_along(self, record: GroupRecord, change: PutGroup | DropGroup, refusals: list[Refusal]) -> bool:
        """Take in what became of a change; return whether the group's routes are gone from the kernel."""
        if not refusals:
            if isinstance(change, PutGroup):
                self._keep(record, change.next_hops)
                return False
            self._lose(record)
            return True
        for refusal in refusals:
            if refusal.next_hop is not None and record.family is not None:
                self._refused_hops[record.family, refusal.next_hop] = refusal
                self._refresh_with(record.family, refusal.next_hop)
            elif isinstance(change, PutGroup) and refusal.errno == (errno.EEXIST if change.is_new else errno.ENOENT):
                if not change.is_new:
                    self._lose(record)
                    return True
                # The id is taken: the next round tries another.
            else:
                self._refused_groups[record] = refusal
        return False

    def _keep(self, record: GroupRecord, content: tuple[NextHop, ...]) -> None:
        self._by_number[record.number] = record
        self._contents.found(record, content)

    def _lose(self, record: GroupRecord) -> None:
        self._by_number.pop(record.number, None)
        self._contents.lost(record)
        self._forget_if_gone(record)

    def _forget_if_gone(self, record: GroupRecord) -> None:
        if record.users or record in self._contents.actual or record.family is None:
            return
        self._refused_groups.pop(record, None)
        key = Group(record.family, record.wanted, record.form)
        records = self._by_wanted.get(key, [])
        if record in records:
            records.remove(record)
        if not records:
            self._by_wanted.pop(key, None)
        self._forget_refusals(record.family, record.wanted)

    def _forget_refusals(self, family: Family, hops: tuple[NextHop, ...]) -> None:
        """Forget what the kernel said of hops that no group wants any more: it may be long out of date."""
        for key in [(family, hop) for hop in hops if (family, hop) in self._refused_hops]:
            if not any(record.family is family and key[1] in record.wanted for record in self._records()):
                del self._refused_hops[key]

    def _refresh(self, record: GroupRecord) -> None:
        """Work out what a group should hold: what is wanted, less the hops that were refused."""
        content = tuple(hop for hop in record.wanted if self._refusal(record, hop) is None)
        if content and record.users:
            self._contents.want(record, content)
        else:
            self._contents.unwant(record)

    def _refresh_with(self, family: Family, hop: NextHop) -> None:
        for record in self._records():
            if record.family is family and hop in record.wanted:
                self._refresh(record)

    def _refusal(self, record: GroupRecord, hop: NextHop) -> Refusal | None:
        return None if record.family is None else self._refused_hops.get((record.family, hop))

    def _records(self) -> list[GroupRecord]:
        return [record for records in self._by_wanted.values() for record in records]

    def _is_as_wanted(self, record: GroupRecord) -> bool:
        return self._contents.actual.get(record) == record.wanted
