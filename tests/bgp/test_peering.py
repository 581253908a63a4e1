"""Which sessions a node has: the mesh, other nodes, conflicts, passwords, router ids."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any, Final

import pytest

from bgp.config import RelativeAsn, SecretKey
from bgp.import_rules import ranges_within
from bgp.peering import NODE_TTL, Complaint, Plan, router_id
from bgp.speaker import Secret
from inet.prefix import Family, Prefix, parse_address
from tests.bgp.builders import OWN_ASN, ROUTER, V4, V6, Net, node, peering, plan_of

MESH_KEY, TOR_KEY = SecretKey("bgp", "mesh"), SecretKey("bgp", "tor")
FOUR, SIX = [Family.IPV4], [Family.IPV6]


def addresses(found: Plan) -> list[str]:
    return sorted(map(str, found.sessions))


# The mesh


def test_b12_one_session_for_each_address_of_every_other_node() -> None:
    assert addresses(plan_of([node(1)])) == [], "none with itself"
    assert addresses(plan_of([node(1), node(2)])) == ["192.168.0.2", "fd00::2"]
    assert addresses(plan_of([node(1), node(2)], on="n2")) == ["192.168.0.1", "fd00::1"]
    assert addresses(plan_of(map(node, (1, 2, 3)))) == ["192.168.0.2", "192.168.0.3", "fd00::2", "fd00::3"]


def test_b12_a_node_that_is_removed_is_peered_with_no_more() -> None:
    before, after = plan_of([node(1), node(2), node(3)]), plan_of([node(1), node(3)])
    gone = before.sessions.keys() - after.sessions.keys()
    assert {before.sessions[each].peer_node for each in gone} == {"n2"}
    kept = {peer: session for peer, session in before.sessions.items() if peer not in gone}
    assert {peer: each.session for peer, each in after.sessions.items()} == {
        peer: each.session for peer, each in kept.items()
    }, "and nobody else's session is touched"


def test_a_mesh_session_carries_the_family_of_its_addresses(net: Net) -> None:
    found = plan_of([node(1), node(2)]).sessions[net.host(2)]
    session = found.session
    assert (session.local_address, session.families) == (net.host(1), {net.family})
    assert (session.local_asn, session.peer_asn, session.is_internal) == (OWN_ASN, OWN_ASN, True)
    assert (session.ttl, session.minimum_ttl) == (NODE_TTL, None)
    assert (session.origin, found.peer_node, found.hindrance) == ("mesh/n2", "n2", "")
    assert found.next_hops[net.family] == net.host(1)


def test_both_ends_of_a_mesh_session_agree(net: Net) -> None:
    nodes = [node(1, asn=65001), node(2, asn=65002)]
    here = plan_of(nodes, on="n1", listen_port=1790).sessions[net.host(2)].session
    there = plan_of(nodes, on="n2", listen_port=1790).sessions[net.host(1)].session
    assert (here.peer, here.peer_asn, here.local_address) == (there.local_address, there.local_asn, there.peer)
    assert (there.peer, there.peer_asn) == (here.local_address, here.local_asn)
    assert here.peer_port == there.listen_port == 1790
    assert here.families == there.families


def test_nodes_of_different_racks_speak_ebgp_over_several_hops(net: Net) -> None:
    """The AS per rack comes from a BGPNodeProfile."""
    session = plan_of([node(1, asn=65001), node(2, asn=65002)]).sessions[net.host(2)].session
    assert not session.is_internal
    assert (session.peer_asn, session.ttl) == (65002, NODE_TTL)


def test_a_mesh_peer_is_believed_for_its_own_cidrs_alone(net: Net) -> None:
    rules = plan_of([node(1), node(2), node(3)]).sessions[net.host(2)].rules
    assert rules.refuse_prefix(net.cidr(2), own_asn_in_path=False) is None
    assert rules.refuse_prefix(net.cidr(3), own_asn_in_path=False) == "belongs to Node n3, not n2"
    assert rules.refuse_prefix(net.cidr(1), own_asn_in_path=False) == "belongs to this node"
    assert rules.refuse_prefix(net.default, own_asn_in_path=False) is not None


def test_a_transit_node_is_believed_for_the_whole_cluster(net: Net) -> None:
    found = plan_of([node(1), node(2, is_transit=True), node(3)]).sessions[net.host(2)]
    assert found.rules.refuse_prefix(net.cidr(3), own_asn_in_path=False) is None
    assert found.rules.refuse_prefix(net.cidr(1), own_asn_in_path=False) == "belongs to this node"
    assert found.peer_node == "n2"


def test_the_mesh_can_be_off() -> None:
    assert plan_of([node(1), node(2)], mesh_enabled=False).sessions == {}


def test_nodes_with_one_common_family_have_one_session() -> None:
    found = plan_of([node(1, families=FOUR), node(2)])
    assert addresses(found) == ["192.168.0.2"]
    assert found.complaints == ()


def test_nodes_without_a_common_family_have_none_and_it_is_said() -> None:
    found = plan_of([node(1, families=FOUR), node(2, families=SIX)])
    assert found.sessions == {}
    assert found.complaints == (
        Complaint(
            "Node",
            "n2",
            "status.addresses",
            "no InternalIP of IPv4 or IPv6 where Node n1 has one",
            "There is no session between the two.",
        ),
    )


def test_nodes_with_pods_of_one_family_speak_only_of_that_family() -> None:
    four_only = [node(number, pod_cidrs=(V4.cidr(number),)) for number in (1, 2)]
    assert addresses(plan_of(four_only)) == ["192.168.0.2"]


def test_a_family_that_only_the_other_node_has_pods_of_is_heard(net: Net) -> None:
    nodes = [node(1, pod_cidrs=(V4.cidr(1),)), node(2, pod_cidrs=(V6.cidr(2),))]
    assert plan_of(nodes).sessions[net.host(2)].session.families == {net.family}


def test_nodes_without_pod_cidrs_yet_are_peered_with_all_the_same() -> None:
    assert addresses(plan_of([node(1, pod_cidrs=()), node(2, pod_cidrs=())])) == ["192.168.0.2", "fd00::2"]


def test_a_pod_cidr_of_a_family_the_node_has_no_address_of_is_complained_about() -> None:
    lacking = node(1, addresses=(V4.host(1),))
    found = plan_of([lacking, node(2)])
    assert addresses(found) == ["192.168.0.2"]
    assert found.complaints == (
        Complaint(
            "Node",
            "n1",
            "status.addresses",
            "no InternalIP of family IPv6, but a pod CIDR fd42:0:0:1::/64",
            "Other nodes do not learn it. A kubelet takes both from --node-ip.",
        ),
    )


# Conflicts between nodes


def test_the_loser_of_a_pod_cidr_neither_announces_it_nor_is_believed(net: Net) -> None:
    winner, loser = node(1, created="2026-01-01"), node(2, created="2026-06-01", pod_cidrs=(net.cidr(1),))
    complaint = Complaint(
        "Node",
        "n2",
        "spec.podCIDRs",
        f"{net.cidr(1)} overlaps {net.cidr(1)} of Node n1, which is older or first by name",
        "It is neither announced nor believed.",
    )
    third = plan_of([winner, loser, node(3)], on="n3")
    assert complaint in third.complaints
    for_loser = third.sessions[net.host(2)].rules
    assert for_loser.refuse_prefix(net.cidr(1), own_asn_in_path=False) == "belongs to Node n1, not n2"
    assert third.sessions[net.host(1)].rules.refuse_prefix(net.cidr(1), own_asn_in_path=False) is None

    at_loser = plan_of([winner, loser, node(3)], on="n2")
    assert complaint in at_loser.complaints
    assert at_loser.ownership.pod_cidrs_of("n2") == ()
    assert at_loser.sessions[net.host(1)].rules.refuse_prefix(net.cidr(1), own_asn_in_path=False) is None


def test_of_two_nodes_with_one_address_only_the_older_is_peered_with(net: Net) -> None:
    other = V6 if net is V4 else V4
    twin = node(2, created="2026-06-01", addresses=(net.host(1), other.host(2)))
    nodes = [twin, node(1, created="2026-01-01"), node(3)]
    seen = plan_of(nodes, on="n3")
    assert seen.sessions[net.host(1)].peer_node == "n1"
    assert seen.sessions[other.host(2)].peer_node == "n2"
    assert seen.complaints == (
        Complaint(
            "Node",
            "n2",
            "status.addresses",
            f"{net.host(1)} is an address of Node n1, too, which is older or first by name",
            "It is neither announced nor believed.",
        ),
    )
    assert net.host(1) not in plan_of(nodes, on="n2").sessions, "the twin does not peer with itself"


# Two objects for one peer


def test_of_two_objects_for_one_router_the_older_wins() -> None:
    older = peering("zebra", address=ROUTER, asn=65100, created="2026-01-01")
    younger = peering("adder", address=ROUTER, asn=65200, created="2026-06-01")
    found = plan_of([node(1)], peerings=(younger, older))
    assert found.sessions[parse_address(ROUTER)].session.origin == "BGPPeer/zebra"
    assert found.complaints == (
        Complaint(
            "BGPPeer",
            "adder",
            "spec.peer.address",
            "172.16.1.1 is peered with by BGPPeer/zebra already, which is older or first by name",
            "This one is left out.",
        ),
    )


def test_of_two_objects_of_one_age_the_first_by_name_wins() -> None:
    found = plan_of([node(1)], peerings=(peering("b", address=ROUTER), peering("a", address=ROUTER)))
    assert found.sessions[parse_address(ROUTER)].session.origin == "BGPPeer/a"


def test_an_object_between_nodes_beats_the_mesh_without_a_word() -> None:
    found = plan_of([node(1), node(2), node(3)], peerings=(peering("pair", peer_nodes=["n2"]),))
    origins = {str(peer): each.session.origin for peer, each in found.sessions.items()}
    assert origins == {
        "192.168.0.2": "BGPPeer/pair",
        "fd00::2": "BGPPeer/pair",
        "192.168.0.3": "mesh/n3",
        "fd00::3": "mesh/n3",
    }
    assert found.complaints == ()


def test_an_object_for_one_family_leaves_the_other_to_the_mesh(net: Net) -> None:
    other = V6 if net is V4 else V4
    pair = peering("pair", peer_nodes=["n2"], families=frozenset({net.family}))
    found = plan_of([node(1), node(2)], peerings=(pair,))
    assert found.sessions[net.host(2)].session.origin == "BGPPeer/pair"
    assert found.sessions[other.host(2)].session.origin == "mesh/n2"


def test_a_nodes_address_named_by_an_object_is_not_peered_with_by_the_mesh() -> None:
    here = {V4.host(2): V4.host(1)}
    found = plan_of([node(1), node(2)], peerings=(peering(address=str(V4.host(2))),), towards=here)
    assert found.sessions[V4.host(2)].session.origin == "BGPPeer/tor"
    assert found.sessions[V6.host(2)].session.origin == "mesh/n2"


def test_two_objects_between_the_same_nodes_are_one_too_many(net: Net) -> None:
    one = frozenset({net.family})
    first = peering("a", peer_nodes=["n2"], families=one)
    second = peering("b", nodes=["n2"], peer_nodes=["n1"], families=one)
    for on, peer in (("n1", 2), ("n2", 1)):
        found = plan_of([node(1), node(2)], on=on, mesh_enabled=False, peerings=(second, first))
        assert found.sessions[net.host(peer)].session.origin == "BGPPeer/a", "both sides hold with the same"
        assert [(each.name, each.field, each.reason) for each in found.complaints] == [
            (
                "b",
                "spec.peer.nodeSelector",
                f"{net.host(peer)} is peered with by BGPPeer/a already, which is older or first by name",
            )
        ]


# Peers by nodes


def test_a_peering_between_nodes_is_one_of_both_sides(net: Net) -> None:
    pair = peering("pair", nodes=["n1"], peer_nodes=["n2", "n9"])
    nodes = [node(1), node(2), node(3)]
    for on, peers in (("n1", ["n2"]), ("n2", ["n1"]), ("n3", [])):
        found = plan_of(nodes, on=on, mesh_enabled=False, peerings=(pair,))
        assert sorted({each.peer_node or "" for each in found.sessions.values()}) == peers
    session = plan_of(nodes, mesh_enabled=False, peerings=(pair,)).sessions[net.host(2)].session
    assert (session.families, session.ttl) == ({net.family}, NODE_TTL)


def test_b14_a_selector_of_all_nodes_is_a_mesh_of_its_own() -> None:
    nodes = [node(1), node(2), node(3)]
    every = [each.name for each in nodes]
    mesh = plan_of(nodes)
    by_object = plan_of(nodes, mesh_enabled=False, peerings=(peering("all", nodes=every, peer_nodes=every),))
    assert by_object.complaints == ()
    assert {peer: (replace(each.session, origin=""), each.rules) for peer, each in by_object.sessions.items()} == {
        peer: (replace(each.session, origin=""), each.rules) for peer, each in mesh.sessions.items()
    }


def test_an_allow_list_between_nodes_adds_to_what_the_node_owns(net: Net) -> None:
    extra = Prefix.parse("198.51.100.0/24" if net is V4 else "2001:db8::/48")
    pair = peering("pair", peer_nodes=["n2"], accept=ranges_within([extra]))
    rules = plan_of([node(1), node(2)], peerings=(pair,)).sessions[net.host(2)].rules
    assert rules.refuse_prefix(extra, own_asn_in_path=False) is None
    assert rules.refuse_prefix(net.cidr(2), own_asn_in_path=False) is None


@pytest.mark.parametrize("on", ["n1", "n2"])
def test_between_nodes_each_side_uses_the_as_of_the_other_node(on: str) -> None:
    nodes = [node(1, asn=65001), node(2, asn=65002)]
    pair = peering("pair", peer_nodes=["n2"], asn=65002)
    found = plan_of(nodes, on=on, mesh_enabled=False, peerings=(pair,))
    assert {each.session.peer_asn for each in found.sessions.values()} == {65002 if on == "n1" else 65001}
    assert found.complaints == ()


@pytest.mark.parametrize(
    ("asn", "said"),
    [(65009, "65009"), (RelativeAsn.INTERNAL, "Internal")],
    ids=["another number", "internal where it is not"],
)
def test_an_as_that_is_not_the_nodes_is_complained_about(asn: int | RelativeAsn, said: str) -> None:
    nodes = [node(1, asn=65001), node(2, asn=65002)]
    found = plan_of(nodes, peerings=(peering("pair", peer_nodes=["n2"], asn=asn),))
    assert {each.session.peer_asn for each in found.sessions.values()} == {65002}
    assert found.complaints == (
        Complaint(
            "BGPPeer",
            "pair",
            "spec.peerASN",
            f"Node n2 has AS 65002 and this node AS 65001: that is not {said}",
            "The Node's own AS is used.",
        ),
    )


@pytest.mark.parametrize(
    ("asn", "relation"), [(OWN_ASN, RelativeAsn.INTERNAL), (65002, RelativeAsn.EXTERNAL)], ids=["Internal", "External"]
)
def test_a_relation_between_nodes_that_holds_is_fine(asn: int, relation: RelativeAsn) -> None:
    found = plan_of([node(1), node(2, asn=asn)], peerings=(peering("pair", peer_nodes=["n2"], asn=relation),))
    assert found.complaints == ()


# Passwords


def secrets(**values: str) -> dict[str, Any]:
    return {
        "secrets": {SecretKey("bgp", key): Secret(value) for key, value in values.items()},
        "secret_names": frozenset({"bgp"}),
    }


def test_a_password_reaches_its_session_and_no_other() -> None:
    found = plan_of(
        [node(1), node(2)],
        peerings=(peering(address=ROUTER, password=TOR_KEY),),
        mesh_password=MESH_KEY,
        **secrets(tor="hush", mesh="shh"),
    )
    passwords = {str(peer): each.session.password for peer, each in found.sessions.items()}
    assert passwords == {ROUTER: Secret("hush"), "192.168.0.2": Secret("shh"), "fd00::2": Secret("shh")}
    assert "hush" not in repr(found)


WITHOUT: Final = [
    ({}, "Secret bgp does not exist"),
    ({"unreadable_secrets": {"bgp": "403 Forbidden"}}, "Secret bgp cannot be read: 403 Forbidden"),
    (secrets(other="x"), 'Secret bgp has no key "{key}"'),
    (secrets(tor="", mesh=""), 'Secret bgp has an empty key "{key}"'),
]


@pytest.mark.parametrize(("given", "reason"), WITHOUT, ids=["no Secret", "no right", "no key", "empty key"])
def test_a_session_without_its_password_waits_and_says_why(given: dict[str, Any], reason: str) -> None:
    why = reason.format(key="tor")
    found = plan_of([node(1), node(2)], peerings=(peering(address=ROUTER, password=TOR_KEY),), **given)
    planned = found.sessions[parse_address(ROUTER)]
    assert (planned.hindrance, planned.session.password) == (why, None)
    assert found.complaints == (Complaint("BGPPeer", "tor", "spec.passwordSecretRef", why, "The session stays down."),)
    assert [each.hindrance for peer, each in found.sessions.items() if str(peer) != ROUTER] == ["", ""]


@pytest.mark.parametrize(("given", "reason"), WITHOUT, ids=["no Secret", "no right", "no key", "empty key"])
def test_a_mesh_without_its_password_waits_and_says_so_once(given: dict[str, Any], reason: str) -> None:
    why = reason.format(key="mesh")
    found = plan_of([node(1), node(2), node(3)], mesh_password=MESH_KEY, **given)
    assert {(each.hindrance, each.session.password) for each in found.sessions.values()} == {(why, None)}
    assert found.complaints == (
        Complaint("BGPConfiguration", "default", "spec.nodeMesh.passwordSecretRef", why, "The mesh stays down."),
    )


# Router ids (RFC 6286)


def test_the_router_id_is_the_configured_one_or_the_first_ipv4_address() -> None:
    assert router_id(node(1)) == V4.host(1)
    assert router_id(node(1, router_id=IPv4Address("7.7.7.7"))) == IPv4Address("7.7.7.7")
    found = plan_of([node(1, router_id=IPv4Address("7.7.7.7")), node(2)])
    assert {each.session.router_id for each in found.sessions.values()} == {IPv4Address("7.7.7.7")}
    assert {each.rules.own_router_id for each in found.sessions.values()} == {IPv4Address("7.7.7.7")}


def test_a_node_without_ipv4_has_a_router_id_made_of_its_name() -> None:
    """Always the same one, different ones for different nodes, and none that FRR refuses (class D and E)."""
    ids = [router_id(node(number, families=SIX)) for number in range(1, 1000)]
    assert ids == [router_id(node(number, families=SIX)) for number in range(1, 1000)]
    assert len(set(ids)) == len(ids)
    assert min(ids) >= IPv4Address("1.0.0.0")
    assert max(ids) <= IPv4Address("223.255.255.255")
