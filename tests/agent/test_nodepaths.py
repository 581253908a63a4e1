"""What the RIB is told of Node objects."""

from __future__ import annotations

from agent.nodepaths import NODE_OBJECTS, NodePathTeller
from bgp.rib import Rib
from inet.prefix import Prefix, parse_address

P, Q = Prefix.parse("10.42.2.0/24"), Prefix.parse("fd42:0:0:2::/64")
HERE, THERE = parse_address("172.16.0.2"), parse_address("172.16.0.3")
PATIENCE_S = 10.0


def told(rib: Rib) -> dict[Prefix, str]:
    entry = rib.peers().get(NODE_OBJECTS)
    return {prefix: str(path.attributes.next_hop) for prefix, path in entry.received.items()} if entry else {}


def test_nothing_is_said_where_nothing_is_wanted() -> None:
    rib = Rib()
    NodePathTeller(rib, PATIENCE_S).tell({}, {}, 0.0)
    assert NODE_OBJECTS not in rib.peers()


def test_paths_come_change_and_go() -> None:
    rib = Rib()
    teller = NodePathTeller(rib, PATIENCE_S)
    teller.tell({P: HERE, Q: HERE}, {}, 0.0)
    assert told(rib) == {P: str(HERE), Q: str(HERE)}
    teller.tell({P: THERE}, {}, 0.0)
    assert told(rib) == {P: str(THERE)}
    assert rib.peers()[NODE_OBJECTS].refused == {}


def test_what_is_to_be_kept_stays_until_patience_ends() -> None:
    rib = Rib()
    teller = NodePathTeller(rib, PATIENCE_S)
    teller.tell({P: HERE}, {}, 0.0)
    teller.tell({}, {P: HERE}, 5.0)
    assert told(rib) == {P: str(HERE)}
    assert teller.next_deadline == 5.0 + PATIENCE_S
    teller.tell({}, {P: HERE}, 14.9)
    assert told(rib) == {P: str(HERE)}
    teller.tell({}, {P: HERE}, 15.0)
    assert told(rib) == {}
    assert teller.next_deadline is None


def test_what_leads_elsewhere_by_now_is_not_kept() -> None:
    rib = Rib()
    teller = NodePathTeller(rib, PATIENCE_S)
    teller.tell({P: HERE}, {}, 0.0)
    teller.tell({}, {P: THERE}, 1.0)
    assert told(rib) == {}


def test_a_wish_that_comes_back_has_patience_anew() -> None:
    rib = Rib()
    teller = NodePathTeller(rib, PATIENCE_S)
    teller.tell({P: HERE}, {}, 0.0)
    teller.tell({}, {P: HERE}, 5.0)
    teller.tell({P: HERE}, {}, 6.0)
    teller.tell({}, {P: HERE}, 20.0)
    assert told(rib) == {P: str(HERE)}
    assert teller.next_deadline == 30.0
