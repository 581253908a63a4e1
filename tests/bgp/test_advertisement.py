from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest

from bgp.advertisement import NO_ADVERTISE, NO_EXPORT, Advertiser
from bgp.config import BgpConfig, NextHopMode, Node
from bgp.import_rules import GRACEFUL_SHUTDOWN
from bgp.path import AsPath, Attributes, Origin, Path
from bgp.peering import PlannedSession, plan
from bgp.rib import Rib
from inet.prefix import Family, Prefix, parse_address
from tests.bgp.builders import OWN_ASN, V4, V6, Net, as_path, attributes, hops, node, path, peering, rib_with, source

ROUTER = parse_address("172.16.1.1")


def towards_node(family: Family, *, mode: NextHopMode = NextHopMode.AUTO) -> PlannedSession:
    """The session of n1 with n2 that carries a family."""
    nodes = {f"n{number}": node(number) for number in (1, 2)}
    pair = peering("pair", peer_nodes=["n2"], families=frozenset({family}), next_hop=mode)
    config = BgpConfig(nodes=nodes, peerings=(pair,), mesh_enabled=False)
    (planned,) = plan(config, nodes["n1"], {}).sessions.values()
    return planned


def towards_router(
    of: Node | None = None, *, asn: int = 65100, mode: NextHopMode = NextHopMode.AUTO, **settings: Any
) -> PlannedSession:
    """The session of a node with its router."""
    this = of or node(1)
    router = peering(nodes=[this.name], address=str(ROUTER), asn=asn, next_hop=mode, **settings)
    config = BgpConfig(nodes={this.name: this}, peerings=(router,))
    return plan(config, this, {ROUTER: parse_address("172.16.1.11")}).sessions[ROUTER]


def mesh_of(net: Net, number: int, nodes: int = 3) -> dict[str, Advertiser]:
    """What a node says to each other node of a mesh, over the session of one family."""
    config = BgpConfig(nodes={f"n{each}": node(each) for each in range(1, nodes + 1)})
    sessions = plan(config, config.nodes[f"n{number}"], {}).sessions.values()
    return {
        each.peer_node or "": Advertiser(each, passes_on=True)
        for each in sessions
        if net.family in each.session.families
    }


def from_router(**said: Any) -> Path:
    """A path from another router than the one we speak to."""
    return path("172.16.2.1", next_hop="172.16.2.1", via="65200 65009", **said)


def from_inside(**said: Any) -> Path:
    return path("192.168.0.9", is_internal=True, next_hop="192.168.0.9", via="65009", **said)


# What is ours


@pytest.mark.parametrize(
    ("families", "cidrs", "announced"),
    [
        ([Family.IPV4], ["172.20.0.0/24"], ["172.20.0.0/24"]),
        ([Family.IPV6], ["2001:db8:42:2::/64"], ["2001:db8:42:2::/64"]),
        (Family, ["172.20.0.0/24", "2001:db8:42:2::/64"], ["172.20.0.0/24", "2001:db8:42:2::/64"]),
        ([Family.IPV4], ["172.20.0.0/24", "2001:db8:42:2::/64"], ["172.20.0.0/24"]),
    ],
    ids=["IPv4", "IPv6", "both", "IPv6 not enabled"],
)
def test_b13_exactly_one_prefix_for_each_pod_cidr_of_an_enabled_family(
    families: list[Family], cidrs: list[str], announced: list[str]
) -> None:
    ours = node(1, pod_cidrs=tuple(map(Prefix.parse, cidrs)))
    config = BgpConfig(
        nodes={"n1": ours},
        peerings=(peering(address=str(ROUTER), asn=65100, families=frozenset(families)),),
    )
    found = plan(config, ours, {ROUTER: parse_address("172.16.1.11")})
    advertiser = Advertiser(found.sessions[ROUTER], passes_on=False)
    told = advertiser.adj_rib_out(found.ownership.pod_cidrs_of("n1"), {})
    assert [str(prefix) for prefix in told] == announced


def test_our_own_prefix_leaves_our_as_with_our_as_once_and_ourselves_as_next_hop(net: Net) -> None:
    told = Advertiser(towards_router(), passes_on=False).own(net.cidr(1))
    next_hop = parse_address("172.16.1.11") if net is V4 else V6.host(1)
    assert told == Attributes(next_hop=next_hop, as_path=AsPath((OWN_ASN,)), origin=Origin.IGP)


