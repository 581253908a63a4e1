from __future__ import annotations

import pytest

from inet.prefix import Family
from policy.cidr import parse_block
from policy.ir import Clause, Direction, NamedPorts, SetRef, cidr_set, named_port_set, node_set, pod_set, port_set
from policy.policies import (
    Action,
    BlockPeer,
    NodePeer,
    Peer,
    PodPeer,
    Policy,
    PolicyRef,
    PolicyRule,
    PortMatch,
    Selection,
    Tier,
    UnknownPeer,
)
from policy.rules import EVERY_POD, compile_rules, speaks_about_nodes
from policy.selector import EVERYTHING, selector_of_labels

V4, V6 = Family.IPV4, Family.IPV6
API = Selection("shop", None, selector_of_labels({"app": "api"}))
OPS = Selection(None, selector_of_labels({"team": "ops"}), EVERYTHING)
RACK = selector_of_labels({"rack": "a"})
BLOCK = BlockPeer(parse_block("10.0.0.0/8"), (parse_block("10.128.0.0/9"),))
BLOCK6 = BlockPeer(parse_block("fd00::/8"))
HALF = ((10 << 24, (10 << 24) + (1 << 23) - 1),)


def policy(rule: PolicyRule) -> Policy:
    ref = PolicyRef("NetworkPolicy", "shop", "x")
    return Policy(ref, Tier.NETWORK_POLICY, 0, Selection("shop", None, EVERYTHING), (rule,), (rule,))


def clauses(
    peers: tuple[Peer, ...] | None,
    ports: tuple[PortMatch, ...] | None = None,
    direction: Direction = Direction.EGRESS,
    family: Family = V4,
) -> list[Clause]:
    (rule,) = compile_rules(policy(PolicyRule(Action.ACCEPT, peers, ports)), direction, family)
    return list(rule.clauses)


@pytest.mark.parametrize(
    ("peers", "family", "expected"),
    [
        pytest.param(None, V4, [None], id="anybody"),
        pytest.param((), V4, [], id="nobody"),
        pytest.param((PodPeer(API), PodPeer(OPS)), V6, [pod_set(V6, API), pod_set(V6, OPS)], id="pods"),
        pytest.param((PodPeer(API), PodPeer(API)), V4, [pod_set(V4, API)], id="the same twice"),
        pytest.param((NodePeer(RACK),), V4, [node_set(V4, RACK)], id="nodes"),
        pytest.param((BLOCK, BLOCK6), V4, [cidr_set(V4, HALF)], id="a block without its exception"),
        pytest.param((BLOCK,), V6, [], id="a block of the other family"),
        pytest.param((PodPeer(API), BlockPeer(parse_block("0.0.0.0/0"))), V4, [None], id="all addresses are anybody"),
        pytest.param((PodPeer(API), BlockPeer(parse_block("0.0.0.0/0"))), V6, [pod_set(V6, API)], id="of one family"),
        pytest.param((UnknownPeer("x"),), V4, [], id="what is not enforced"),
    ],
)
def test_peers_become_sets(peers: tuple[Peer, ...] | None, family: Family, expected: list[SetRef | None]) -> None:
    assert clauses(peers, family=family) == [Clause(each) for each in expected]


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        pytest.param((PortMatch(6, (80, 80)),), [Clause(None, 6, (80, 80))], id="one"),
        pytest.param((PortMatch(6, (80, 85)), PortMatch(6, (86, 90))), [Clause(None, 6, (80, 90))], id="neighbours"),
        pytest.param(
            (PortMatch(6, (80, 80)), PortMatch(6, (443, 443)), PortMatch(17, (53, 53))),
            [Clause(None, 6, port_set(((80, 80), (443, 443)))), Clause(None, 17, (53, 53))],
            id="several of one protocol are a set",
        ),
        pytest.param((PortMatch(6, (80, 80)), PortMatch(6)), [Clause(None, 6)], id="every port swallows one"),
        pytest.param((), [], id="none"),
    ],
)
def test_port_numbers_become_intervals(ports: tuple[PortMatch, ...], expected: list[Clause]) -> None:
    assert clauses(None, ports) == expected


def test_a_named_port_inwards_is_one_of_this_nodes_pods() -> None:
    named = named_port_set(V4, NamedPorts(None, "http", 6))
    got = clauses((PodPeer(API),), (PortMatch(6, name="http"),), Direction.INGRESS)
    assert got == [Clause(pod_set(V4, API), named=named)]


def test_a_named_port_outwards_is_one_of_its_peers() -> None:
    match = PortMatch(6, name="http")
    of_api = named_port_set(V4, NamedPorts(API, "http", 6))
    of_all = named_port_set(V4, NamedPorts(EVERY_POD, "http", 6))
    assert clauses((PodPeer(API),), (match,)) == [Clause(named=of_api)]
    assert clauses(None, (match,)) == [Clause(named=of_all)]
    assert clauses((BLOCK,), (match,)) == [Clause(cidr_set(V4, HALF), named=of_all)]


def test_towards_the_own_node_pods_and_named_ports_match_nothing() -> None:
    peers = (PodPeer(API), NodePeer(RACK))
    ports = (PortMatch(6, (80, 80)), PortMatch(None, name="http"))
    assert clauses(peers, ports, Direction.OWN_NODE) == [Clause(node_set(V4, RACK), 6, (80, 80))]


@pytest.mark.parametrize(
    ("peers", "expected"),
    [(None, True), ((), False), ((PodPeer(API),), False), ((PodPeer(API), BLOCK), True), ((NodePeer(RACK),), True)],
)
def test_policies_that_speak_about_nodes(peers: tuple[Peer, ...] | None, *, expected: bool) -> None:
    assert speaks_about_nodes(policy(PolicyRule(Action.DENY, peers))) is expected


def test_rules_keep_their_numbers() -> None:
    one = policy(PolicyRule(Action.ACCEPT))
    several = Policy(one.ref, one.tier, 0, one.subject, (*(one.ingress or ()), PolicyRule(Action.ACCEPT, ())), None)
    assert [(rule.number, len(rule.clauses)) for rule in compile_rules(several, Direction.INGRESS, V4)] == [
        (1, 1),
        (2, 0),
    ]
    assert compile_rules(several, Direction.EGRESS, V4) == ()
