from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from felix.fib import Fib
from felix.flow import Flow, FlowLookup
from felix.netlinktable import open_route_table
from felix.route import METRIC, NextHop, unicast
from inet.prefix import Family, Prefix
from tests.felix.netns import Node

pytestmark = pytest.mark.kernel

FAR = {Family.IPV4: ip_address("192.0.2.7").packed, Family.IPV6: ip_address("2001:db8::7").packed}
NET = {Family.IPV4: "192.0.2.0/24", Family.IPV6: "2001:db8::/32"}
OWN = {Family.IPV4: ip_address("10.0.0.1").packed, Family.IPV6: ip_address("fd00:1::1").packed}
UDP = 17


@pytest.fixture
def lookup(node: Node) -> Iterator[FlowLookup]:  # noqa: ARG001 - inside its namespace
    with contextlib.closing(FlowLookup()) as opened:
        yield opened


def hash_by(policy: int) -> None:
    for family in ("ipv4", "ipv6"):
        Path(f"/proc/sys/net/{family}/fib_multipath_hash_policy").write_text(str(policy))


def two_ways(node: Node, family: Family) -> tuple[NextHop, NextHop]:
    ways = node.hop(family, 0), node.hop(family, 1)
    texts = " ".join(f"nexthop via {ip_address(way.gateway)} dev a{i}" for i, way in enumerate(ways))
    node.ip(f"route add {NET[family]} {texts}")
    return ways


def test_a_route_is_told_with_its_owner_and_the_one_way(lookup: FlowLookup, node: Node, family: Family) -> None:
    hop = node.hop(family, 0)
    node.ip(f"route add {NET[family]} via {ip_address(hop.gateway)} proto 12 metric 77 mtu 1400")
    found = lookup.route(Flow(FAR[family]))
    assert (found.kind, str(found.prefix), found.protocol, found.metric) == ("unicast", NET[family], 12, 77)
    assert (found.ways, found.taken, found.mtu, found.error) == ((hop,), hop, 1400, "")


async def test_our_own_route_over_a_group_is_told_with_the_hops_of_the_group(
    lookup: FlowLookup, node: Node, family: Family
) -> None:
    with contextlib.closing(open_route_table()) as table:
        fib = Fib(table)
        await fib.adopt()
        ways = node.hop(family, 0), node.hop(family, 1)
        fib.set(unicast(Prefix.parse(NET[family]), ways))
        await fib.release()
        await fib.apply()
        found = lookup.route(Flow(FAR[family]))
    assert (found.protocol, found.metric, set(found.ways)) == (97, METRIC, set(ways))


@pytest.mark.parametrize("kind", ["blackhole", "unreachable", "prohibit"])
def test_a_route_that_drops_is_said(lookup: FlowLookup, node: Node, family: Family, kind: str) -> None:
    node.ip(f"route add {kind} {NET[family]}")
    assert f"{kind} route" in lookup.route(Flow(FAR[family])).error


def test_no_route_is_said(lookup: FlowLookup, family: Family) -> None:
    assert lookup.route(Flow(FAR[family])).error == "there is no route"


def test_an_address_of_our_own_is_local(lookup: FlowLookup, family: Family) -> None:
    assert lookup.route(Flow(OWN[family])).kind == "local"


def test_a_packet_that_came_in_on_the_wrong_link_is_dropped_by_rp_filter(lookup: FlowLookup, node: Node) -> None:
    for name in ("all", "a1"):
        Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("1")
    for name in ("a0", "a1"):
        Path(f"/proc/sys/net/ipv4/conf/{name}/forwarding").write_text("1")
    node.ip("route add 192.0.2.0/24 via 10.0.0.2")
    source = ip_address("10.0.0.9").packed  # on a0
    found = lookup.route(Flow(FAR[Family.IPV4], source, interface=node.interface(1)))
    assert "(rp_filter)" in found.error


def test_which_way_a_flow_takes_is_not_claimed_where_it_depends_on_what_is_not_known(
    lookup: FlowLookup, node: Node, family: Family
) -> None:
    ways = two_ways(node, family)
    hash_by(1)
    found = lookup.route(Flow(FAR[family], OWN[family], protocol=UDP, port=53))
    assert set(found.ways) == set(ways)
    assert found.taken is None
    hash_by(0)
    by_addresses = lookup.route(Flow(FAR[family], OWN[family], protocol=UDP, port=53)).taken
    assert (by_addresses in ways) if family is Family.IPV4 else by_addresses is None


def test_the_way_of_a_flow_is_the_one_its_packets_take(lookup: FlowLookup, node: Node, family: Family) -> None:
    ways = two_ways(node, family)
    for i in range(2):  # nobody answers there: packets must leave all the same
        node.ip(f"neigh replace {ip_address(ways[i].gateway)} lladdr 02:00:00:00:00:0{i + 1} dev a{i} nud permanent")
    hash_by(1)
    for source_port in range(40000, 40016):
        told = lookup.route(Flow(FAR[family], OWN[family], 0, UDP, source_port, 53)).taken
        before = sent(0), sent(1)
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.bind((str(ip_address(OWN[family])), source_port))
            for _ in range(20):
                sender.sendto(b"x", (str(ip_address(FAR[family])), 53))
        deadline = time.monotonic() + 30
        while sent(0) + sent(1) < sum(before) + 20:
            assert time.monotonic() < deadline
        went = 0 if sent(0) - before[0] >= 20 else 1
        assert told == ways[went]


def sent(i: int) -> int:
    """Packets that link a<i> has sent. This thread is in the node's namespace, and so is its /proc."""
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == f"a{i}":
            return int(numbers.split()[9])
    raise AssertionError(f"there is no a{i}")


def test_whether_a_next_hop_answers_is_known(lookup: FlowLookup, node: Node, family: Family) -> None:
    hop = node.hop(family, 0, last=9)
    assert lookup.neighbour(hop, b"") == ""
    node.ip(f"neigh replace {ip_address(hop.gateway)} lladdr 02:00:00:00:00:09 dev a0 nud permanent")
    assert lookup.neighbour(hop, b"") == "permanent"
    direct = NextHop(b"", hop.interface)
    assert lookup.neighbour(direct, hop.gateway) == "permanent"


def test_a_packet_that_nobody_would_forward_is_said(lookup: FlowLookup, node: Node, family: Family) -> None:
    node.ip(f"route add {NET[family]} via {ip_address(node.hop(family, 1).gateway)}")
    version = "ipv4" if family is Family.IPV4 else "ipv6"
    for name in ("all", "a0"):
        Path(f"/proc/sys/net/{version}/conf/{name}/forwarding").write_text("0")
    source = node.hop(family, 0).gateway
    arriving = Flow(FAR[family], source, interface=node.interface(0))
    assert "nothing is forwarded" in lookup.route(arriving).error
    for name in ("all", "a0"):
        Path(f"/proc/sys/net/{version}/conf/{name}/forwarding").write_text("1")
    assert lookup.route(arriving).error == ""