def test_our_own_prefix_stays_inside_with_an_empty_as_path(net: Net) -> None:
    advertiser = Advertiser(towards_node(net.family), passes_on=False)
    assert advertiser.own(net.cidr(1)) == Attributes(next_hop=net.host(1), origin=Origin.IGP, local_pref=100)


def test_a_session_is_told_nothing_of_a_family_it_does_not_carry(net: Net) -> None:
    other = V6 if net is V4 else V4
    inside = Advertiser(towards_node(net.family), passes_on=True)
    assert inside.own(other.cidr(1)) is None
    assert inside.learned(other.cidr(9), from_router()) is None
    outside = Advertiser(towards_router(families=frozenset({net.family})), passes_on=True)
    assert outside.adj_rib_out([V4.cidr(1), V6.cidr(1)], {}).keys() == {net.cidr(1)}


@pytest.mark.parametrize("families", [frozenset(Family), frozenset({Family.IPV6})], ids=["both", "IPv6"])
def test_a_family_we_have_no_address_of_is_not_announced(families: frozenset[Family]) -> None:
    ours = node(1, addresses=(V4.host(1),))
    for asn in (65100, OWN_ASN):
        session = towards_router(ours, asn=asn, families=families, mode=NextHopMode.SELF)
        assert Advertiser(session, passes_on=True).own(V6.cidr(1)) is None
        assert Advertiser(session, passes_on=True).learned(V6.cidr(9), from_router()) is None


# What is passed on


def test_a_node_that_is_no_transit_passes_nothing_on(net: Net) -> None:
    assert Advertiser(towards_router(), passes_on=False).learned(net.cidr(9), from_router()) is None
    assert Advertiser(towards_node(net.family), passes_on=False).learned(net.cidr(9), from_router()) is None


def test_b09_what_is_learned_inside_is_never_sent_inside(net: Net) -> None:
    """Three nodes in a full mesh, all of them transit, each originates its pod CIDR."""
    rib = Rib()
    for number in (2, 3):
        peer = source(str(net.host(number)), asn=OWN_ASN, router_id=f"{number}.0.0.1")
        session = plan(BgpConfig(nodes={f"n{n}": node(n) for n in (1, 2, 3)}), node(1), {}).sessions[peer.peer]
        rib.open(peer, session.rules)
        rib.learn(peer.peer, attributes(net.host(number), "", local_pref=100), [net.cidr(number)])
    rib.set_reachability(hops(2, 3))
    rib.decide()
    assert rib.chosen().keys() == {net.cidr(2), net.cidr(3)}
    for advertiser in mesh_of(net, 1).values():
        assert advertiser.adj_rib_out([net.cidr(1)], rib.chosen()).keys() == {net.cidr(1)}


def test_b10_what_is_learned_outside_goes_inside_as_it_came(net: Net) -> None:
    learned = from_router(med=7, communities=((65000, 100),), origin=Origin.EGP)
    told = Advertiser(towards_node(net.family), passes_on=True).learned(net.cidr(9), learned)
    assert told is not None
    assert (told.next_hop, told.as_path) == (parse_address("172.16.2.1"), as_path("65200 65009"))
    assert (told.local_pref, told.med, told.origin) == (100, 7, Origin.EGP)
    assert told.communities == ((65000, 100),)


def test_b10_with_next_hop_self_only_the_next_hop_changes(net: Net) -> None:
    session = towards_node(net.family, mode=NextHopMode.SELF)
    told = Advertiser(session, passes_on=True).learned(net.cidr(9), from_router())
    assert told is not None
    assert (told.next_hop, told.as_path) == (net.host(1), as_path("65200 65009"))


def test_the_preference_we_gave_goes_inside_with_the_path(net: Net) -> None:
    told = Advertiser(towards_node(net.family), passes_on=True).learned(
        net.cidr(9), from_router(local_pref=0, communities=(GRACEFUL_SHUTDOWN,))
    )
    assert told is not None
    assert told.local_pref == 0


@pytest.mark.parametrize("learned", [from_router(med=7), from_inside(med=7)], ids=["from outside", "from inside"])
def test_what_leaves_our_as_has_our_as_in_front_and_nothing_from_inside(net: Net, learned: Path) -> None:
    """RFC 4271 sections 5.1.2 to 5.1.5."""
    told = Advertiser(towards_router(), passes_on=True).learned(net.cidr(9), learned)
    assert told is not None
    assert told.as_path == learned.attributes.as_path.prepend(OWN_ASN)
    assert told.next_hop == (parse_address("172.16.1.11") if net is V4 else V6.host(1))
    assert (told.local_pref, told.med) == (None, None)


