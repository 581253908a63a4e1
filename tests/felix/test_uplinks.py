"""Which links lead to other nodes, by name and by the kernel's routes, and what they take."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from felix.devices import devices
from felix.uplinks import Uplink, named, routed
from inet.prefix import Family
from tests.felix.netns import Node

pytestmark = pytest.mark.kernel

FAR = {Family.IPV4: "192.0.2.7", Family.IPV6: "2001:db8:7::7"}


def far(family: Family) -> bytes:
    return ip_address(FAR[family]).packed


async def test_links_are_named_by_patterns_and_must_be_up(node: Node) -> None:
    assert [each.name for each in named(await devices(), ["a*"])] == ["a0", "a1"]
    assert [each.name for each in named(await devices(), ["a1", "eth*"])] == ["a1"]
    node.ip("link set a1 down")
    assert [each.name for each in named(await devices(), ["a*"])] == ["a0"]


async def test_the_way_to_another_node_is_asked_of_the_kernel(node: Node, family: Family) -> None:
    hop = node.hop(family, 1)
    node.ip(f"route add {FAR[family]} via {ip_address(hop.gateway)} dev a1")
    assert routed(await devices(), [far(family)]) == [Uplink(node.interface(1), "a1", 1500)]


async def test_every_one_of_several_equal_ways_counts(node: Node, family: Family) -> None:
    ways = " ".join(f"nexthop via {ip_address(node.hop(family, i).gateway)} dev a{i}" for i in (0, 1))
    node.ip(f"route add {FAR[family]} {ways}")
    assert [each.name for each in routed(await devices(), [far(family)])] == ["a0", "a1"]


async def test_a_route_that_takes_less_than_its_link_counts(node: Node, family: Family) -> None:
    gateway = ip_address(node.hop(family, 0).gateway)
    node.ip(f"route add {FAR[family]} via {gateway} dev a0 mtu 1400")
    assert [each.mtu for each in routed(await devices(), [far(family)])] == [1400]


async def test_without_another_node_the_default_way_counts(node: Node, family: Family) -> None:
    assert routed(await devices(), []) == []
    version = "-6 " if family is Family.IPV6 else ""
    node.ip(f"{version}route add default via {ip_address(node.hop(family, 1).gateway)} dev a1")
    assert [each.name for each in routed(await devices(), [])] == ["a1"]
    assert [each.name for each in routed(await devices(), [far(family)])] == ["a1"]
