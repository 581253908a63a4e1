"""Who is reached in a tunnel, and why: every cell of the table, in both families."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.carriage import (
    DIRECT_COST,
    LAST_RESORT,
    REQUIRED,
    ROUTED_COST,
    How,
    NodePathPlanner,
    Tunnel,
    carry,
    hardware_address,
    overhead,
    settle_tunnels,
)
from bgp.config import BgpConfig, Encapsulation, EncapsulationMode, Node, NodeRoutes, TunnelType
from bgp.ownership import settle
from inet.prefix import Family, IPAddress, Prefix, parse_address

NEVER, FALLBACK, ALWAYS = EncapsulationMode


def address(number: int, family: Family) -> IPAddress:
    return parse_address(f"172.16.0.{number}" if family is Family.IPV4 else f"fd16::{number}")


def cidr(number: int, family: Family) -> Prefix:
    return Prefix.parse(f"10.42.{number}.0/24" if family is Family.IPV4 else f"fd42:0:0:{number}::/64")


def node(number: int, **more: object) -> Node:
    made = Node(
        f"n{number}",
        tuple(address(number, family) for family in Family),
        tuple(cidr(number, family) for family in Family),
        64512,
    )
    return replace(made, **more)


def config(*nodes: Node, **more: object) -> BgpConfig:
    every = nodes or (node(1), node(2), node(3))
    return replace(BgpConfig(nodes={each.name: each for each in every}), **more)


def tunnels(wish: BgpConfig, own: str = "n1") -> dict[IPAddress, Tunnel]:
    return settle_tunnels(wish, wish.nodes[own], settle(wish.nodes.values()))


# One next hop


@pytest.mark.parametrize(
    ("mode", "is_reachable", "is_on_link", "how", "cost"),
    [
        (NEVER, True, True, How.DIRECT, DIRECT_COST),
        (NEVER, True, False, How.DIRECT, ROUTED_COST),
        (NEVER, False, False, How.NOT, None),
        (FALLBACK, True, True, How.DIRECT, DIRECT_COST),
        (FALLBACK, True, False, How.TUNNEL, LAST_RESORT),
        (FALLBACK, False, False, How.TUNNEL, LAST_RESORT),
        (ALWAYS, True, True, How.TUNNEL, REQUIRED),
        (ALWAYS, True, False, How.TUNNEL, REQUIRED),
        (ALWAYS, False, False, How.TUNNEL, REQUIRED),
    ],
)
def test_a_next_hop_is_carried_by_mode_and_place(
    mode: EncapsulationMode, how: How, cost: int | None, *, is_reachable: bool, is_on_link: bool
) -> None:
    tunnel = None if mode is NEVER else Tunnel("n2", TunnelType.VXLAN, mode)
    carriage = carry(tunnel, is_reachable=is_reachable, is_on_link=is_on_link)
    assert (carriage.how, carriage.cost) == (how, cost)
    assert carriage.why


# Pairs of nodes


def test_without_a_word_there_are_no_tunnels() -> None:
    assert tunnels(config()) == {}


def test_every_address_of_every_other_node_may_have_one() -> None:
    wish = Encapsulation(FALLBACK, TunnelType.IPIP)
    expected = {address(n, family): Tunnel(f"n{n}", TunnelType.IPIP, FALLBACK) for n in (2, 3) for family in Family}
    assert tunnels(config(encapsulation=wish)) == expected


MODES = st.sampled_from(list(EncapsulationMode))
WISHES = st.builds(Encapsulation, MODES, st.sampled_from(list(TunnelType)), st.integers(0, 3))


@given(
    st.dictionaries(st.tuples(st.sampled_from(["n1", "n2", "n3"]), st.sampled_from(list(Family))), WISHES),
    WISHES,
)
def test_both_ends_come_to_the_same_answer(
    overrides: dict[tuple[str, Family], Encapsulation], by_default: Encapsulation
) -> None:
    # As translation has it: equal ranks are one override, and so one wish.
    by_rank = {wish.rank: wish for wish in overrides.values()}
    same = {key: by_rank[wish.rank] for key, wish in overrides.items()}
    wish = config(encapsulation_overrides=same, encapsulation=replace(by_default, rank=4))
    for family in Family:
        one = tunnels(wish, "n1").get(address(2, family))
        other = tunnels(wish, "n2").get(address(1, family))
        assert (one and one[1:]) == (other and other[1:])


def test_the_stricter_of_two_wishes_counts_and_of_equals_the_first() -> None:
    overrides = {
        ("n1", Family.IPV4): Encapsulation(FALLBACK, TunnelType.IPIP, 1),
        ("n2", Family.IPV4): Encapsulation(ALWAYS, TunnelType.VXLAN, 2),
        ("n3", Family.IPV4): Encapsulation(FALLBACK, TunnelType.VXLAN, 0),
    }
    found = tunnels(config(encapsulation_overrides=overrides))
    assert found == {
        address(2, Family.IPV4): Tunnel("n2", TunnelType.VXLAN, ALWAYS, 4096),
        address(3, Family.IPV4): Tunnel("n3", TunnelType.VXLAN, FALLBACK, 4096),
    }


@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)
def test_an_address_that_two_nodes_claim_is_the_older_one_s(family: Family) -> None:
    twin = node(3, addresses=tuple(address(2, each) for each in Family), created="2026-01-02")
    wish = config(node(1), node(2, created="2026-01-01"), twin, encapsulation=Encapsulation(ALWAYS))
    assert tunnels(wish)[address(2, family)].node == "n2"
    assert address(2, family) not in tunnels(wish, "n3")


# Paths


@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)
def test_direct_paths_lead_to_nodes_on_a_link_and_the_others_are_told_why_not(family: Family) -> None:
    wish = config(node_routes=NodeRoutes.DIRECT)
    found = NodePathPlanner(
        wish, wish.nodes["n1"], settle(wish.nodes.values()), {}, frozenset({address(2, family)})
    ).paths()
    assert found.next_hops == {cidr(2, family): address(2, family)}
    assert "is on no link of this node" in found.left_out[cidr(3, family)]
    assert cidr(1, family) not in {*found.next_hops, *found.left_out}


def test_with_bgp_and_no_tunnels_node_objects_say_nothing() -> None:
    wish = config()
    found = NodePathPlanner(wish, wish.nodes["n1"], settle(wish.nodes.values()), {}, frozenset()).paths()
    assert (found.next_hops, found.left_out) == ({}, {})


def test_a_node_without_an_address_of_the_family_is_left_out() -> None:
    wish = config(node(1), node(2, addresses=(address(2, Family.IPV4),)), encapsulation=Encapsulation(ALWAYS))
    found = NodePathPlanner(wish, wish.nodes["n1"], settle(wish.nodes.values()), tunnels(wish), frozenset()).paths()
    assert found.next_hops == {cidr(2, Family.IPV4): address(2, Family.IPV4)}
    assert "no address of family IPv6" in found.left_out[cidr(2, Family.IPV6)]


# Sizes and names


def test_the_overhead_is_that_of_the_costliest_tunnel_of_each_family() -> None:
    assert overhead({}) == {Family.IPV4: 0, Family.IPV6: 0}
    assert overhead(tunnels(config(encapsulation=Encapsulation(FALLBACK)))) == {Family.IPV4: 50, Family.IPV6: 70}
    ipip = config(encapsulation=Encapsulation(ALWAYS, TunnelType.IPIP))
    assert overhead(tunnels(ipip)) == {Family.IPV4: 20, Family.IPV6: 40}
    overrides = {("n2", Family.IPV4): Encapsulation(ALWAYS, TunnelType.VXLAN)}
    mixed = config(encapsulation=Encapsulation(FALLBACK, TunnelType.IPIP, 1), encapsulation_overrides=overrides)
    assert overhead(tunnels(mixed)) == {Family.IPV4: 50, Family.IPV6: 40}


def test_hardware_addresses_are_local_unicast_and_the_same_for_ever() -> None:
    assert hardware_address("n1").hex(":") == "02:02:20:f7:c8:1b"
    found = {hardware_address(f"node-{number}") for number in range(5000)}
    assert len(found) == 5000
    assert all(len(mac) == 6 and mac[0] & 3 == 2 for mac in found)