def test_marks_of_reflection_stay_inside() -> None:
    """RFC 4456 section 8."""
    reflected = from_inside(originator_id=IPv4Address("7.7.7.7"), cluster_list=(IPv4Address("8.8.8.8"),))
    told = Advertiser(towards_router(), passes_on=True).learned(V4.cidr(9), reflected)
    assert told is not None
    assert (told.originator_id, told.cluster_list) == (None, ())


def test_an_unchanged_next_hop_leaves_our_as_where_it_is_asked_for() -> None:
    session = towards_router(mode=NextHopMode.UNCHANGED)
    told = Advertiser(session, passes_on=True).learned(V4.cidr(9), from_router())
    assert told is not None
    assert told.next_hop == parse_address("172.16.2.1")


@pytest.mark.parametrize("is_inside", [True, False], ids=["inside", "outside"])
def test_a_link_local_next_hop_is_never_passed_on(is_inside: bool) -> None:
    """RFC 2545 section 3: beyond its link it means nothing."""
    mode = NextHopMode.UNCHANGED
    session = towards_node(Family.IPV6, mode=mode) if is_inside else towards_router(mode=mode)
    unnumbered = Path(
        source("fe80::1%eth0"), attributes("fe80::1", "65200 65009", next_hop_interface="eth0"), local_pref=100
    )
    told = Advertiser(session, passes_on=True).learned(V6.cidr(9), unnumbered)
    assert told is not None
    assert (told.next_hop, told.next_hop_interface) == (V6.host(1), None)


def test_nothing_goes_back_to_where_it_came_from(net: Net) -> None:
    theirs = path(str(ROUTER), next_hop=str(ROUTER))
    assert Advertiser(towards_router(), passes_on=True).learned(net.cidr(9), theirs) is None


@pytest.mark.parametrize(
    ("community", "goes_inside", "goes_outside"),
    [
        (NO_EXPORT, True, False),
        (NO_ADVERTISE, False, False),
        ((0xFFFF, 0xFF03), True, False),
        ((65000, 100), True, True),
    ],
    ids=["NO_EXPORT", "NO_ADVERTISE", "NO_EXPORT_SUBCONFED", "any other"],
)
def test_well_known_communities_are_obeyed(
    net: Net, community: tuple[int, int], goes_inside: bool, goes_outside: bool
) -> None:
    """RFC 1997."""
    learned = from_router(communities=((65000, 1), community))
    inside = Advertiser(towards_node(net.family), passes_on=True)
    outside = Advertiser(towards_router(), passes_on=True)
    assert (inside.learned(net.cidr(9), learned) is not None) is goes_inside
    assert (outside.learned(net.cidr(9), learned) is not None) is goes_outside


def test_well_known_communities_have_their_registered_values() -> None:
    assert (NO_EXPORT, NO_ADVERTISE) == ((0xFFFF, 0xFF01), (0xFFFF, 0xFF02))


def chosen_from_router(net: Net, *numbers: int) -> Rib:
    """A RIB that chose other nodes' CIDRs from a second router."""
    peer = source("172.16.2.1", asn=65200)
    rib = rib_with([peer])
    rib.learn(peer.peer, attributes(net.host(50), "65200"), [net.cidr(number) for number in numbers])
    rib.set_reachability(hops(50))
    rib.decide()
    return rib


def test_the_adj_rib_out_is_what_is_ours_and_what_is_passed_on(net: Net) -> None:
    rib = chosen_from_router(net, 8, 9)
    transit = Advertiser(towards_router(), passes_on=True)
    assert transit.adj_rib_out([net.cidr(1)], rib.chosen()).keys() == {net.cidr(1), net.cidr(8), net.cidr(9)}
    leaf = Advertiser(towards_router(), passes_on=False)
    assert leaf.adj_rib_out([net.cidr(1)], rib.chosen()).keys() == {net.cidr(1)}


def test_what_is_ours_beats_what_was_learned_of_it(net: Net) -> None:
    rib = chosen_from_router(net, 8)
    told = Advertiser(towards_router(), passes_on=True).adj_rib_out([net.cidr(8)], rib.chosen())
    assert told[net.cidr(8)].as_path == AsPath((OWN_ASN,))
