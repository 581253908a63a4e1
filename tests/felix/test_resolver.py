from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from socket import if_nametoindex

import pytest

from felix.fakeresolver import FakeResolver
from felix.resolver import Doubts, NetlinkResolver, Resolution
from felix.route import METRIC, NextHop
from inet.prefix import Family, IPAddress
from tests.felix.netns import Node

VERSION = {Family.IPV4: "-4", Family.IPV6: "-6"}


@pytest.fixture
def resolver(node: Node) -> Iterator[NetlinkResolver]:  # noqa: ARG001 - inside its namespace
    resolver = NetlinkResolver()
    yield resolver
    resolver.close()


def address(family: Family, i: int, last: int = 2) -> IPAddress:
    return ip_address(f"10.0.{i}.{last}" if family is Family.IPV4 else f"fd00:{i + 1}::{last}")


FAR = {Family.IPV4: ip_address("192.0.2.7"), Family.IPV6: ip_address("2001:db8::7")}
NET = {Family.IPV4: "192.0.2.0/24", Family.IPV6: "2001:db8::/32"}


@pytest.mark.kernel
class TestKernel:
    def test_a_neighbour_is_its_own_gateway(self, resolver: NetlinkResolver, node: Node, family: Family) -> None:
        assert resolver.resolve(address(family, 0)) == Resolution((node.hop(family, 0),), is_on_link=True)

    def test_what_is_behind_a_gateway_goes_there(self, resolver: NetlinkResolver, node: Node, family: Family) -> None:
        node.ip(f"route add {NET[family]} via {address(family, 1, 9)}")
        assert resolver.resolve(FAR[family]) == Resolution((node.hop(family, 1, 9),), is_on_link=False)

    def test_what_is_behind_two_gateways_goes_to_both(
        self, resolver: NetlinkResolver, node: Node, family: Family
    ) -> None:
        ways = " ".join(f"nexthop via {address(family, i)}" for i in range(2))
        node.ip(f"route add {NET[family]} {ways}")
        expected = (node.hop(family, 0), node.hop(family, 1))
        assert resolver.resolve(FAR[family]) == Resolution(expected, is_on_link=False)

    def test_routes_on_nexthop_objects_are_followed(
        self, resolver: NetlinkResolver, node: Node, family: Family
    ) -> None:
        for i in range(2):
            node.ip(f"nexthop add id {i + 1} via {address(family, i)} dev a{i}")
        node.ip("nexthop add id 3 group 1/2")
        node.ip(f"{VERSION[family]} route add {NET[family]} nhid 3")
        expected = (node.hop(family, 0), node.hop(family, 1))
        assert resolver.resolve(FAR[family]) == Resolution(expected, is_on_link=False)
        node.ip(f"{VERSION[family]} route replace {NET[family]} nhid 2")
        resolver.forget(FAR[family])
        assert resolver.resolve(FAR[family]) == Resolution(expected[1:], is_on_link=False)

    def test_an_onlink_gateway_stays_one(self, resolver: NetlinkResolver, node: Node, family: Family) -> None:
        node.ip(f"route add {NET[family]} via {FAR[family]} dev a0 onlink")
        (hop,) = resolver.resolve(FAR[family]).next_hops
        assert hop == NextHop(FAR[family].packed, node.interface(0), onlink=True)

    def test_an_ipv4_route_through_an_ipv6_gateway_is_followed(self, resolver: NetlinkResolver, node: Node) -> None:
        node.ip("route add 192.0.2.0/24 via inet6 fd00:1::2")
        assert resolver.resolve(FAR[Family.IPV4]).next_hops == (node.hop(Family.IPV6, 0),)

    def test_our_own_addresses_are_refused(self, resolver: NetlinkResolver, family: Family) -> None:
        resolution = resolver.resolve(address(family, 0, 1))
        assert resolution == Resolution((), is_on_link=False, reason="it is an address of this node")

    def test_no_route_is_said(self, resolver: NetlinkResolver, family: Family) -> None:
        assert resolver.resolve(FAR[family]).reason == "there is no route to it"

    @pytest.mark.parametrize("kind", ["blackhole", "unreachable", "prohibit"])
    def test_a_route_that_rejects_is_said(
        self, resolver: NetlinkResolver, node: Node, family: Family, kind: str
    ) -> None:
        node.ip(f"route add {kind} {NET[family]}")
        resolution = resolver.resolve(FAR[family])
        assert resolution.next_hops == ()
        assert "packets to it" in resolution.reason

    def test_nothing_is_resolved_through_our_own_routes(
        self, resolver: NetlinkResolver, node: Node, family: Family
    ) -> None:
        node.ip(f"route add {NET[family]} via {address(family, 0)} proto 97 metric {METRIC}")
        resolution = resolver.resolve(FAR[family])
        assert resolution.next_hops == ()
        assert "learned itself" in resolution.reason

    @pytest.mark.parametrize("text", ["0.0.0.0", "::", "224.0.0.5", "ff02::5", "10.0.0.255"])
    def test_what_is_no_address_of_a_host_is_refused(self, resolver: NetlinkResolver, text: str) -> None:
        resolution = resolver.resolve(ip_address(text))
        assert resolution == Resolution((), is_on_link=False, reason="it is not an address of a host")

    def test_a_link_that_is_down_is_said(self, resolver: NetlinkResolver, node: Node, family: Family) -> None:
        node.ip("link set a0 down")
        assert resolver.resolve(address(family, 0)).next_hops == ()
        assert resolver.resolve(address(family, 0), "a0").reason == "the link a0 is down"

    def test_a_link_without_carrier_is_said(self, resolver: NetlinkResolver, node: Node, family: Family) -> None:
        node.peer_ip("link set b0 down")
        deadline = time.monotonic() + 30
        while resolver.resolve(address(family, 0)).next_hops:  # the kernel notices a little later
            assert time.monotonic() < deadline
            resolver.forget(address(family, 0))

    def test_a_link_local_address_needs_its_interface(self, resolver: NetlinkResolver, node: Node) -> None:
        neighbour = ip_address("fe80::99")
        assert "an interface" in resolver.resolve(neighbour).reason
        expected = Resolution((NextHop(neighbour.packed, node.interface(1)),), is_on_link=True)
        assert resolver.resolve(neighbour, "a1") == expected
        assert resolver.resolve(ip_address("fe80::99%a1")) == expected
        assert resolver.resolve(neighbour, "nowhere0").reason == "there is no interface nowhere0"

    async def test_only_what_is_reached_in_another_way_comes_back_from_a_refresh(
        self, resolver: NetlinkResolver, node: Node, family: Family
    ) -> None:
        resolver.resolve(FAR[family])
        resolver.resolve(address(family, 0))
        assert await resolver.refresh() == {}
        node.ip(f"route add {NET[family]} via {address(family, 1)}")
        assert resolver.resolve(FAR[family]).reason
        assert (await resolver.refresh()).keys() == {(FAR[family], None)}
        assert resolver.resolve(FAR[family]).next_hops == (node.hop(family, 1),)
        resolver.forget(FAR[family])
        node.ip(f"route del {NET[family]}")
        assert await resolver.refresh() == {}

    def test_the_source_of_packets_is_told(self, resolver: NetlinkResolver, node: Node, family: Family) -> None:
        assert resolver.source(address(family, 1)) == address(family, 1, 1)
        assert resolver.source(address(family, 1), "a1") == address(family, 1, 1)
        assert resolver.source(FAR[family]) is None
        assert resolver.source(FAR[family], "nowhere0") is None
        node.ip(f"addr add {FAR[family]} dev lo")
        node.ip(f"route add 198.51.100.0/24 via {address(Family.IPV4, 0)}")
        assert resolver.source(ip_address("198.51.100.1")) == address(Family.IPV4, 0, 1)

    async def test_the_addresses_of_this_node_are_told(self, resolver: NetlinkResolver, node: Node) -> None:
        node.ip("addr add 172.31.0.1 peer 172.31.0.2 dev a0")
        own = await resolver.own_addresses()
        assert {address(family, i, 1) for family in Family for i in range(2)} <= own
        assert {ip_address("127.0.0.1"), ip_address("::1"), ip_address("172.31.0.1")} <= own
        assert ip_address("172.31.0.2") not in own


