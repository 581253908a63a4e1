from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from bgp.import_rules import GRACEFUL_SHUTDOWN, ImportRules, PrefixRange, ranges_within
from bgp.path import Path
from inet.prefix import Prefix
from inet.prefix_map import PrefixMap
from tests.bgp.builders import OWN_ASN, V4, V6, Net, attributes, path, rules, source


def from_router(net: Net, **changes: object) -> ImportRules:
    """A router's rules on node n100: the cluster's range is accepted, nodes n4 and n7 own their CIDRs."""
    return rules(
        **{
            "accept": ranges_within([net.cluster]),
            "owners": {net.cidr(4): "n4", net.cidr(7): "n7", net.cidr(100): "n100"},
        }
        | changes
    )


def from_node(net: Net, number: int, **changes: object) -> ImportRules:
    """A mesh peer's rules: the node is believed for its own."""
    return from_router(net, accept=ranges_within([net.cidr(number)]), peer_node=f"n{number}", **changes)


def refusal(by: ImportRules, prefix: Prefix, through: Path | None = None) -> str | None:
    """What the RIB does: judge the path, then the prefix."""
    spoken = through or path()
    return by.refuse_path(spoken) or by.refuse_prefix(prefix, own_asn_in_path=by.has_own_asn(spoken))


# Prefixes


def test_a_prefix_inside_the_cluster_is_accepted(net: Net) -> None:
    assert refusal(from_router(net), net.cidr(4)) is None
    assert refusal(from_router(net), net.inside(net.cidr(4))) is None
    assert refusal(from_router(net), net.cluster) is None


def test_a_prefix_outside_the_cluster_is_refused(net: Net) -> None:
    why = "is outside the cluster's pod and service CIDRs and import.accept"
    other = V6 if net is V4 else V4
    outside = Prefix.parse("10.43.0.0/24" if net is V4 else "fd43::/64")
    assert refusal(from_router(net), outside) == why
    assert refusal(from_router(net), net.cluster.shortened(net.cluster.length - 1)) == why
    assert refusal(from_router(net), other.cidr(4)) == why


def test_nothing_is_accepted_without_a_rule(net: Net) -> None:
    """RFC 8212."""
    assert refusal(from_router(net, accept=()), net.cidr(4)) is not None


def test_our_own_cidr_is_refused_and_so_is_everything_inside(net: Net) -> None:
    for prefix in (net.cidr(100), net.inside(net.cidr(100))):
        assert refusal(from_router(net), prefix) == "belongs to this node"
        assert refusal(rules(), prefix) == "belongs to this node", "not even an allow-list of everything helps"
        assert refusal(from_node(net, 7), prefix) == "belongs to this node"


def test_a_default_route_is_refused_unless_it_is_asked_for(net: Net) -> None:
    why = "is a default route, which import.accept does not name"
    assert refusal(from_router(net), net.default) == why
    assert refusal(from_node(net, 7), net.default) == why
    asked = from_router(net, accept=(PrefixRange(net.default, 0, 0),))
    assert refusal(asked, net.default) is None
    assert refusal(asked, net.cidr(4)) is not None, "asking for the default route opens nothing else"


def test_a_range_of_a_whole_family_never_means_the_default_route(net: Net) -> None:
    assert ranges_within([net.default, net.cluster]) == (PrefixRange.within(net.cluster),)


@pytest.mark.parametrize(("length", "is_accepted"), [(23, False), (24, True), (25, True), (26, True), (27, False)])
def test_an_allow_list_limits_the_length(length: int, is_accepted: bool) -> None:
    allowed = rules(accept=(PrefixRange(Prefix.parse("10.50.0.0/16"), 24, 26),))
    assert (refusal(allowed, Prefix.parse(f"10.50.0.0/{length}")) is None) is is_accepted


@pytest.mark.parametrize(("length", "is_accepted"), [(55, False), (56, True), (64, True), (65, False)])
def test_an_allow_list_limits_the_length_of_ipv6_too(length: int, is_accepted: bool) -> None:
    allowed = rules(accept=(PrefixRange(Prefix.parse("fd50::/32"), 56, 64),))
    assert (refusal(allowed, Prefix.parse(f"fd50::/{length}")) is None) is is_accepted


def test_without_configured_cidrs_the_cluster_is_what_nodes_own(net: Net) -> None:
    derived = from_router(net, accept=(), accepts_pod_cidrs=True)
    assert refusal(derived, net.cidr(4)) is None
    assert refusal(derived, net.inside(net.cidr(4))) is None
    assert refusal(derived, net.cidr(5)) == "is outside the cluster's pod and service CIDRs and import.accept"
    assert refusal(derived, net.cluster) is not None
    assert refusal(derived, net.default) is not None


# Mesh peers


