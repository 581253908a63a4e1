from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.config import Node
from bgp.ownership import Conflict, Ownership, Settlement, settle
from inet.prefix import Prefix
from tests.bgp.builders import V4, V6, Net, node

OLD, YOUNG = "2026-01-01T00:00:00+00:00", "2026-06-01T00:00:00+00:00"


def claims(number: int, *texts: str, created: str = "") -> Node:
    return node(number, pod_cidrs=tuple(map(Prefix.parse, texts)), created=created)


def reasons(found: Ownership) -> list[tuple[str, str, str]]:
    return [(conflict.node, conflict.field, conflict.reason) for conflict in found.conflicts]


def test_every_node_owns_its_pod_cidrs_and_its_addresses(net: Net) -> None:
    found = settle([node(1), node(2)])
    assert found.conflicts == ()
    assert found.pod_cidrs_of("n1") == (V4.cidr(1), V6.cidr(1))
    assert found.pod_cidrs[net.cidr(2)] == "n2"
    assert found.addresses[net.host(2)] == "n2"
    assert found.pod_cidrs_of("n3") == ()


@pytest.mark.parametrize(
    ("older", "younger"),
    [
        ("10.42.1.0/24", "10.42.1.0/24"),
        ("10.42.0.0/16", "10.42.1.0/24"),
        ("10.42.1.0/24", "10.42.0.0/16"),
        ("fd42:0:0:1::/64", "fd42:0:0:1::/64"),
        ("fd42::/48", "fd42:0:0:1::/64"),
        ("fd42:0:0:1::/64", "fd42::/48"),
    ],
    ids=["same", "inside", "around", "same v6", "inside v6", "around v6"],
)
def test_of_two_that_overlap_the_older_node_wins(older: str, younger: str) -> None:
    nodes = [claims(1, younger, created=YOUNG), claims(2, older, created=OLD)]
    for order in permutations(nodes):
        found = settle(order)
        assert dict(found.pod_cidrs) == {Prefix.parse(older): "n2"}
        assert found.pod_cidrs_of("n1") == ()
        assert reasons(found) == [
            ("n1", "spec.podCIDRs", f"{younger} overlaps {older} of Node n2, which is older or first by name")
        ]


def test_of_two_of_one_age_the_first_by_name_wins() -> None:
    found = settle([claims(2, "10.42.1.0/24"), claims(1, "10.42.1.0/24")])
    assert found.pod_cidrs_of("n1") == (V4.cidr(1),)
    assert [conflict.node for conflict in found.conflicts] == ["n2"]


def test_the_loser_keeps_what_it_has_in_peace() -> None:
    found = settle([node(1), claims(2, "10.42.1.0/24", "fd42:0:0:2::/64")])
    assert found.pod_cidrs_of("n2") == (V6.cidr(2),)


def test_a_claim_that_lost_takes_nothing_from_others() -> None:
    """n2's wide claim is void, so n3 may have what lies in it."""
    found = settle([claims(1, "10.42.1.0/24"), claims(2, "10.42.0.0/16"), claims(3, "10.42.3.0/24")])
    assert dict(found.pod_cidrs) == {V4.cidr(1): "n1", V4.cidr(3): "n3"}
    assert [conflict.node for conflict in found.conflicts] == ["n2"]


@pytest.mark.parametrize("order", [("10.42.0.0/16", "10.42.1.0/24"), ("10.42.1.0/24", "10.42.0.0/16")])
def test_a_nodes_cidr_inside_another_of_its_own_adds_nothing(order: tuple[str, str]) -> None:
    found = settle([claims(1, *order)])
    assert found.pod_cidrs_of("n1") == (V4.cluster,)
    assert found.conflicts == ()


def test_a_default_route_is_no_pod_cidr(net: Net) -> None:
    found = settle([claims(1, str(net.default), str(net.cidr(1))), node(2)])
    assert found.pod_cidrs_of("n1") == (net.cidr(1),)
    assert found.pod_cidrs_of("n2") == (V4.cidr(2), V6.cidr(2))
    assert reasons(found) == [("n1", "spec.podCIDRs", f"{net.default} is everything, not a pod CIDR")]


def test_one_address_belongs_to_one_node(net: Net) -> None:
    found = settle([node(1), node(2, addresses=(net.host(1), net.host(2)))])
    assert dict(found.addresses) == {V4.host(1): "n1", V6.host(1): "n1", net.host(2): "n2"}
    assert found.conflicts == (
        Conflict(
            "n2",
            "status.addresses",
            f"{net.host(1)} is an address of Node n1, too, which is older or first by name",
        ),
    )


def test_an_address_named_twice_by_one_node_is_no_conflict(net: Net) -> None:
    assert settle([node(1, addresses=(net.host(1), net.host(1)))]).conflicts == ()


