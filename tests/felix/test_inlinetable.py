"""What the table of routes with their hops inside does beyond the contract of all tables (test_routetable.py)."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from felix.inlinetable import InlineRouteTable
from felix.netlink import NetlinkSocket
from felix.route import METRIC, NextHop
from felix.routemessages import put_by_hops
from felix.routetable import BLACKHOLE, UNKNOWN, DropGroup, DropRoute, Group, PutGroup, PutRoute
from inet.prefix import Family, Prefix
from tests.felix.netns import Node, put_group
from tests.felix.routes import prefix

pytestmark = pytest.mark.kernel


@pytest.fixture
def table(node: Node) -> Iterator[InlineRouteTable]:  # noqa: ARG001 - inside its namespace
    table = InlineRouteTable()
    yield table
    table.close()


async def lead(table: InlineRouteTable, group: int, *destinations: Prefix) -> None:
    assert await table.write([PutRoute(destination, group, is_new=True) for destination in destinations]) == []


async def test_it_has_no_nexthop_objects_and_so_no_resilient_groups(table: InlineRouteTable, node: Node) -> None:
    await lead(table, await put_group(table, node, Family.IPV4, 0, 1), prefix(Family.IPV4, 1))
    assert not table.has_nexthop_objects
    assert not await table.can_be_resilient()
    assert node.ip_json("nexthop show") == []


def test_a_new_group_has_a_number_of_its_own(table: InlineRouteTable, family: Family) -> None:
    numbers = [table.new_group(family) for _ in range(3)]
    assert len({UNKNOWN, BLACKHOLE, *numbers}) == 5


async def test_an_edit_rewrites_the_routes_behind_the_group_and_no_others(
    table: InlineRouteTable, node: Node, family: Family
) -> None:
    edited, other = await put_group(table, node, family, 0), await put_group(table, node, family, 0)
    await lead(table, edited, prefix(family, 1), prefix(family, 2))
    await lead(table, other, prefix(family, 3))
    both = (node.hop(family, 0), node.hop(family, 1))
    assert await table.write([PutGroup(edited, family, both, is_new=False)]) == []
    assert [node.leads(prefix(family, i)) for i in (1, 2, 3)] == [{"a0", "a1"}, {"a0", "a1"}, {"a0"}]


async def test_what_is_written_in_one_go_takes_effect_in_order(
    table: InlineRouteTable, node: Node, family: Family
) -> None:
    number, hop = table.new_group(family), node.hop(family, 1)
    refusals = await table.write(
        [
            PutRoute(prefix(family, 1), number, is_new=True),  # too early
            PutGroup(number, family, (node.hop(family, 0),), is_new=True),
            PutRoute(prefix(family, 2), number, is_new=True),
            PutGroup(number, family, (hop,), is_new=False),
            PutRoute(prefix(family, 3), number, is_new=True),
            PutRoute(prefix(family, 3), number, is_new=True),
            DropRoute(prefix(family, 4)),  # is not there: no error
            PutRoute(prefix(family, 4), number, is_new=False),
        ]
    )
    assert [(refusal.position, refusal.errno) for refusal in refusals] == [
        (0, errno.EINVAL),
        (5, errno.EEXIST),
        (7, errno.ENOENT),
    ]
    assert refusals[0].message == "no such group"
    assert await table.dump_routes() == {prefix(family, 2): number, prefix(family, 3): number}
    assert [node.leads(prefix(family, i)) for i in (2, 3)] == [{"a1"}, {"a1"}]


async def test_routes_keep_their_group_where_two_hold_the_same(
    table: InlineRouteTable, node: Node, family: Family
) -> None:
    first, second = await put_group(table, node, family, 0), await put_group(table, node, family, 0)
    await lead(table, first, prefix(family, 1))
    await lead(table, second, prefix(family, 2))
    assert await table.dump_routes() == {prefix(family, 1): first, prefix(family, 2): second}


async def test_after_a_restart_routes_with_the_same_hops_share_a_group(
    table: InlineRouteTable, node: Node, family: Family
) -> None:
    await lead(table, await put_group(table, node, family, 0, 1), prefix(family, 1), prefix(family, 2))
    await lead(table, await put_group(table, node, family, 0), prefix(family, 3))
    again = InlineRouteTable()
    routes = await again.dump_routes()
    groups = await again.dump_groups()
    assert routes[prefix(family, 1)] == routes[prefix(family, 2)]
    both = tuple(node.hop(family, i) for i in range(2))
    assert [groups[routes[prefix(family, i)]] for i in (2, 3)] == [Group(family, both), Group(family, both[:1])]
    assert len(groups) == 2
    assert again.new_group(family) not in groups
    again.close()


async def test_groups_are_as_the_last_dump_of_routes_found_them(
    table: InlineRouteTable, node: Node, family: Family
) -> None:
    pair, single = await put_group(table, node, family, 0, 1), await put_group(table, node, family, 0)
    await lead(table, pair, prefix(family, 1))
    node.ip("link set a0 down")
    assert set(await table.dump_groups()) == {pair, single}
    routes = await table.dump_routes()
    assert await table.dump_groups() == {pair: Group(family, (node.hop(family, 1),))}
    assert routes == {prefix(family, 1): pair}


async def test_a_route_that_a_hand_led_elsewhere_is_told_by_its_content(
    table: InlineRouteTable, node: Node, family: Family
) -> None:
    first, second = await put_group(table, node, family, 0), await put_group(table, node, family, 1)
    await lead(table, first, prefix(family, 1))
    version = "-4" if family is Family.IPV4 else "-6"
    whose = f"{version} route replace {prefix(family, 1)} proto 97 metric {METRIC}"
    node.ip(f"{whose} via {ip_address(node.hop(family, 1).gateway)} dev a1")
    assert await table.dump_routes() == {prefix(family, 1): second}
    node.ip(f"{whose} via {ip_address(node.hop(family, 1, 9).gateway)} dev a1")
    found = (await table.dump_routes())[prefix(family, 1)]
    assert found not in {first, second}
    assert (await table.dump_groups())[found].next_hops == (node.hop(family, 1, 9),)


async def test_shapes_that_are_never_written_are_unknown(table: InlineRouteTable, node: Node, family: Family) -> None:
    version = "-4" if family is Family.IPV4 else "-6"
    node.ip(f"nexthop add id 7 via {ip_address(node.hop(family, 0).gateway)} dev a0")
    node.ip(f"{version} route add {prefix(family, 1)} nhid 7 proto 97 metric {METRIC}")
    node.ip(f"{version} route add prohibit {prefix(family, 2)} proto 97 metric {METRIC}")
    node.ip(f"{version} route add blackhole {prefix(family, 3)} proto 97 metric {METRIC}")
    assert await table.dump_routes() == {
        prefix(family, 1): UNKNOWN,
        prefix(family, 2): UNKNOWN,
        prefix(family, 3): BLACKHOLE,
    }


@pytest.mark.parametrize("other", ["proto 4 metric 9700", "proto 97 metric 9701", "proto 97 metric 9700 table 100"])
async def test_routes_that_are_not_ours_are_not_told(
    table: InlineRouteTable, node: Node, family: Family, other: str
) -> None:
    version = "-4" if family is Family.IPV4 else "-6"
    node.ip(f"{version} route add blackhole {prefix(family, 1)} {other}")
    assert await table.dump_routes() == {}


async def test_a_route_whose_last_hop_is_dead_leads_nowhere_that_is_known(
    table: InlineRouteTable, node: Node, wire: NetlinkSocket
) -> None:
    destination = prefix(Family.IPV4, 1)
    await lead(table, await put_group(table, node, Family.IPV4, 0), destination)
    node.peer_ip("link set b0 down")  # without a carrier the kernel keeps the IPv4 route
    assert await table.dump_routes() == {destination: UNKNOWN}
    assert await table.dump_groups() == {}
    (failure,) = await wire.write([put_by_hops(destination, [node.hop(Family.IPV4, 1)], is_new=True)])
    assert failure.errno == errno.EEXIST


@pytest.mark.parametrize("is_new", [True, False])
async def test_each_hop_that_no_link_can_carry_is_named(
    table: InlineRouteTable, node: Node, family: Family, is_new: bool
) -> None:
    group = table.new_group(family) if is_new else await put_group(table, node, family, 1)
    node.ip("link set a0 down")
    gone = NextHop(node.hop(family, 1).gateway, 4711)
    refusals = await table.write([PutGroup(group, family, (node.hop(family, 0), node.hop(family, 1), gone), is_new)])
    assert [(each.position, each.errno, each.next_hop) for each in refusals] == [
        (0, errno.ENETDOWN, node.hop(family, 0)),
        (0, errno.ENODEV, gone),
    ]
    assert all(refusal.message for refusal in refusals)
    assert (await table.dump_groups()).get(group) == (None if is_new else Group(family, (node.hop(family, 1),)))


async def test_routes_that_the_kernel_will_not_rewrite_are_one_refusal_of_the_group(
    table: InlineRouteTable, node: Node, family: Family
) -> None:
    group = await put_group(table, node, family, 0)
    await lead(table, group, prefix(family, 1), prefix(family, 2))
    unreachable = NextHop(ip_address("192.0.2.1" if family is Family.IPV4 else "2001:db8::1").packed, node.interface(1))
    refusals = await table.write([DropRoute(prefix(family, 3)), PutGroup(group, family, (unreachable,), is_new=False)])
    assert [refusal.position for refusal in refusals] == [1]
    assert await table.dump_groups() == {group: Group(family, (node.hop(family, 0),))}
    assert set((await table.dump_routes()).values()) == {group}
    assert [node.leads(prefix(family, i)) for i in (1, 2)] == [{"a0"}, {"a0"}]


async def test_a_dropped_group_takes_its_routes_and_no_others(
    table: InlineRouteTable, node: Node, family: Family
) -> None:
    doomed, spared = await put_group(table, node, family, 0), await put_group(table, node, family, 0)
    await lead(table, doomed, prefix(family, 1), prefix(family, 2))
    await lead(table, spared, prefix(family, 3))
    node.ip(f"{'-4' if family is Family.IPV4 else '-6'} route del {prefix(family, 2)} proto 97 metric {METRIC}")
    assert await table.write([DropGroup(doomed)]) == []
    assert await table.dump_routes() == {prefix(family, 3): spared}
    (refusal,) = await table.write([PutGroup(doomed, family, (node.hop(family, 0),), is_new=False)])
    assert refusal.errno == errno.ENOENT


async def test_a_dropped_route_is_not_written_again_with_its_group(
    table: InlineRouteTable, node: Node, family: Family
) -> None:
    group = await put_group(table, node, family, 0)
    await lead(table, group, prefix(family, 1), prefix(family, 2))
    edit = PutGroup(group, family, (node.hop(family, 1),), is_new=False)
    assert await table.write([DropRoute(prefix(family, 1)), edit]) == []
    assert set(await table.dump_routes()) == {prefix(family, 2)}
