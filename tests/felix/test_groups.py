"""The groups against the route table in memory: one for each set of next hops, and what stands in the way of one."""

from __future__ import annotations

import asyncio
import errno

import pytest

from felix.faketable import FakeRouteTable
from felix.groups import GroupRecord, Groups
from felix.routetable import BLACKHOLE, UNKNOWN, DropGroup, Form, Group, PutGroup
from inet.prefix import Family
from tests.felix.routes import hop, hops


@pytest.fixture
def table() -> FakeRouteTable:
    return FakeRouteTable()


@pytest.fixture
def groups(table: FakeRouteTable) -> Groups:
    return Groups(table)


def used(groups: Groups, family: Family, *links: int) -> GroupRecord:
    """Return the record for hops on these links, with one route more."""
    record = groups.claim(family, hops(family, *links))
    groups.use(record)
    return record


async def written(groups: Groups, family: Family, *links: int) -> GroupRecord:
    """Return such a record, in the kernel."""
    record = used(groups, family, *links)
    assert await groups.write() == []
    assert groups.is_usable(record)
    return record


class TestClaims:
    def test_equal_next_hops_are_one_record_and_families_share_none(self, groups: Groups) -> None:
        record = used(groups, Family.IPV6, 1, 2)
        assert used(groups, Family.IPV6, 2, 1) is record
        assert record.users == 2
        assert used(groups, Family.IPV6, 1) is not record
        assert groups.claim(Family.IPV4, record.wanted) is not record

    async def test_nothing_is_written_for_a_record_without_routes(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        record = groups.claim(family, hops(family, 1))
        await groups.write()
        assert (table.written, groups.pending, groups.is_usable(record)) == ([], 0, False)

    async def test_a_group_is_written_once(self, groups: Groups, table: FakeRouteTable, family: Family) -> None:
        record = used(groups, family, 1, 2)
        assert (groups.pending, groups.is_usable(record), record.number) == (1, False, UNKNOWN)
        await groups.write()
        assert table.groups == {record.number: Group(family, hops(family, 1, 2))}
        assert (groups.pending, groups.is_usable(record), groups.written) == (0, True, 1)
        used(groups, family, 1, 2)
        await groups.write()
        assert groups.written == len(table.written) == 1

    async def test_a_record_is_found_by_its_number(self, groups: Groups, family: Family) -> None:
        record = await written(groups, family, 1)
        assert groups.of_number(record.number) is record
        assert groups.of_number(BLACKHOLE) is groups.blackhole
        assert groups.of_number(UNKNOWN) is groups.of_number(record.number + 1) is groups.unknown

    def test_a_blackhole_can_always_be_led_to_and_the_unknown_never(self, groups: Groups) -> None:
        for record in (groups.blackhole, groups.unknown):
            groups.use(record)
            groups.release(record)
        assert groups.is_usable(groups.blackhole)
        assert not groups.is_usable(groups.unknown)
        assert groups.pending == 0
        assert not groups.unknown.serves(groups.blackhole.wanted, groups.blackhole.form)

    async def test_a_group_without_routes_goes_when_that_is_asked_for_and_can_be_claimed_until_then(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        record = await written(groups, family, 1)
        groups.release(record)
        assert groups.claim(family, hops(family, 1)) is record
        await groups.write()
        assert record.number in table.groups
        await groups.drop_unused()
        assert table.groups == {}
        assert not groups.is_usable(record)
        assert groups.claim(family, hops(family, 1)) is not record

    async def test_a_group_in_use_is_not_dropped(self, groups: Groups, table: FakeRouteTable, family: Family) -> None:
        record, other = await written(groups, family, 1), await written(groups, family, 2)
        groups.use(record)
        groups.release(record)
        groups.release(other)
        await groups.drop_unused()
        assert set(table.groups) == {record.number}

    async def test_a_group_in_use_is_not_dropped_because_it_is_not_as_wanted(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        record = await written(groups, family, 1)
        await groups.move(hops(family, 1), hops(family, 2))
        table.groups[record.number] = Group(family, hops(family, 3), Form.SINGLE)
        await groups.check()
        await groups.drop_unused()
        assert set(table.groups) == {record.number}

    async def test_nothing_is_kept_of_groups_that_are_gone(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        for link in range(1, 9):
            table.fail_next(errno.ENOMEM, link % 2)
            table.link_down(link if link % 3 == 0 else 0)
            record = used(groups, family, link, 99)
            await groups.write()
            groups.release(record)
            await groups.drop_unused()
        kept = (groups._by_wanted, groups._by_number, groups._refused_hops, groups._refused_groups)
        assert [len(each) for each in kept] == [0] * 4
        contents = groups._contents
        assert [contents.desired, contents.actual, contents.pending] == [{}, {}, {}]

    async def test_what_groups_held_is_tidied_up_whether_or_not_one_goes(
        self, groups: Groups, table: FakeRouteTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tidied: list[int] = []

        async def tidy() -> None:
            tidied.append(len(table.groups))

        monkeypatch.setattr(table, "tidy", tidy)
        record = await written(groups, Family.IPV4, 1)
        await groups.drop_unused()
        groups.release(record)
        await groups.drop_unused()
        assert tidied == [1, 0]  # after the groups, which held the hops

    async def test_a_group_that_cannot_be_dropped_is_tried_again(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        first, second = await written(groups, family, 1), await written(groups, family, 2)
        for record in (first, second):
            groups.release(record)
        table.fail_next(errno.EBUSY)
        await groups.drop_unused()
        assert set(table.groups) == {first.number}
        await groups.drop_unused()
        assert table.groups == {}

    async def test_the_next_hops_are_those_in_the_kernel_or_else_those_wanted(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        table.link_down(2)
        record = used(groups, family, 1, 2)
        assert groups.next_hops(record) == hops(family, 1, 2)
        await groups.write()
        assert groups.next_hops(record) == hops(family, 1)


class TestRefusals:
    async def test_a_group_goes_on_without_a_refused_hop_until_its_link_is_allowed(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        table.link_down(2)
        record = await written(groups, family, 1, 2)
        assert table.groups[record.number].next_hops == hops(family, 1)
        problem = groups.problem(record)
        assert problem is not None
        assert (problem.errno, problem.next_hop) == (errno.ENETDOWN, hop(family, 2))
        assert groups.pending == 1
        table.link_up(2)
        groups.allow(1)
        await groups.write()
        assert table.groups[record.number].next_hops == hops(family, 1)
        groups.allow(2)
        await groups.write()
        assert table.groups[record.number].next_hops == hops(family, 1, 2)
        assert (groups.problem(record), groups.pending) == (None, 0)

    async def test_a_hop_that_is_refused_to_one_group_is_left_out_of_the_others(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        await written(groups, family, 1)
        table.link_down(2)
        pair = used(groups, family, 2, 3)
        await groups.write()
        table.written.clear()
        triple = used(groups, family, 1, 2, 3)
        await groups.write()
        assert table.written == [PutGroup(triple.number, family, hops(family, 1, 3), is_new=True)]
        assert table.groups[pair.number].next_hops == hops(family, 3)

    async def test_a_hop_that_is_refused_to_one_family_is_not_to_the_other(
        self, groups: Groups, table: FakeRouteTable
    ) -> None:
        through = hops(Family.IPV6, 1)
        table.link_down(1)
        refused = groups.claim(Family.IPV4, through)
        groups.use(refused)
        await groups.write()
        table.link_up(1)
        fine = groups.claim(Family.IPV6, through)
        groups.use(fine)
        await groups.write()
        assert [groups.is_usable(record) for record in (refused, fine)] == [False, True]

    async def test_a_group_that_has_no_other_hop_is_not_in_the_kernel(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        table.link_down(1)
        table.link_down(2)
        record = used(groups, family, 1, 2)
        assert await groups.write() == []
        assert (table.groups, groups.is_usable(record), groups.pending) == ({}, False, 1)
        assert groups.problem(record) is not None
        for link in (1, 2):
            table.link_up(link)
        groups.allow()
        await groups.write()
        assert table.next_hops() == {}
        assert table.groups[record.number].next_hops == hops(family, 1, 2)

    async def test_a_refused_group_is_not_tried_again_until_something_is_allowed(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        table.fail_next(errno.ENOMEM)
        record = used(groups, family, 1)
        await groups.write()
        await groups.write()
        assert len(table.written) == 1
        problem = groups.problem(record)
        assert problem is not None
        assert (problem.errno, problem.next_hop) == (errno.ENOMEM, None)
        groups.allow(7)  # memory is no matter of a link
        await groups.write()
        assert (groups.is_usable(record), groups.problem(record)) == (True, None)

    async def test_an_id_that_is_taken_is_passed_over(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        taken = {number: Group(family, hops(family, 9)) for number in (1, 2, 3)}
        table.groups = dict(taken)
        record = await written(groups, family, 1)
        assert table.groups == {**taken, record.number: Group(family, hops(family, 1), Form.SINGLE)}

    async def test_ids_that_are_all_taken_do_not_keep_it_busy_for_ever(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        table.fail_next(errno.EEXIST, 100)
        record = used(groups, family, 1)
        async with asyncio.timeout(30):
            await groups.write()
        assert not groups.is_usable(record)
        assert len(table.written) < 100

    async def test_what_was_said_of_a_hop_is_forgotten_with_its_last_group(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        table.link_down(1)
        record = used(groups, family, 1)
        other = used(groups, family, 1, 2)
        await groups.write()
        table.link_up(1)
        groups.release(record)
        again = used(groups, family, 1)  # nobody has said that the link is back: `other` still wants the hop
        await groups.write()
        assert not groups.is_usable(again)
        groups.release(again)
        groups.release(other)
        await groups.drop_unused()
        await written(groups, family, 1)

    async def test_what_was_said_of_a_hop_is_forgotten_when_its_group_moves_away(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        table.link_down(1)
        used(groups, family, 1)
        await groups.write()
        await groups.move(hops(family, 1), hops(family, 2))
        table.link_up(1)
        await written(groups, family, 1)


class TestLinks:
    def test_a_link_is_used_by_the_groups_that_want_a_hop_there(self, groups: Groups, family: Family) -> None:
        record = used(groups, family, 1, 2)
        assert [groups.uses(link) for link in (1, 2, 3)] == [True, True, False]
        groups.release(record)
        assert [groups.uses(link) for link in (1, 2, 3)] == [False] * 3

    async def test_a_group_that_lost_its_last_hop_is_told_with_its_routes(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        single, pair = await written(groups, family, 1), await written(groups, family, 1, 2)
        table.link_down(1)
        assert await groups.check() == [single]
        assert not groups.is_usable(single)
        assert groups.next_hops(pair) == hops(family, 2)
        assert groups.of_number(single.number) is groups.unknown
        assert groups.pending == 2
        assert await groups.check() == []

    async def test_a_group_whose_change_shows_that_it_is_gone_is_told_and_made_anew(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        record = await written(groups, family, 1)
        former = record.number
        table.groups.clear()
        assert await groups.move(hops(family, 1), hops(family, 2)) == [record]
        assert record.number != former
        assert table.groups == {record.number: Group(family, hops(family, 2), Form.SINGLE)}

    async def test_a_group_whose_only_hop_is_refused_in_a_move_takes_its_routes_along(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        record = await written(groups, family, 1)
        table.link_down(2)
        assert await groups.move(hops(family, 1), hops(family, 2)) == [record]
        assert isinstance(table.written[-1], DropGroup)
        assert (table.groups, groups.is_usable(record)) == ({}, False)


class TestMoves:
    async def test_every_group_of_the_old_hops_is_edited_in_place_in_both_manners(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        plain = await written(groups, family, 1, 2)
        assert await groups.choose_resilient(wanted=True)
        resilient = await written(groups, family, 1, 2)
        table.written.clear()
        await groups.move(hops(family, 1, 2), hops(family, 2))
        assert [type(change) for change in table.written] == [PutGroup, PutGroup]
        assert table.groups == {
            plain.number: Group(family, hops(family, 2)),
            resilient.number: Group(family, hops(family, 2), Form.RESILIENT),
        }

    async def test_after_a_move_two_groups_may_hold_the_same_and_the_older_is_claimed(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        first, second = await written(groups, family, 2, 3), await written(groups, family, 1, 2, 3)
        await groups.move(second.wanted, first.wanted)
        assert len(table.groups) == 2
        assert groups.claim(family, hops(family, 2, 3)) is first
        assert second.serves(first.wanted, first.form)
        groups.release(first)
        await groups.drop_unused()
        assert groups.claim(family, hops(family, 2, 3)) is second

    async def test_a_single_next_hop_is_replaced_by_another_and_never_by_several(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        record = await written(groups, family, 1)
        number = record.number
        await groups.move(hops(family, 1), hops(family, 2))
        assert table.groups == {number: Group(family, hops(family, 2), Form.SINGLE)}
        table.written.clear()
        assert await groups.move(hops(family, 2), hops(family, 1, 2)) == []
        assert (table.written, record.wanted, groups.pending) == ([], hops(family, 2), 0)
        assert groups.claim(family, hops(family, 2)) is record

    async def test_a_move_to_what_it_is_writes_nothing(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        await written(groups, family, 1)
        table.written.clear()
        await groups.move(hops(family, 1), hops(family, 1))
        await groups.move(hops(family, 3), hops(family, 1))
        assert table.written == []

    async def test_a_refused_group_is_tried_again_with_other_hops(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        table.fail_next(errno.ENOMEM)
        record = used(groups, family, 1)
        await groups.write()
        await groups.move(hops(family, 1), hops(family, 2))
        assert groups.is_usable(record)


class TestAdoption:
    async def test_what_is_there_is_owned_and_claimed_by_its_next_hops(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        table.groups = {5: Group(family, hops(family, 1)), 6: Group(family, hops(family, 1, 2))}
        assert await groups.check() == []
        record = used(groups, family, 1, 2)
        assert (record.number, groups.of_number(6), groups.pending) == (6, record, 0)
        await groups.drop_unused()
        assert set(table.groups) == {6}
        assert [type(change) for change in table.written] == [DropGroup]

    async def test_a_group_that_a_hand_changed_is_put_right(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        record = await written(groups, family, 1)
        table.groups[record.number] = Group(family, hops(family, 3), Form.SINGLE)
        assert await groups.check() == []
        assert (groups.next_hops(record), groups.pending) == (hops(family, 3), 1)
        await groups.write()
        assert table.groups[record.number].next_hops == hops(family, 1)

    async def test_a_group_in_whose_place_a_hand_put_one_of_another_form_is_gone(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        record = await written(groups, family, 1)
        number = record.number
        table.groups[number] = Group(family, hops(family, 1))
        assert await groups.check() == [record]
        other = groups.of_number(number)
        assert (other.form, other.wanted) == (Form.HASHED, hops(family, 1))
        assert await groups.write() == []
        assert (groups.is_usable(record), record.number != number) == (True, True)

    async def test_a_resilient_group_is_owned_as_one(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        table.groups = {5: Group(family, hops(family, 1, 2), Form.RESILIENT)}
        table.knows_resilient = False  # it has one: nothing is asked
        await groups.check()
        assert groups.claim(family, hops(family, 1, 2)).number == UNKNOWN
        assert await groups.choose_resilient(wanted=True)
        assert groups.claim(family, hops(family, 1, 2)).number == 5

    async def test_a_kernel_without_resilient_groups_is_no_reason_to_give_the_plain_ones_up(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        table.knows_resilient = False
        assert not await groups.choose_resilient(wanted=True)
        assert not groups.is_resilient
        record = await written(groups, family, 1, 2)
        assert record.form is Form.HASHED
        assert await groups.choose_resilient(wanted=False)

    async def test_groups_alike_in_hops_and_not_in_form_do_not_serve_for_each_other(
        self, groups: Groups, family: Family
    ) -> None:
        plain = await written(groups, family, 1, 2)
        assert await groups.choose_resilient(wanted=True)
        resilient = await written(groups, family, 1, 2)
        assert plain.number != resilient.number
        assert not plain.serves(resilient.wanted, resilient.form)
        assert not resilient.serves(plain.wanted, plain.form)

    async def test_with_one_next_hop_any_form_serves(
        self, groups: Groups, table: FakeRouteTable, family: Family
    ) -> None:
        table.groups = {n: Group(family, hops(family, 1), form) for n, form in enumerate(Form, 1)}
        await groups.check()
        for wanted in (False, True):
            assert await groups.choose_resilient(wanted=wanted)
            form = groups.form_of(hops(family, 1))
            assert form is Form.SINGLE
            assert all(groups.of_number(n).serves(hops(family, 1), form) for n in table.groups)
            assert not any(groups.of_number(n).serves(hops(family, 2), form) for n in table.groups)


async def test_two_writers_at_a_time_write_each_group_once(
    groups: Groups, table: FakeRouteTable, family: Family
) -> None:
    used(groups, family, 1)
    await asyncio.gather(groups.write(), groups.write(), groups.move(hops(family, 1), hops(family, 2)))
    assert len(table.groups) == 1
    assert [change.next_hops for change in table.written if isinstance(change, PutGroup)] == [
        hops(family, 1),
        hops(family, 2),
    ]
