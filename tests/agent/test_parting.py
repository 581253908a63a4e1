from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from agent.parting import PARTING_S, Parting
from bgp.config import BgpConfig, Node, NodeRoutes, Peering
from bgp.path import PeerKey
from bgp.peering import Plan, plan
from inet.prefix import Prefix

NODES = {
    f"n{number}": Node(
        f"n{number}", (IPv4Address(f"192.0.2.{number}"),), (Prefix.parse(f"10.42.{number}.0/24"),), 64512
    )
    for number in (1, 2, 3)
}
ROUTER = IPv4Address("192.0.2.100")
TOR = Peering("tor", frozenset({"n1"}), address=ROUTER, asn=65100)
OTHERS = {IPv4Address("192.0.2.2"), IPv4Address("192.0.2.3")}


def planned(node_routes: NodeRoutes, *, with_router: bool = True) -> Plan:
    config = BgpConfig(nodes=NODES, node_routes=node_routes, peerings=(TOR,) if with_router else ())
    return plan(config, NODES["n1"], {ROUTER: IPv4Address("192.0.2.1")})


def sessions(parting: Parting, node_routes: NodeRoutes, now: float, *, with_router: bool = True) -> set[PeerKey]:
    return set(parting.extend(node_routes, planned(node_routes, with_router=with_router), now).sessions)


@pytest.fixture
def parting() -> Parting:
    """A node of a mesh."""
    parting = Parting()
    assert sessions(parting, NodeRoutes.BGP, 100) == {ROUTER, *OTHERS}
    return parting


def test_sessions_of_the_mesh_go_on_for_a_while_when_routes_come_from_node_objects(parting: Parting) -> None:
    assert sessions(parting, NodeRoutes.DIRECT, 100) == {ROUTER, *OTHERS}
    assert parting.deadline == 100 + PARTING_S
    assert sessions(parting, NodeRoutes.DIRECT, 99 + PARTING_S) == {ROUTER, *OTHERS}
    assert sessions(parting, NodeRoutes.DIRECT, 100 + PARTING_S) == {ROUTER}
    assert parting.deadline is None


def test_a_session_that_somebody_took_away_ends_at_once(parting: Parting) -> None:
    assert sessions(parting, NodeRoutes.BGP, 101, with_router=False) == OTHERS
    assert sessions(parting, NodeRoutes.DIRECT, 102, with_router=False) == OTHERS


def test_who_thinks_better_of_it_has_a_mesh_as_before(parting: Parting) -> None:
    sessions(parting, NodeRoutes.DIRECT, 100)
    assert sessions(parting, NodeRoutes.BGP, 101) == {ROUTER, *OTHERS}
    assert parting.deadline == 101 + PARTING_S, "no session is relied upon until then: others may not have heard yet"
    assert sessions(parting, NodeRoutes.BGP, 101 + PARTING_S) == {ROUTER, *OTHERS}
    assert parting.deadline is None


def test_a_node_that_starts_like_this_has_nothing_to_wait_for() -> None:
    parting = Parting()
    assert sessions(parting, NodeRoutes.DIRECT, 100) == {ROUTER}
    assert parting.deadline is None
