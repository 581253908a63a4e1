"""Sessions with routers, by address: what a BGPPeer says and what follows from it."""

from __future__ import annotations

from typing import Any

import pytest

from bgp.config import NextHopMode, Node, RelativeAsn, SecretKey, Timers
from bgp.import_rules import PrefixRange
from bgp.peering import Complaint, PlannedSession
from inet.prefix import Family, Prefix, parse_address
from tests.bgp.builders import OWN_ASN, ROUTER, V4, V6, Net, node, peering, plan_of


def towards_router(*nodes: Node, **settings: Any) -> PlannedSession:
    """The session with the router, with the settings of a BGPPeer."""
    found = plan_of(nodes or [node(1)], peerings=(peering(address=ROUTER, **settings),))
    return found.sessions[parse_address(ROUTER)]


def test_a_router_gets_one_session_for_all_families() -> None:
    found = towards_router(asn=65100)
    session = found.session
    assert (session.peer, session.local_address) == (parse_address(ROUTER), parse_address("172.16.1.11"))
    assert (session.local_asn, session.peer_asn, session.is_internal) == (OWN_ASN, 65100, False)
    assert (session.families, session.ttl, session.peer_port) == (frozenset(Family), 1, 179)
    assert (session.origin, found.peer_node) == ("BGPPeer/tor", None)
    assert found.next_hops == {Family.IPV4: parse_address("172.16.1.11"), Family.IPV6: V6.host(1)}


def test_a_router_reached_over_ipv6_is_no_different() -> None:
    router = parse_address("fd16::1")
    found = plan_of(
        [node(1)],
        peerings=(peering(address="fd16::1", asn=65100),),
        towards={router: parse_address("fd16::11")},
    ).sessions[router]
    assert found.session.families == frozenset(Family)
    assert found.next_hops == {Family.IPV4: V4.host(1), Family.IPV6: parse_address("fd16::11")}


@pytest.mark.parametrize("asn", [None, RelativeAsn.INTERNAL, OWN_ASN], ids=["nothing", "Internal", "our number"])
def test_a_peer_of_our_own_as_is_internal(asn: int | RelativeAsn | None) -> None:
    session = towards_router(asn=asn).session
    assert session.is_internal
    assert session.ttl is None


@pytest.mark.parametrize(
    ("families", "carried"),
    [
        ({}, {Family.IPV4, Family.IPV6}),
        ({"families": frozenset({Family.IPV4})}, {Family.IPV4}),
        ({"families": frozenset({Family.IPV6})}, {Family.IPV6}),
    ],
    ids=["what the node has", "IPv4", "IPv6"],
)
def test_a_session_carries_the_families_asked_for(families: dict[str, Any], carried: set[Family]) -> None:
    assert towards_router(**families).session.families == carried


def test_a_node_without_pod_cidrs_speaks_the_family_of_the_peer() -> None:
    assert towards_router(node(1, pod_cidrs=())).session.families == {Family.IPV4}


def test_a_family_the_node_has_no_next_hop_for_is_not_carried() -> None:
    lacking = node(1, addresses=(V4.host(1),))
    assert towards_router(lacking).session.families == {Family.IPV4}
    found = towards_router(lacking, families=frozenset({Family.IPV6}))
    assert found.hindrance == "this node has no address to be a next hop with"
    assert found.session.families == {Family.IPV6}


def test_a_router_is_believed_for_the_cluster_and_what_is_allowed(net: Net) -> None:
    elsewhere = Prefix.parse("198.51.100.0/24" if net is V4 else "2001:db8:1::/48")
    everywhere = Prefix.parse("203.0.113.0/24" if net is V4 else "2001:db8:2::/48")
    service = Prefix.parse("10.43.0.0/16" if net is V4 else "fd43::/112")
    settings: dict[str, Any] = {"service_cidrs": (service,), "accept": (PrefixRange.within(everywhere),)}
    allowed = peering(address=ROUTER, accept=(PrefixRange.within(elsewhere),))
    rules = plan_of([node(1), node(2)], peerings=(allowed,), **settings).sessions[parse_address(ROUTER)].rules
    for prefix in (net.cidr(2), service, everywhere, elsewhere):
        assert rules.refuse_prefix(prefix, own_asn_in_path=False) is None
    for prefix in (net.cidr(3), net.cluster, net.default):
        assert rules.refuse_prefix(prefix, own_asn_in_path=False) is not None
    assert rules.refuse_prefix(net.cidr(1), own_asn_in_path=False) == "belongs to this node"


def test_configured_pod_cidrs_stand_for_the_cluster(net: Net) -> None:
    rules = (
        plan_of([node(1), node(2)], pod_cidrs=(net.cluster,), peerings=(peering(address=ROUTER),))
        .sessions[parse_address(ROUTER)]
        .rules
    )
    assert rules.refuse_prefix(net.cidr(99), own_asn_in_path=False) is None
    other = V6 if net is V4 else V4
    assert rules.refuse_prefix(other.cidr(2), own_asn_in_path=False) is not None


def test_a_path_through_any_address_of_ours_is_refused() -> None:
    found = plan_of(
        [node(1), node(2)],
        peerings=(peering(address=ROUTER), peering("spine", address="172.16.9.1", source_address="172.16.9.11")),
    )
    for planned in found.sessions.values():
        expected = {V4.host(1), V6.host(1), parse_address("172.16.1.11"), parse_address("172.16.9.11")}
        assert planned.rules.own_addresses == expected


