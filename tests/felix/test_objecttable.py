from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from felix.nexthops import GROUP_IDS, HOP_IDS
from felix.objecttable import ObjectRouteTable
from felix.routetable import UNKNOWN, UNKNOWN_HOP, DropGroup, Form, Group, PutGroup, PutRoute
from inet.prefix import Family, Prefix
from tests.felix.netns import Node, put_group

pytestmark = pytest.mark.kernel

DESTINATION = {Family.IPV4: Prefix.parse("10.42.1.0/24"), Family.IPV6: Prefix.parse("fd42:0:0:1::/64")}


@pytest.fixture
def table(node: Node) -> Iterator[ObjectRouteTable]:  # noqa: ARG001 - inside its namespace
    table = ObjectRouteTable()
    yield table
    table.close()


async def test_groups_share_single_hops_and_unused_ones_are_tidied_away(
    table: ObjectRouteTable, node: Node, family: Family
) -> None:
    first, second = await put_group(table, node, family, 0, 1), await put_group(table, node, family, 0)
    assert node.ip("nexthop show proto 97").count(" via ") == 2
    hop = (node.hop(family, 0),)
    assert await table.write([PutGroup(first, family, hop, is_new=False)]) == []
    assert node.ip("nexthop show proto 97").count(" via ") == 2
    await table.tidy()
    assert node.ip("nexthop show proto 97").count(" via ") == 1
    assert await table.dump_groups() == {first: Group(family, hop), second: Group(family, hop)}


async def test_moving_a_group_is_one_notification_whatever_the_number_of_routes(
    table: ObjectRouteTable, node: Node, family: Family
) -> None:
    group = await put_group(table, node, family, 0, 1)
    routes = [
        Prefix(DESTINATION[family].packed[:2] + bytes([i]) + DESTINATION[family].packed[3:], 24) for i in range(99)
    ]
    assert await table.write([PutRoute(prefix, group, is_new=True) for prefix in routes]) == []
    with node.monitored() as lines:
        assert await table.write([PutGroup(group, family, (node.hop(family, 1),), is_new=False)]) == []
    assert len(lines) == 1
    assert f"id {group} group " in lines[0]


async def test_a_single_next_hop_is_one_object_that_is_replaced_with_one_notification_and_never_by_a_group(
    table: ObjectRouteTable, node: Node, family: Family
) -> None:
    number, first, second = table.new_group(family), node.hop(family, 0), node.hop(family, 1)
    destination = DESTINATION[family]
    single = PutGroup(number, family, (first,), is_new=True, form=Form.SINGLE)
    assert await table.write([single, PutRoute(destination, number, is_new=True)]) == []
    assert node.ip("nexthop show proto 97").count("id ") == 1
    with node.monitored() as lines:
        assert await table.write([single._replace(next_hops=(second,), is_new=False)]) == []
    assert len(lines) == 1
    (refusal,) = await table.write([PutGroup(number, family, (first, second), is_new=False)])
    assert refusal.errno == errno.EINVAL
    assert await table.dump_groups() == {number: Group(family, (second,), Form.SINGLE)}
    assert await table.dump_routes() == {destination: number}
    await table.tidy()
    assert await table.write([DropGroup(number)]) == []
    assert node.ip("nexthop show proto 97") == ""


async def test_a_single_next_hop_of_the_wrong_family_is_told_as_unknown(table: ObjectRouteTable, node: Node) -> None:
    number = GROUP_IDS[Family.IPV6].start
    node.ip(f"nexthop add id {number} blackhole proto 97")
    assert await table.dump_groups() == {number: Group(Family.IPV6, (UNKNOWN_HOP,), Form.SINGLE)}


async def test_ids_in_use_by_others_are_left_alone(table: ObjectRouteTable, node: Node, family: Family) -> None:
    taken = [HOP_IDS.start, GROUP_IDS[family].start]
    for number in taken:
        node.ip(f"nexthop add id {number} blackhole proto static")
    await table.dump_groups()
    group = await put_group(table, node, family, 0)
    assert group == GROUP_IDS[family].start + 1
    await table.tidy()
    for number in taken:
        assert "blackhole proto static" in node.ip(f"nexthop show id {number}")


async def test_an_id_taken_unseen_names_the_hop_and_the_next_try_uses_another(
    table: ObjectRouteTable, node: Node, family: Family
) -> None:
    node.ip(f"nexthop add id {HOP_IDS.start} dev a1 proto static")
    hop = node.hop(family, 0)
    (refusal,) = await table.write([PutGroup(table.new_group(family), family, (hop,), is_new=True)])
    assert refusal.next_hop == hop
    group = await put_group(table, node, family, 0)
    assert (await table.dump_groups())[group] == Group(family, (hop,))


async def test_a_hop_deleted_unseen_is_made_again_for_the_next_group(
    table: ObjectRouteTable, node: Node, family: Family
) -> None:
    group = await put_group(table, node, family, 0, 1)
    node.ip(f"nexthop del id {HOP_IDS.start}")
    hops = (node.hop(family, 0), node.hop(family, 1))
    assert await table.write([PutGroup(group, family, hops, is_new=False)]) == []
    assert await table.dump_groups() == {group: Group(family, hops)}


async def test_what_a_hand_changed_shows_as_unknown(table: ObjectRouteTable, node: Node, family: Family) -> None:
    weighted, foreign = await put_group(table, node, family, 0, 1), await put_group(table, node, family, 0)
    gateway = "10.0.0.9" if family is Family.IPV4 else "fd00:1::9"
    node.ip(f"nexthop add id 5 via {gateway} dev a0 proto static")
    node.ip(f"nexthop replace id {weighted} group {HOP_IDS.start},3/{HOP_IDS.start + 1} proto 97")
    node.ip(f"nexthop replace id {foreign} group 5 proto 97")
    version = "-4" if family is Family.IPV4 else "-6"
    node.ip(f"{version} route add {DESTINATION[family]} via {gateway} dev a0 proto 97 metric 9700")
    assert await table.dump_groups() == {
        weighted: Group(family, (UNKNOWN_HOP,)),
        foreign: Group(family, (UNKNOWN_HOP,)),
    }
    assert await table.dump_routes() == {DESTINATION[family]: UNKNOWN}


async def test_routes_of_our_protocol_elsewhere_are_not_ours(
    table: ObjectRouteTable, node: Node, family: Family
) -> None:
    version = "-4" if family is Family.IPV4 else "-6"
    node.ip(f"{version} route add blackhole {DESTINATION[family]} proto 97 metric 5")
    node.ip(f"{version} route add blackhole {DESTINATION[family]} proto 97 metric 9700 table 100")
    assert await table.dump_routes() == {}
