from __future__ import annotations

import itertools

import pytest

from felix.route import METRIC, PROTOCOL, Kind, NextHop, Route, blackhole, unicast
from inet.prefix import Family
from tests.felix.netns import Node
from tests.felix.routes import prefix

DESTINATION = {family: prefix(family, 1) for family in Family}


def hop(family: Family, last: int, interface: int, *, onlink: bool = False) -> NextHop:
    return NextHop(bytes(family.bits // 8 - 1) + bytes([last]), interface, onlink)


def test_the_same_next_hops_make_the_same_route_in_whatever_order(family: Family) -> None:
    hops = [hop(family, 1, 3), hop(family, 2, 2), hop(family, 2, 1), NextHop(b"", 4)]
    routes = {unicast(DESTINATION[family], order) for order in itertools.permutations(hops)}
    (route,) = routes
    assert sorted(hops) == list(route.next_hops)
    assert unicast(DESTINATION[family], hops * 2) == route


def test_next_hops_that_differ_in_anything_are_two(family: Family) -> None:
    hops = [hop(family, 1, 1), hop(family, 1, 2), hop(family, 2, 1), hop(family, 1, 1, onlink=True), NextHop(b"", 1)]
    assert len(unicast(DESTINATION[family], hops).next_hops) == len(hops)


def test_a_gateway_of_the_other_family_keeps_its_length() -> None:
    through = [hop(Family.IPV6, 1, 1), hop(Family.IPV4, 1, 1)]
    assert set(unicast(DESTINATION[Family.IPV4], through).next_hops) == set(through)


def test_a_blackhole_leads_nowhere(family: Family) -> None:
    destination = DESTINATION[family]
    assert blackhole(destination) == Route(destination, Kind.BLACKHOLE, ())
    assert unicast(destination, [hop(family, 1, 1)]).kind is Kind.UNICAST


def test_a_later_version_finds_what_this_one_wrote() -> None:
    assert (PROTOCOL, METRIC) == (97, 9700)


def test_a_gateway_is_on_a_link_by_its_address_where_nobody_says_otherwise(family: Family) -> None:
    assert not NextHop(bytes(family.bits // 8), 1).onlink


@pytest.mark.kernel
def test_kinds_are_numbered_as_the_kernel_does(node: Node, family: Family) -> None:
    version = "-4" if family is Family.IPV4 else "-6"
    first, second = ("10.0.9.0/24", "10.0.8.0/24") if family is Family.IPV4 else ("fd09::/64", "fd08::/64")
    node.ip(f"{version} route add {first} dev a0 proto 4")
    node.ip(f"{version} route add blackhole {second} proto 4")
    kinds = {row["dst"]: int(row["type"]) for row in node.ip_json(f"{version} route show")}
    assert (kinds[first], kinds[second]) == (Kind.UNICAST, Kind.BLACKHOLE)


@pytest.mark.kernel
def test_the_metric_lets_the_routes_of_everybody_else_win(node: Node, family: Family) -> None:
    version = "-4" if family is Family.IPV4 else "-6"
    destination = str(DESTINATION[family])
    for owner in (f"proto {PROTOCOL} metric {METRIC}", "proto static"):  # the kernel chooses the metric
        node.ip(f"{version} route add blackhole {destination} {owner}")
    first, second = node.ip_json(f"{version} route show {destination}")  # in the order in which the kernel asks them
    assert (first["protocol"], second["protocol"]) == ("4", "97")
    assert first.get("metric", 0) < second["metric"]