def test_settings_of_a_peer_reach_its_session() -> None:
    found = towards_router(
        asn=65100,
        port=1179,
        timers=Timers(9, 3, 5),
        allow_own_asn=2,
        max_prefixes=7,
        next_hop=NextHopMode.UNCHANGED,
        source_address="172.16.1.99",
    )
    session = found.session
    assert (session.hold_time_s, session.keepalive_time_s, session.connect_retry_time_s) == (9, 3, 5)
    assert (session.peer_port, session.local_address) == (1179, parse_address("172.16.1.99"))
    assert (found.rules.allow_own_asn, found.rules.max_prefixes) == (2, 7)
    assert found.next_hop_mode is NextHopMode.UNCHANGED


def test_settings_of_the_cluster_reach_every_session() -> None:
    found = plan_of(
        [node(1), node(2)],
        peerings=(peering(address=ROUTER),),
        timers=Timers(30, 10, 1),
        graceful_restart_time_s=None,
        listen_port=1790,
        max_prefixes=5,
    )
    for planned in found.sessions.values():
        session = planned.session
        assert (session.hold_time_s, session.keepalive_time_s, session.connect_retry_time_s) == (30, 10, 1)
        assert (session.graceful_restart_time_s, session.listen_port) == (None, 1790)
        assert planned.rules.max_prefixes == 5
    assert found.sessions[parse_address(ROUTER)].session.peer_port == 179, "a router listens where routers do"


@pytest.mark.parametrize(
    ("asn", "settings", "ttl", "minimum"),
    [
        (65100, {}, 1, None),
        (OWN_ASN, {}, None, None),
        (65100, {"multihop_ttl": 4}, 4, None),
        (OWN_ASN, {"multihop_ttl": 4}, 4, None),
        (65100, {"ttl_security_hops": 1}, 255, 255),
        (65100, {"ttl_security_hops": 3}, 255, 253),
        (OWN_ASN, {"ttl_security_hops": 254}, 255, 2),
    ],
)
def test_ttl_of_a_router(asn: int, settings: dict[str, int], ttl: int | None, minimum: int | None) -> None:
    """RFC 5082: who is `hops` away arrives with at least 256 - hops."""
    session = towards_router(asn=asn, **settings).session
    assert (session.ttl, session.minimum_ttl) == (ttl, minimum)


def test_a_peer_is_one_of_the_nodes_it_selects() -> None:
    elsewhere = peering(nodes=["n2"], address=ROUTER)
    found = plan_of([node(1)], peerings=(elsewhere,))
    assert (found.sessions, found.complaints) == ({}, ())


def test_a_peering_of_every_node_with_one_of_them_leaves_that_one_out() -> None:
    every = peering(nodes=["n1", "n2"], address=str(V4.host(1)))
    found = plan_of([node(1), node(2)], mesh_enabled=False, peerings=(every,))
    assert (found.sessions, found.complaints) == ({}, ())


def complaint_about(**settings: Any) -> Complaint:
    found = plan_of([node(1)], peerings=(peering(**{"address": ROUTER} | settings),))
    assert found.sessions == {}
    (complaint,) = found.complaints
    return complaint


def test_a_router_without_a_route_to_it_is_complained_about() -> None:
    assert complaint_about(address="172.16.7.1") == Complaint(
        "BGPPeer", "tor", "spec.peer.address", "this node has no route to 172.16.7.1", "It is tried again."
    )


def test_a_source_address_of_the_other_family_is_complained_about() -> None:
    assert complaint_about(source_address="fd16::11") == Complaint(
        "BGPPeer",
        "tor",
        "spec.sourceAddress",
        "fd16::11 and the peer's 172.16.1.1 are of different families",
        "The session is left out.",
    )


def test_external_is_no_as_number_for_a_router() -> None:
    assert complaint_about(asn=RelativeAsn.EXTERNAL) == Complaint(
        "BGPPeer",
        "tor",
        "spec.peerASN",
        "External names no AS; a peer by address needs its number",
        "The session is left out.",
    )


# Administratively down


@pytest.mark.parametrize(
    ("message", "shown"),
    [("", "administratively down"), ("cable work", "administratively down: cable work")],
)
def test_a_session_that_is_shut_down_says_why(message: str, shown: str) -> None:
    assert towards_router(shutdown=message).hindrance == shown
    assert towards_router(shutdown=message, password=SecretKey("bgp", "tor")).hindrance == shown, (
        "whatever else is in its way"
    )


def test_a_node_is_believed_as_a_node_even_if_its_address_was_written_down() -> None:
    other = node(2)
    found = plan_of(
        [node(1), other], peerings=(peering(address=str(V4.host(2)), asn=OWN_ASN),), towards={V4.host(2): V4.host(1)}
    )
    planned = found.sessions[V4.host(2)]
    assert planned.peer_node == "n2"
    assert planned.rules.refuse_prefix(V4.cidr(3), own_asn_in_path=False) is not None
    assert planned.rules.refuse_prefix(V4.cidr(2), own_asn_in_path=False) is None
