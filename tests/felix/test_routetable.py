"""The contract of `felix.routetable.RouteTable`, held by both kernel tables and the fake."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from socket import if_nametoindex
from typing import Protocol

import pytest

from felix.encap import Outer
from felix.faketable import FakeRouteTable
from felix.inlinetable import InlineRouteTable
from felix.objecttable import ObjectRouteTable
from felix.route import METRIC, NextHop
from felix.routetable import (
    BLACKHOLE,
    UNKNOWN,
    Change,
    DropGroup,
    DropRoute,
    Form,
    Group,
    PutGroup,
    PutRoute,
    Rival,
    RouteTable,
)
from inet.prefix import Family, Prefix, parse_address
from tests.felix.netns import Node

PREFIXES = {
    Family.IPV4: [Prefix.parse(f"10.42.{i}.0/24") for i in range(4)],
    Family.IPV6: [Prefix.parse(f"fd42:0:0:{i}::/64") for i in range(4)],
}


class World(Protocol):
    """A route table and the hands that reach into its kernel."""

    @property
    def table(self) -> RouteTable: ...
    def again(self) -> RouteTable: ...
    def hop(self, family: Family, i: int) -> NextHop: ...
    def link_down(self, i: int) -> None: ...
    def link_up(self, i: int) -> None: ...
    def add_foreign(self, prefix: Prefix, metric: int) -> None: ...
    def foreign(self, prefix: Prefix) -> str: ...


class FakeWorld:
    def __init__(self) -> None:
        self.table = FakeRouteTable()

    def again(self) -> RouteTable:
        return self.table

    def hop(self, family: Family, i: int) -> NextHop:
        return NextHop(bytes([i + 1] * (4 if family is Family.IPV4 else 16)), i + 1)

    def link_down(self, i: int) -> None:
        self.table.link_down(i + 1)

    def link_up(self, i: int) -> None:
        self.table.link_up(i + 1)

    def add_foreign(self, prefix: Prefix, metric: int) -> None:
        self.table.foreign[prefix] = Rival(metric, 4)

    def foreign(self, prefix: Prefix) -> str:
        return str(self.table.foreign[prefix])


class KernelWorld:
    def __init__(self, node: Node, kind: type[ObjectRouteTable | InlineRouteTable]) -> None:
        self.node = node
        self._kind = kind
        self._tables = [kind()]
        self.table: RouteTable = self._tables[0]

    def again(self) -> RouteTable:
        self._tables.append(self._kind())
        return self._tables[-1]

    def close(self) -> None:
        for table in self._tables:
            table.close()

    def hop(self, family: Family, i: int) -> NextHop:
        return self.node.hop(family, i)

    def link_down(self, i: int) -> None:
        self.node.ip(f"link set a{i} down")

    def link_up(self, i: int) -> None:
        self.node.ip(f"link set a{i} up")
        deadline = time.monotonic() + 30
        while f"fd00:{i + 1}::/64" not in self.node.ip("-6 route show proto kernel"):
            assert time.monotonic() < deadline

    def add_foreign(self, prefix: Prefix, metric: int) -> None:
        self.node.ip(f"route add blackhole {prefix} proto static metric {metric}")

    def foreign(self, prefix: Prefix) -> str:
        version = "-4" if prefix.family is Family.IPV4 else "-6"
        return self.node.ip(f"{version} route show {prefix} proto static")


@pytest.fixture(
    params=[
        "fake",
        pytest.param("objects", marks=pytest.mark.kernel),
        pytest.param("inline", marks=pytest.mark.kernel),
    ],
)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "fake":
        yield FakeWorld()
        return
    node: Node = request.getfixturevalue("node")
    world = KernelWorld(node, ObjectRouteTable if request.param == "objects" else InlineRouteTable)
    yield world
    world.close()


async def contents(table: RouteTable) -> dict[Prefix, tuple[NextHop, ...] | int]:
    """Return what a dump says, with each group replaced by what it holds."""
    routes = await table.dump_routes()
    groups = await table.dump_groups()
    return {prefix: groups[number].next_hops if number in groups else number for prefix, number in routes.items()}


async def write(table: RouteTable, *changes: Change) -> None:
    assert await table.write(changes) == []


async def put(world: World, family: Family, *links: int, form: Form = Form.HASHED) -> int:
    """Create a group over these links."""
    number = world.table.new_group(family)
    hops = tuple(sorted(world.hop(family, i) for i in links))
    await write(world.table, PutGroup(number, family, hops, is_new=True, form=form))
    return number


async def test_a_kernel_without_our_routes_is_empty(world: World) -> None:
    assert await world.table.dump_routes() == {}
    assert await world.table.dump_groups() == {}


async def test_routes_read_back_as_they_were_written(world: World, family: Family) -> None:
    first, second, third, _ = PREFIXES[family]
    pair, single = await put(world, family, 0, 1), await put(world, family, 1)
    await write(
        world.table,
        PutRoute(first, pair, is_new=True),
        PutRoute(second, single, is_new=True),
        PutRoute(third, BLACKHOLE, is_new=True),
    )
    assert await world.table.dump_routes() == {first: pair, second: single, third: BLACKHOLE}
    assert await world.table.dump_groups() == {
        pair: Group(family, (world.hop(family, 0), world.hop(family, 1))),
        single: Group(family, (world.hop(family, 1),)),
    }


async def test_a_route_has_an_mtu_of_its_own_where_it_is_given_one(world: World, family: Family) -> None:
    first, second, *_ = PREFIXES[family]
    pair, single = await put(world, family, 0, 1), await put(world, family, 1)
    await write(
        world.table,
        PutRoute(first, pair, is_new=True, mtu=1400),
        PutRoute(second, single, is_new=True, mtu=1400),
    )
    again = world.again()
    await again.dump_routes()
    assert world.table.mtus == again.mtus == {first: 1400, second: 1400}
    await write(world.table, PutRoute(first, pair, is_new=False), PutRoute(second, single, is_new=False, mtu=1300))
    await again.dump_routes()
    assert again.mtus == {second: 1300}
    await write(world.table, PutGroup(single, family, (world.hop(family, 0),), is_new=False))
    await again.dump_routes()
    assert again.mtus == {second: 1300}, "whatever becomes of its group"
    await write(world.table, DropRoute(second))
    assert world.table.mtus == {}


async def test_a_restart_finds_what_was_left_behind(world: World, family: Family) -> None:
    first, second, *_ = PREFIXES[family]
    pair = await put(world, family, 0, 1)
    await write(world.table, PutRoute(first, pair, is_new=True), PutRoute(second, BLACKHOLE, is_new=True))
    assert await contents(world.again()) == {
        first: (world.hop(family, 0), world.hop(family, 1)),
        second: BLACKHOLE,
    }


async def test_routes_follow_their_group(world: World, family: Family) -> None:
    group = await put(world, family, 0, 1)
    await write(world.table, *(PutRoute(prefix, group, is_new=True) for prefix in PREFIXES[family]))
    for links in ((1,), (0,), (0, 1)):
        hops = tuple(world.hop(family, i) for i in links)
        await write(world.table, PutGroup(group, family, hops, is_new=False))
        await world.table.tidy()
        assert await contents(world.table) == dict.fromkeys(PREFIXES[family], hops)


async def test_routes_follow_their_single_next_hop(world: World, family: Family) -> None:
    group = await put(world, family, 0, form=Form.SINGLE)
    await write(world.table, *(PutRoute(prefix, group, is_new=True) for prefix in PREFIXES[family]))
    for link in (1, 0):
        hops = (world.hop(family, link),)
        await write(world.table, PutGroup(group, family, hops, is_new=False, form=Form.SINGLE))
        await world.table.tidy()
        assert await contents(world.table) == dict.fromkeys(PREFIXES[family], hops)
    assert await contents(world.again()) == dict.fromkeys(PREFIXES[family], hops)
    await write(world.table, DropGroup(group))
    assert await contents(world.table) == {}


async def test_a_single_next_hop_on_a_dead_link_is_named_and_goes_with_its_routes(world: World, family: Family) -> None:
    prefix, other, *_ = PREFIXES[family]
    doomed, spared = [await put(world, family, i, form=Form.SINGLE) for i in range(2)]
    await write(world.table, PutRoute(prefix, doomed, is_new=True), PutRoute(other, spared, is_new=True))
    world.link_down(0)
    found = await contents(world.table)
    assert found.pop(other) == (world.hop(family, 1),)
    assert set(found.values()) <= {UNKNOWN}
    assert set(await world.table.dump_groups()) == {spared}
    (refusal,) = await world.table.write(
        [PutGroup(doomed, family, (world.hop(family, 0),), is_new=True, form=Form.SINGLE)]
    )
    assert (refusal.errno, refusal.next_hop) == (errno.ENETDOWN, world.hop(family, 0))
    (refusal,) = await world.table.write(
        [PutGroup(spared, family, (world.hop(family, 0),), is_new=False, form=Form.SINGLE)]
    )
    assert (refusal.errno, refusal.next_hop) == (errno.ENETDOWN, world.hop(family, 0))
    assert (await contents(world.table))[other] == (world.hop(family, 1),)


async def test_a_single_next_hop_that_is_gone_is_not_made_anew_by_an_edit(world: World, family: Family) -> None:
    edit = PutGroup(world.table.new_group(family), family, (world.hop(family, 0),), is_new=False, form=Form.SINGLE)
    (refusal,) = await world.table.write([edit])
    assert (refusal.errno, refusal.next_hop) == (errno.ENOENT, None)
    assert await world.table.dump_groups() == {}


async def test_a_route_can_be_led_elsewhere_and_back(world: World, family: Family) -> None:
    prefix = PREFIXES[family][0]
    pair, single = await put(world, family, 0, 1), await put(world, family, 0)
    await write(world.table, PutRoute(prefix, pair, is_new=True))
    for group in (BLACKHOLE, single, pair):
        await write(world.table, PutRoute(prefix, group, is_new=False))
        assert await world.table.dump_routes() == {prefix: group}


async def test_deleting_what_is_not_there_is_no_error(world: World, family: Family) -> None:
    group = world.table.new_group(family)
    await write(world.table, DropRoute(PREFIXES[family][0]), DropGroup(group))


async def test_a_refused_change_leaves_the_others_done(world: World, family: Family) -> None:
    first, second, third, fourth = PREFIXES[family]
    group = await put(world, family, 0)
    await write(world.table, PutRoute(second, group, is_new=True))
    refusals = await world.table.write(
        [
            PutRoute(first, group, is_new=True),
            PutRoute(second, group, is_new=True),
            PutRoute(third, group, is_new=False),
            PutRoute(fourth, group, is_new=True),
        ]
    )
    assert [(r.position, r.errno) for r in refusals] == [(1, errno.EEXIST), (2, errno.ENOENT)]
    assert set(await world.table.dump_routes()) == {first, second, fourth}


async def test_a_route_to_a_group_that_is_not_there_is_refused(world: World, family: Family) -> None:
    (refusal,) = await world.table.write([PutRoute(PREFIXES[family][0], 77, is_new=True)])
    assert refusal.errno == errno.EINVAL


async def test_a_group_that_is_gone_is_not_made_anew_by_an_edit(world: World, family: Family) -> None:
    group = world.table.new_group(family)
    (refusal,) = await world.table.write([PutGroup(group, family, (world.hop(family, 0),), is_new=False)])
    assert refusal.errno == errno.ENOENT
    assert await world.table.dump_groups() == {}


async def test_dropping_a_group_drops_its_routes(world: World, family: Family) -> None:
    first, second, *_ = PREFIXES[family]
    doomed, spared = await put(world, family, 0), await put(world, family, 1)
    await write(world.table, PutRoute(first, doomed, is_new=True), PutRoute(second, spared, is_new=True))
    await write(world.table, DropGroup(doomed))
    assert await world.table.dump_routes() == {second: spared}


async def test_a_hop_on_a_dead_link_is_named_and_the_group_works_without_it(world: World, family: Family) -> None:
    world.link_down(0)
    group = world.table.new_group(family)
    dead, alive = world.hop(family, 0), world.hop(family, 1)
    (refusal,) = await world.table.write([PutGroup(group, family, (dead, alive), is_new=True)])
    assert (refusal.errno, refusal.next_hop) == (errno.ENETDOWN, dead)
    assert refusal.message
    await write(world.table, PutGroup(group, family, (alive,), is_new=True))
    assert await world.table.dump_groups() == {group: Group(family, (alive,))}


async def test_a_dead_link_leaves_the_groups_and_takes_routes_that_had_no_other(world: World, family: Family) -> None:
    first, second, *_ = PREFIXES[family]
    pair, single = await put(world, family, 0, 1), await put(world, family, 0)
    await write(world.table, PutRoute(first, pair, is_new=True), PutRoute(second, single, is_new=True))
    world.link_down(0)
    found = await contents(world.table)
    assert found.pop(first) == (world.hop(family, 1),)
    assert set(found.values()) <= {UNKNOWN}
    assert single not in await world.table.dump_groups()


async def test_hops_can_be_put_back_when_the_link_returns(world: World, family: Family) -> None:
    prefix = PREFIXES[family][0]
    pair = await put(world, family, 0, 1)
    await write(world.table, PutRoute(prefix, pair, is_new=True))
    world.link_down(0)
    await contents(world.table)
    world.link_up(0)
    hops = (world.hop(family, 0), world.hop(family, 1))
    await write(world.table, PutGroup(pair, family, hops, is_new=False))
    assert await contents(world.table) == {prefix: hops}


async def test_a_foreign_route_with_our_metric_is_neither_replaced_nor_deleted(world: World, family: Family) -> None:
    prefix = PREFIXES[family][0]
    group = await put(world, family, 0)
    world.add_foreign(prefix, METRIC)
    before = world.foreign(prefix)
    (refusal,) = await world.table.write([PutRoute(prefix, group, is_new=True)])
    assert refusal.errno == errno.EEXIST
    await write(world.table, DropRoute(prefix))
    assert world.foreign(prefix) == before
    assert await world.table.dump_routes() == {}


async def test_rivals_are_routes_of_others_to_the_same_destination(world: World, family: Family) -> None:
    first, second, third, _ = PREFIXES[family]
    group = await put(world, family, 0)
    await write(world.table, PutRoute(first, group, is_new=True), PutRoute(second, group, is_new=True))
    world.add_foreign(first, 100)
    world.add_foreign(third, 100)
    assert await world.table.rivals({first, second}) == {first: Rival(100, 4)}


async def test_ipv4_routes_lead_through_ipv6_gateways(world: World) -> None:
    prefix = PREFIXES[Family.IPV4][0]
    hops = tuple(sorted([world.hop(Family.IPV6, 0), world.hop(Family.IPV4, 1)]))
    group = world.table.new_group(Family.IPV4)
    await write(world.table, PutGroup(group, Family.IPV4, hops, is_new=True), PutRoute(prefix, group, is_new=True))
    assert await contents(world.again()) == {prefix: hops}
    single = await put(world, Family.IPV4, 0, form=Form.SINGLE)
    await write(world.table, PutRoute(prefix, single, is_new=False))
    for hop in hops:
        await write(world.table, PutGroup(single, Family.IPV4, (hop,), is_new=False, form=Form.SINGLE))
        assert await contents(world.again()) == {prefix: (hop,)}


async def test_next_hops_without_a_gateway_lead_onto_the_link(world: World, family: Family) -> None:
    prefix = PREFIXES[family][0]
    hops = (NextHop(b"", world.hop(family, 0).interface),)
    group = world.table.new_group(family)
    await write(world.table, PutGroup(group, family, hops, is_new=True), PutRoute(prefix, group, is_new=True))
    assert await contents(world.again()) == {prefix: hops}


def tunnel_hop(node: Node, family: Family) -> NextHop:
    """Make a device that any encapsulation goes through; return a next hop with one."""
    node.ip("link add vx9 type vxlan external dstport 4789 nolearning")
    node.ip("link set vx9 up")
    far, near = ("10.0.0.9", "10.0.0.1") if family is Family.IPV4 else ("fd00:1::9", "fd00:1::1")
    gateway = parse_address(far if family is Family.IPV4 else "fe80::9").packed
    outer = Outer(parse_address(far).packed, parse_address(near).packed)
    return NextHop(gateway, if_nametoindex("vx9"), onlink=True, outer=outer)


@pytest.mark.kernel
@pytest.mark.parametrize("kind", [ObjectRouteTable, InlineRouteTable], ids=["objects", "inline"])
async def test_a_tunnel_is_part_of_a_next_hop_and_found_again(
    node: Node, family: Family, kind: type[ObjectRouteTable | InlineRouteTable]
) -> None:
    table, hop, prefix = kind(), tunnel_hop(node, family), PREFIXES[family][0]
    direct = node.hop(family, 0)
    group = table.new_group(family)
    assert await table.write([PutGroup(group, family, (hop,), is_new=True), PutRoute(prefix, group, is_new=True)]) == []
    again = kind()
    number = (await again.dump_routes())[prefix]
    assert (await again.dump_groups())[number] == Group(family, (hop,))
    other = "10.0.0.9" if family is Family.IPV4 else "fd00:1::9"
    shown = node.ip("nexthop show") + node.ip(f"{'-4' if family is Family.IPV4 else '-6'} route show {prefix}")
    assert f"src {'10.0.0.1' if family is Family.IPV4 else 'fd00:1::1'} dst {other}" in shown
    assert await table.write([PutGroup(group, family, (direct,), is_new=False)]) == []
    assert "encap" not in node.ip(f"{'-4' if family is Family.IPV4 else '-6'} route show {prefix}")
    for each in (table, again):
        each.close()