def test_a_node_is_believed_for_its_own_cidr_alone(net: Net) -> None:
    mesh = from_node(net, 7)
    assert refusal(mesh, net.cidr(7)) is None
    assert refusal(mesh, net.inside(net.cidr(7))) is None
    assert refusal(mesh, net.cidr(4)) == "belongs to Node n4, not n7"
    assert refusal(mesh, net.inside(net.cidr(4))) == "belongs to Node n4, not n7"
    assert refusal(mesh, net.cidr(5)) == "is no pod CIDR of Node n7"
    assert refusal(mesh, net.cluster) == "is no pod CIDR of Node n7"


# Paths


def test_a_path_through_ourselves_is_refused(net: Net) -> None:
    spoken = path(next_hop=str(net.host(100)))
    assert refusal(from_router(net), net.cidr(4), spoken) == f"has this node as its next hop, {net.host(100)}"


def test_a_path_we_originated_is_refused() -> None:
    spoken = path(is_internal=True, originator_id=IPv4Address("192.168.0.100"))
    assert refusal(from_router(V4), V4.cidr(4), spoken) == "has this node as its originator, 192.168.0.100"
    other = path(is_internal=True, originator_id=IPv4Address("192.168.0.101"))
    assert refusal(from_router(V4), V4.cidr(4), other) is None


LOOP_ONCE, LOOP_TWICE = f"65100 {OWN_ASN}", f"65100 {OWN_ASN} {OWN_ASN}"


@pytest.mark.parametrize(
    ("as_path", "allowed", "is_owned", "why"),
    [
        ("65100 65002", 0, False, None),
        (LOOP_ONCE, 0, True, None),
        (LOOP_ONCE, 0, False, "has our own AS 64512 in its AS path, and no other Node owns it"),
        (LOOP_TWICE, 0, True, "has our own AS 64512 in its AS path 65100 64512 64512"),
        (LOOP_TWICE, 0, False, "has our own AS 64512 in its AS path 65100 64512 64512"),
        (LOOP_ONCE, 1, False, None),
        (LOOP_TWICE, 1, True, "has our own AS 64512 in its AS path 65100 64512 64512"),
        (LOOP_TWICE, 2, False, None),
        (f"{LOOP_TWICE} {OWN_ASN}", 2, True, "has our own AS 64512 in its AS path 65100 64512 64512 64512"),
        (f"65100 {{{OWN_ASN}}}", 0, False, "has our own AS 64512 in its AS path, and no other Node owns it"),
    ],
    ids=[
        "not ours",
        "once, another node's",
        "once, nobody's",
        "twice, another node's",
        "twice, nobody's",
        "once, allowed once",
        "twice, allowed once",
        "twice, allowed twice",
        "thrice, allowed twice",
        "in a set, nobody's",
    ],
)
def test_our_own_as_in_the_path_is_taken_once_for_what_another_node_owns(
    net: Net, as_path: str, allowed: int, is_owned: bool, why: str | None
) -> None:
    judge = from_router(net, allow_own_asn=allowed)
    assert refusal(judge, net.cidr(4 if is_owned else 5), path(via=as_path)) == why


def test_our_own_as_in_the_path_opens_no_way_to_our_own_cidr(net: Net) -> None:
    assert refusal(from_router(net), net.cidr(100), path(via=LOOP_ONCE)) == "belongs to this node"


# Preference


@pytest.mark.parametrize(
    ("is_internal", "said", "communities", "preference"),
    [
        (True, 250, (), 250),
        (True, 0, (), 0),
        (True, None, (), 100),
        (False, None, (), 100),
        (False, 250, (), 100),
        (True, 250, ((65535, 0),), 0),
        (False, None, ((65000, 100), (65535, 0)), 0),
    ],
    ids=[
        "as said inside",
        "zero is a word",
        "silent inside",
        "from outside",
        "from outside, not to be believed",
        "going down, inside",
        "going down, outside",
    ],
)
def test_local_preference_is_believed_from_inside_alone(
    is_internal: bool, said: int | None, communities: tuple[tuple[int, int], ...], preference: int
) -> None:
    """RFC 4271 sections 5.1.5 and 9.1.1; graceful shutdown by RFC 8326 section 4."""
    spoken = attributes(local_pref=said, communities=communities)
    of = source(asn=OWN_ASN if is_internal else 65100)
    assert rules().local_preference(of, spoken) == preference


def test_graceful_shutdown_is_the_well_known_community() -> None:
    assert GRACEFUL_SHUTDOWN == (0xFFFF, 0x0000)


def test_rules_compare_by_what_they_say(net: Net) -> None:
    one = from_node(net, 7)
    assert one == from_node(net, 7)
    assert hash(one) == hash(from_node(net, 7))
    assert one != replace(one, owners=PrefixMap({}))
    assert one != replace(one, max_prefixes=1)
