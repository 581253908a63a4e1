from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from felix.monitor import (
    AddressChanged,
    Event,
    ForeignNextHopsChanged,
    ForeignRouteChanged,
    LinkChanged,
    Monitor,
    Overflow,
    OwnNextHopsChanged,
    OwnRouteChanged,
)
from felix.netlink import NetlinkSocket
from felix.objecttable import ObjectRouteTable
from felix.route import METRIC
from felix.routemessages import put_blackhole
from felix.routetable import PutGroup, PutRoute
from inet.prefix import Family, Prefix
from tests.felix.netns import Node

pytestmark = pytest.mark.kernel

VERSION = {Family.IPV4: "-4", Family.IPV6: "-6"}
DESTINATION = {Family.IPV4: Prefix.parse("10.42.1.0/24"), Family.IPV6: Prefix.parse("fd42:0:0:1::/64")}


@pytest.fixture
def table(node: Node) -> Iterator[ObjectRouteTable]:  # noqa: ARG001 - inside its namespace
    table = ObjectRouteTable()
    yield table
    table.close()


class Listener:
    """Reads batches until something has been heard."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.batches = monitor.batches()
        self.heard: list[Event] = []

    async def until(self, condition: Callable[[], object]) -> list[Event]:
        async with asyncio.timeout(30):
            while not condition():
                self.heard += await anext(self.batches)
        heard, self.heard = self.heard, []
        return heard

    async def until_heard(self, event: Event) -> list[Event]:
        return await self.until(lambda: event in self.heard)

    async def until_mark(self, node: Node, number: int) -> list[Event]:
        """Return all that is heard up to a route that is made now."""
        node.ip(f"route add blackhole 203.0.113.{number}")
        mark = ForeignRouteChanged(Prefix.parse(f"203.0.113.{number}/32"))
        heard = await self.until_heard(mark)
        return [event for event in heard if event != mark]


@pytest.fixture
async def listener(node: Node, table: ObjectRouteTable) -> AsyncIterator[Listener]:
    monitor = Monitor(table.port)
    listener = Listener(monitor)
    await listener.until_mark(node, 1)
    yield listener
    await listener.batches.aclose()
    monitor.close()


async def write_routes(table: ObjectRouteTable, node: Node, family: Family, *destinations: Prefix) -> int:
    group = table.new_group(family)
    put = PutGroup(group, family, (node.hop(family, 0),), is_new=True)
    assert await table.write([put, *(PutRoute(prefix, group, is_new=True) for prefix in destinations)]) == []
    return group


async def test_every_link_is_told_at_first(node: Node, table: ObjectRouteTable) -> None:
    node.ip("link set a1 down")
    monitor = Monitor(table.port)
    listener = Listener(monitor)
    heard = await listener.until(lambda: listener.heard)
    assert {LinkChanged(10, "a0", is_up=True), LinkChanged(11, "a1", is_up=False)} <= set(heard)
    await listener.batches.aclose()
    monitor.close()


async def test_links_go_and_come(listener: Listener, node: Node) -> None:
    node.ip("link set a0 down")
    await listener.until_heard(LinkChanged(10, "a0", is_up=False))
    node.ip("link set a0 up")
    await listener.until_heard(LinkChanged(10, "a0", is_up=True))
    node.peer_ip("link set b0 down")
    await listener.until_heard(LinkChanged(10, "a0", is_up=False))
    node.ip("link del a1")
    await listener.until_heard(LinkChanged(11, "a1", is_up=False))


async def test_a_flap_between_two_looks_is_still_told(listener: Listener, node: Node) -> None:
    node.ip("link set a0 down")
    node.ip("link set a0 up")
    assert LinkChanged(10, "a0", is_up=True) in await listener.until_mark(node, 2)


async def test_another_mtu_of_a_link_is_told(listener: Listener, node: Node) -> None:
    node.ip("link set a0 mtu 1400")
    assert LinkChanged(10, "a0", is_up=True) in await listener.until_mark(node, 2)


def told_of(heard: list[Event], name: str) -> LinkChanged:
    return next(event for event in heard if isinstance(event, LinkChanged) and event.name == name)


async def test_a_link_is_new_once_however_much_happens_to_it_meanwhile(listener: Listener, node: Node) -> None:
    node.ip("link add v0 index 77 group 97 type veth peer name v1")
    node.ip("link set v0 up")
    node.ip("link set v0 mtu 1400")
    link = told_of(await listener.until_mark(node, 2), "v0")
    assert (link.is_new, link.group) == (True, 97)
    node.ip("link set v0 mtu 1300")
    assert not told_of(await listener.until_mark(node, 3), "v0").is_new
    node.ip("link del v0")
    link = told_of(await listener.until_mark(node, 4), "v0")
    assert (link.is_new, link.group) == (False, 97)


async def test_addresses_and_routes_are_told_with_the_group_of_their_link(
    listener: Listener, node: Node, family: Family
) -> None:
    host = "10.9.9.9/32" if family is Family.IPV4 else "fd99::9/128"
    node.ip("link set a1 group 97")
    await listener.until_mark(node, 2)
    node.ip(f"addr add {host} dev a1")
    await listener.until_heard(AddressChanged(11))
    node.ip(f"{VERSION[family]} route add {DESTINATION[family]} dev a1")
    heard = await listener.until_mark(node, 3)
    (route,) = [each for each in heard if each == ForeignRouteChanged(DESTINATION[family])]
    assert isinstance(route, ForeignRouteChanged)
    assert (route.interface, route.group) == (11, 97)
    node.ip(f"addr del {host} dev a1")
    heard = await listener.until_mark(node, 4)
    assert [each.group for each in heard if isinstance(each, AddressChanged)] == [97]


async def test_what_matters_neither_to_routes_nor_to_mtu_is_not_told(listener: Listener, node: Node) -> None:
    node.ip("link set a0 txqueuelen 7")
    heard = await listener.until_mark(node, 2)
    assert not [event for event in heard if isinstance(event, LinkChanged)]


async def test_addresses_are_told(listener: Listener, node: Node, family: Family) -> None:
    address = "10.9.9.9/32" if family is Family.IPV4 else "fd99::9/128"
    for verb in ("add", "del"):
        node.ip(f"addr {verb} {address} dev a1")
        await listener.until_heard(AddressChanged(11))


async def test_our_own_writes_are_not_told(
    listener: Listener, table: ObjectRouteTable, node: Node, family: Family
) -> None:
    await write_routes(table, node, family, DESTINATION[family])
    assert await listener.until_mark(node, 2) == []


async def test_our_routes_deleted_or_changed_by_others_are_told(
    listener: Listener, table: ObjectRouteTable, node: Node, family: Family
) -> None:
    prefix = DESTINATION[family]
    await write_routes(table, node, family, prefix)
    node.ip(f"{VERSION[family]} route replace blackhole {prefix} proto 97 metric {METRIC}")
    assert await listener.until_mark(node, 2) == [OwnRouteChanged(prefix)]
    node.ip(f"{VERSION[family]} route flush proto 97")
    assert await listener.until_mark(node, 3) == [OwnRouteChanged(prefix)]


async def test_a_foreign_route_in_the_place_of_ours_is_told_as_both(
    listener: Listener, table: ObjectRouteTable, node: Node, family: Family
) -> None:
    prefix = DESTINATION[family]
    await write_routes(table, node, family, prefix)
    node.ip(f"{VERSION[family]} route replace blackhole {prefix} proto static metric {METRIC}")
    assert await listener.until_mark(node, 2) == [OwnRouteChanged(prefix), ForeignRouteChanged(prefix)]


async def test_foreign_routes_are_told(listener: Listener, node: Node, family: Family) -> None:
    prefix = DESTINATION[family]
    node.ip(f"{VERSION[family]} route add blackhole {prefix} proto static")
    assert await listener.until_mark(node, 2) == [ForeignRouteChanged(prefix)]


async def test_nexthop_objects_changed_by_others_are_told(
    listener: Listener, table: ObjectRouteTable, node: Node, family: Family
) -> None:
    await write_routes(table, node, family, DESTINATION[family])
    node.ip("nexthop flush proto 97")
    assert OwnNextHopsChanged() in await listener.until_mark(node, 2)
    node.ip("nexthop add id 5 blackhole proto static")
    assert await listener.until_mark(node, 3) == [ForeignNextHopsChanged()]


async def test_a_thousand_equal_news_are_one(listener: Listener, node: Node) -> None:
    for i in range(20):
        node.ip(f"addr add 10.9.9.{i}/32 dev a1")
    assert (await listener.until_mark(node, 2)).count(AddressChanged(11)) < 20


async def test_lost_news_is_told_and_listening_goes_on(node: Node, table: ObjectRouteTable, family: Family) -> None:
    monitor = Monitor(table.port, receive_buffer=4096)
    listener = Listener(monitor)
    await listener.until(lambda: listener.heard)
    stranger = NetlinkSocket()
    base = DESTINATION[family]
    many = [Prefix(base.packed[:2] + i.to_bytes(2) + base.packed[4:], 32) for i in range(2000)]
    assert await stranger.write(put_blackhole(prefix, is_new=True) for prefix in many) == []
    stranger.close()
    await listener.until_heard(Overflow())
    await listener.until_mark(node, 2)
    await listener.batches.aclose()
    monitor.close()


async def test_links_that_changed_unheard_are_told_after_the_loss(node: Node, table: ObjectRouteTable) -> None:
    monitor = Monitor(table.port, receive_buffer=4096)
    listener = Listener(monitor)
    await listener.until(lambda: listener.heard)
    for i in range(40):
        node.ip(f"route add blackhole 198.51.100.{i}")
    node.ip("link set a1 down")
    node.ip("link del a0")
    heard = await listener.until(lambda: LinkChanged(10, "a0", is_up=False) in listener.heard)
    assert LinkChanged(11, "a1", is_up=False) in heard
    await listener.batches.aclose()
    monitor.close()


async def test_a_broken_socket_is_opened_again(listener: Listener, node: Node) -> None:
    monitor = listener.monitor
    broken = monitor._socket

    class Broken:
        def recv(self, _: int) -> bytes:
            raise OSError(errno.EBADF, "Bad file descriptor")

        def fileno(self) -> int:
            return broken.fileno()

        def close(self) -> None:
            broken.close()

    monitor._socket = Broken()
    node.ip("route add blackhole 203.0.113.9")
    await listener.until_heard(Overflow())
    assert await listener.until_mark(node, 2) == []