async def test_the_fake_answers_what_it_was_given() -> None:
    resolver = FakeResolver(interface=7)
    near, own = ip_address("10.0.0.2"), ip_address("10.0.0.1")
    resolver.addresses.add(own)
    resolver.sources[near, None] = own
    assert resolver.resolve(near) == Resolution((NextHop(near.packed, 7),), is_on_link=True)
    assert resolver.resolve(own).reason == "it is an address of this node"
    assert resolver.source(near) == own
    assert await resolver.own_addresses() == {own}
    resolver.answers[near, None] = Resolution((), is_on_link=False, reason="there is no route to it")
    assert resolver.resolve(near).next_hops
    assert (await resolver.refresh()).keys() == {(near, None)}
    assert not resolver.resolve(near).next_hops
    resolver.forget(near)
    del resolver.answers[near, None]
    assert await resolver.refresh() == {}


@pytest.mark.kernel
class TestDoubts:
    """What a refresh looks at. That it leaves the others alone shows in a change that it was not told of."""

    async def know(self, resolver: NetlinkResolver, *addresses: IPAddress) -> None:
        for each in addresses:
            resolver.resolve(each)
        await resolver.refresh()
        await resolver.own_addresses()

    async def test_a_pod_that_comes_or_goes_makes_nobody_else_be_looked_up(
        self, resolver: NetlinkResolver, node: Node, family: Family
    ) -> None:
        far = FAR[family]
        node.ip(f"route add {NET[family]} via {address(family, 0)}")
        await self.know(resolver, far)
        node.ip(f"{VERSION[family]} route replace {NET[family]} via {address(family, 1)}")  # nobody tells
        node.ip("link add pod type veth peer name pod-end")
        node.ip("link set pod up")
        pod = address(family, 7)
        node.ip(f"route add {pod} dev pod")
        link = if_nametoindex("pod")
        assert await resolver.refresh(Doubts(links={link}, addresses={pod})) == {}
        node.ip("link del pod")
        assert await resolver.refresh(Doubts(links={link})) == {}
        assert (await resolver.refresh()).keys() == {(far, None)}

    async def test_a_link_in_use_has_everything_looked_up(
        self, resolver: NetlinkResolver, node: Node, family: Family
    ) -> None:
        near = address(family, 0)
        await self.know(resolver, near)
        node.ip("link set a0 down")
        assert (await resolver.refresh(Doubts(links={node.interface(0)}))).keys() == {(near, None)}

    async def test_a_link_that_comes_back_with_its_routes_is_noticed(
        self, resolver: NetlinkResolver, node: Node, family: Family, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Routes of a link without carrier come back to life without a word."""
        near = address(family, 0)
        ignore_dead_routes()
        node.ip(f"{VERSION[family]} route add default via {address(family, 1)}")
        node.peer_ip("link set b0 down")
        await until(lambda: resolver.resolve(near).next_hops != (node.hop(family, 0),), lambda: resolver.forget(near))
        monkeypatch.setattr(resolver, "_used", set())  # as in an agent that starts now
        await self.know(resolver, near)
        assert resolver.resolve(near).next_hops == (node.hop(family, 1),)
        node.peer_ip("link set b0 up")
        await until(lambda: "NO-CARRIER" not in node.ip("link show a0"))
        if family is Family.IPV6:  # the kernel takes the route away with the carrier, and brings it back
            await until(lambda: "linkdown" not in node.ip("-6 route show dev a0"))
        assert (await resolver.refresh(Doubts(links={node.interface(0)}))).keys() == {(near, None)}
        assert resolver.resolve(near).next_hops == (node.hop(family, 0),)

    async def test_an_address_with_a_route_of_its_own_is_looked_up_alone(
        self, resolver: NetlinkResolver, node: Node, family: Family
    ) -> None:
        one, other = address(family, 0, 8), address(family, 0, 9)
        await self.know(resolver, one, other)
        for each in (one, other):
            node.ip(f"route add {each} via {address(family, 1)}")
        assert (await resolver.refresh(Doubts(addresses={one}))).keys() == {(one, None)}
        assert (await resolver.refresh()).keys() == {(other, None)}

    async def test_an_address_that_becomes_our_own_is_noticed_on_whatever_link(
        self, resolver: NetlinkResolver, node: Node, family: Family
    ) -> None:
        near = address(family, 0)
        await self.know(resolver, near)
        node.ip("link add pod type veth peer name pod-end")
        node.ip(f"addr add {near}/{family.bits} dev pod {'nodad' if family is Family.IPV6 else ''}")
        node.ip("link set pod up")
        link = if_nametoindex("pod")
        assert (await resolver.refresh(Doubts(links={link}))).keys() == {(near, None)}
        assert resolver.resolve(near).reason == "it is an address of this node"
        node.ip("link del pod")
        assert (await resolver.refresh(Doubts(links={link}))).keys() == {(near, None)}

    async def test_what_is_not_reached_is_looked_up_whatever_changed(
        self, resolver: NetlinkResolver, node: Node, family: Family
    ) -> None:
        await self.know(resolver, FAR[family])
        node.ip(f"route add {NET[family]} via {address(family, 0)}")
        assert (await resolver.refresh(Doubts())).keys() == {(FAR[family], None)}


def ignore_dead_routes() -> None:
    for family in Family:
        Path(f"/proc/sys/net/{family.label.lower()}/conf/a0/ignore_routes_with_linkdown").write_text("1")


async def until(is_so: Callable[[], bool], again: Callable[[], object] = lambda: None) -> None:
    async with asyncio.timeout(20):
        while not is_so():
            again()
            await asyncio.sleep(0.02)
