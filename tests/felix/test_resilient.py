"""Resilient groups by choice: flows stay where they are, and a change of mind is followed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from felix.faketable import FakeRouteTable
from felix.fib import Fib
from felix.inlinetable import InlineRouteTable
from felix.objecttable import ObjectRouteTable
from felix.route import blackhole, unicast
from felix.routetable import Form, Group
from inet.prefix import Family, Prefix
from tests.felix.netns import Node
from tests.felix.routes import hop, prefix


@pytest.fixture
def table() -> FakeRouteTable:
    return FakeRouteTable()


async def routed(table: FakeRouteTable, family: Family, *, wanted: bool) -> Fib:
    """Return a Fib with two routes that share a group, a third with one of its own, and a blackhole."""
    fib = Fib(table)
    assert await fib.choose_resilient(wanted=wanted)
    both = (hop(family, 1), hop(family, 2))
    for destination in (1, 2):
        fib.set(unicast(prefix(family, destination), both))
    fib.set(unicast(prefix(family, 3), (hop(family, 1),)))
    fib.set(blackhole(prefix(family, 4)))
    assert await fib.apply() == []
    return fib


def forms(table: FakeRouteTable) -> list[Form]:
    return [group.form for group in table.groups.values()]


async def test_groups_are_resilient_if_that_was_chosen(table: FakeRouteTable, family: Family) -> None:
    await routed(table, family, wanted=True)
    assert forms(table) == [Form.RESILIENT, Form.SINGLE]


async def test_a_change_of_mind_gives_routes_other_groups_with_the_same_hops(
    table: FakeRouteTable, family: Family
) -> None:
    fib = await routed(table, family, wanted=False)
    before = table.next_hops()
    for wanted in (True, False):
        assert await fib.choose_resilient(wanted=wanted)
        assert await fib.apply() == []
        assert table.next_hops() == before
        assert sorted(forms(table), key=str) == [Form.RESILIENT if wanted else Form.HASHED, Form.SINGLE]
        assert fib.pending == 0


async def test_a_resilient_group_moves_in_place(table: FakeRouteTable, family: Family) -> None:
    fib = await routed(table, family, wanted=True)
    numbers = dict(table.routes)
    await fib.move((hop(family, 1), hop(family, 2)), (hop(family, 2),))
    assert table.groups[table.routes[prefix(family, 1)]] == Group(family, (hop(family, 2),), Form.RESILIENT)
    assert table.routes == numbers


async def test_a_restart_with_the_same_choice_writes_nothing(table: FakeRouteTable, family: Family) -> None:
    await routed(table, family, wanted=True)
    table.written.clear()
    table.knows_resilient = False  # not asked: it has some
    fib = Fib(table)
    await fib.adopt()
    assert await fib.choose_resilient(wanted=True)
    for destination in (1, 2):
        fib.set(unicast(prefix(family, destination), (hop(family, 1), hop(family, 2))))
    fib.set(unicast(prefix(family, 3), (hop(family, 1),)))
    fib.set(blackhole(prefix(family, 4)))
    await fib.release()
    await fib.apply()
    assert table.written == []


async def test_a_restart_with_another_choice_waits_for_the_release(table: FakeRouteTable, family: Family) -> None:
    await routed(table, family, wanted=False)
    before = table.next_hops()
    table.written.clear()
    fib = Fib(table)
    await fib.adopt()
    assert await fib.choose_resilient(wanted=True)
    for destination in (1, 2):
        fib.set(unicast(prefix(family, destination), (hop(family, 1), hop(family, 2))))
    await fib.apply()
    assert table.written == []
    fib.set(unicast(prefix(family, 3), (hop(family, 1),)))
    fib.set(blackhole(prefix(family, 4)))
    await fib.release()
    await fib.apply()
    assert table.next_hops() == before
    assert sorted(forms(table), key=str) == [Form.RESILIENT, Form.SINGLE]


async def test_a_kernel_without_them_keeps_what_it_has(table: FakeRouteTable, family: Family) -> None:
    table.knows_resilient = False
    fib = await routed(table, family, wanted=False)
    table.written.clear()
    assert not await fib.choose_resilient(wanted=True)
    await fib.apply()
    assert table.written == []


@pytest.mark.kernel
class TestKernel:
    @pytest.fixture
    def fib(self, node: Node) -> Iterator[Fib]:  # noqa: ARG002 - inside its namespace
        table = ObjectRouteTable()
        yield Fib(table)
        table.close()

    @staticmethod
    def ways(node: Node, family: Family) -> list[str]:
        """Return the link that each of a hundred flows takes. Asking counts as using."""
        base = prefix(family, 1).packed
        addresses = (Prefix(base[:-1] + bytes([i]), len(base) * 8) for i in range(1, 101))
        return [node.ip(f"route get {str(each).split('/')[0]}").split(" dev ")[1].split()[0] for each in addresses]

    @pytest.mark.parametrize("resilient", [True, False])
    async def test_flows_stay_where_they_are_when_a_lost_hop_is_back(
        self, fib: Fib, node: Node, family: Family, *, resilient: bool
    ) -> None:
        # Two that stay: Linux does not notice that a flow is busy where an IPv4 route has one hop alone.
        stay = (node.hop(family, 0, 2), node.hop(family, 0, 3))
        every = (*stay, node.hop(family, 1))
        assert await fib.choose_resilient(wanted=resilient)
        fib.set(unicast(prefix(family, 1), every))
        assert await fib.apply() == []
        assert set(self.ways(node, family)) == {"a0", "a1"}

        await fib.move(every, stay)
        assert set(self.ways(node, family)) == {"a0"}
        # Linux takes a bucket for unused whose only use was in the tick it moved: asked once more, ticks later.
        assert set(self.ways(node, family)) == {"a0"}
        await fib.move(stay, every)

        assert set(self.ways(node, family)) == ({"a0"} if resilient else {"a0", "a1"})

    async def test_it_is_read_back_as_written_and_the_restart_is_silent(
        self, fib: Fib, node: Node, family: Family
    ) -> None:
        wanted = unicast(prefix(family, 1), (node.hop(family, 0), node.hop(family, 1)))
        assert await fib.choose_resilient(wanted=True)
        fib.set(wanted)
        assert await fib.apply() == []
        assert "type resilient" in node.ip("nexthop show proto 97")
        table = ObjectRouteTable()
        with node.monitored() as lines:
            again = Fib(table)
            await again.adopt()
            assert await again.choose_resilient(wanted=True)
            again.set(wanted)
            await again.release()
            await again.apply()
        assert lines == []
        table.close()

    async def test_the_question_leaves_nothing_behind(self, node: Node) -> None:
        table = ObjectRouteTable()
        assert await table.can_be_resilient()
        assert node.ip("nexthop show proto 97") == ""
        table.close()
        inline = InlineRouteTable()
        assert not await inline.can_be_resilient()
        inline.close()