def nodes() -> st.SearchStrategy[list[Node]]:
    """Nodes whose CIDRs are likely to meet."""
    cidr = st.builds(
        lambda value, length: Prefix(bytes([10, value << 4, 0, 0]), 32).shortened(length),
        st.integers(0, 15),
        st.integers(8, 12),
    )
    claim = st.tuples(st.sampled_from(["", OLD, YOUNG]), st.lists(cidr, max_size=2))
    return st.lists(claim, max_size=6).map(
        lambda claims: [
            node(number, created=created, pod_cidrs=tuple(cidrs)) for number, (created, cidrs) in enumerate(claims, 1)
        ]
    )


@given(nodes(), st.data())
def test_the_order_of_nodes_does_not_matter(claimants: list[Node], data: st.DataObject) -> None:
    assert settle(data.draw(st.permutations(claimants))) == settle(claimants)


@given(nodes())
def test_no_two_owned_cidrs_overlap_and_every_refusal_has_a_reason(claimants: list[Node]) -> None:
    found = settle(claimants)
    owned = list(found.pod_cidrs)
    assert not any(a.overlaps(b) for a in owned for b in owned if a is not b)
    refused = {conflict.reason.split()[0] for conflict in found.conflicts}
    for claimant in claimants:
        for prefix in claimant.pod_cidrs:
            held = any(own.contains(prefix) for own in found.pod_cidrs_of(claimant.name))
            assert held or str(prefix) in refused


@given(nodes())
def test_the_oldest_node_gets_all_it_claims(claimants: list[Node]) -> None:
    found = settle(claimants)
    for oldest in sorted(claimants, key=lambda claimant: (claimant.created, claimant.name))[:1]:
        assert all(any(own.contains(prefix) for own in found.pod_cidrs_of(oldest.name)) for prefix in oldest.pod_cidrs)


CLAIMED = ("10.42.0.0/24", "10.42.1.0/24", "10.42.0.0/23", "10.42.1.64/26", "fd42::/64", "fd42::/48", "0.0.0.0/0")


def changes() -> st.SearchStrategy[dict[str, Node | None]]:
    """Some nodes of few, each new, other than before, or gone; what they claim meets often."""
    nodes = st.builds(
        lambda number, cidrs, hosts, created: node(
            number,
            pod_cidrs=tuple(map(Prefix.parse, cidrs)),
            addresses=tuple(V4.host(host) for host in hosts),
            created=created,
        ),
        st.integers(1, 5),
        st.lists(st.sampled_from(CLAIMED), max_size=2),
        st.lists(st.integers(1, 6), max_size=2),
        st.sampled_from([OLD, YOUNG]),
    )
    some = st.lists(nodes, max_size=3).map(lambda found: {each.name: each for each in found})
    gone = st.sets(st.integers(1, 5), max_size=2).map(lambda numbers: {f"n{number}": None for number in numbers})
    return st.builds(lambda new, old: {**new, **old}, some, gone)


@given(st.lists(changes(), max_size=8))
def test_followed_through_changes_it_is_what_settling_all_comes_to(steps: list[dict[str, Node | None]]) -> None:
    settlement, nodes = Settlement(), dict[str, Node]()
    for step in steps:
        merged = {**nodes, **step}
        nodes = {name: each for name, each in merged.items() if each is not None}
        found = settlement.follow(nodes)
        assert found == settle(nodes.values())
        for text in CLAIMED:  # how it is looked up, too
            prefix = Prefix.parse(text)
            assert found.pod_cidrs.covering(prefix) == settle(nodes.values()).pod_cidrs.covering(prefix)


def test_what_says_the_same_is_the_same(net: Net) -> None:
    settlement = Settlement()
    nodes = {f"n{number}": node(number) for number in range(1, 9)}
    before = settlement.follow(nodes)
    assert settlement.follow({**nodes, "n2": node(2, asn=65000)}) is before
    moved = settlement.follow({**nodes, "n2": node(2, addresses=(net.host(99),))})
    assert moved.pod_cidrs is before.pod_cidrs
    assert moved.addresses[net.host(99)] == "n2"


def test_of_nodes_that_meet_nobody_none_is_settled_anew(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    settlement = Settlement()
    nodes = {f"n{number}": node(number) for number in range(1, 9)}
    settlement.follow(
        {**nodes, "n9": node(1, name="n9")}
    )  # two of one name meet; they are none of the others' business
    monkeypatch.setattr("bgp.ownership.settle", None)  # to be called by nobody
    found = settlement.follow({**nodes, "n9": node(1, name="n9"), "n20": node(20)})
    assert found.pod_cidrs[net.cidr(20)] == "n20"
    assert {conflict.node for conflict in found.conflicts} == {"n9"}
