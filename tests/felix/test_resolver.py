from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from felix.fakeresolver import FakeResolver
from felix.resolver import NetlinkResolver, Resolution
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
        deadline = time.monotonic() + 5
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
        assert await resolver.refresh() == frozenset()
        node.ip(f"route add {NET[family]} via {address(family, 1)}")
        assert resolver.resolve(FAR[family]).reason
        assert await resolver.refresh() == {(FAR[family], None)}
        assert resolver.resolve(FAR[family]).next_hops == (node.hop(family, 1),)
        resolver.forget(FAR[family])
        node.ip(f"route del {NET[family]}")
        assert await resolver.refresh() == frozenset()

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
    assert await resolver.refresh() == {(near, None)}
    assert not resolver.resolve(near).next_hops
    resolver.forget(near)
    del resolver.answers[near, None]
    assert await resolver.refresh() == frozenset()
