"""A policy's rules as clauses over sets, for one direction and one address family.

A rule is its peers times its ports; each pair is a clause, and each clause becomes one line of nft. The CIDR blocks
of a rule become one set of disjoint intervals, its port numbers one interval or one set a protocol. What cannot
match in the family (or, towards the own node, a pod) leaves no clause.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from inet.intervals import Interval, Intervals, normalise, subtract
from inet.prefix import Family
from policy.cidr import is_whole
from policy.ir import (
    Clause,
    Direction,
    NamedPorts,
    Rule,
    SetKind,
    SetRef,
    cidr_set,
    named_port_set,
    node_set,
    pod_set,
    port_set,
)
from policy.policies import BlockPeer, NodePeer, PodPeer, Policy, PolicyRule, PortMatch, Selection
from policy.selector import EVERYTHING

EVERY_POD: Final = Selection(None, EVERYTHING, EVERYTHING)


def compile_rules(policy: Policy, direction: Direction, family: Family) -> tuple[Rule, ...]:
    """Return what a policy says about a direction, in its order. Empty where it says nothing."""
    rules = policy.ingress if direction is Direction.INGRESS else policy.egress
    return tuple(
        Rule(policy.ref, number, rule, tuple(_clauses(rule, direction, family)))
        for number, rule in enumerate(rules or (), start=1)
    )


def speaks_about_nodes(policy: Policy) -> bool:
    """Whether a rule of the policy could match a packet to a node."""
    return any(
        rule.peers is None or any(isinstance(peer, NodePeer | BlockPeer) for peer in rule.peers)
        for rule in policy.egress or ()
    )


def _clauses(rule: PolicyRule, direction: Direction, family: Family) -> Iterator[Clause]:
    peers = _peers(rule, direction, family)
    if rule.ports is None:
        yield from (Clause(peer) for peer in peers)
        return
    names, numbers = _sort_ports(rule.ports)
    for peer in peers:
        for protocol, intervals in numbers.items():
            yield Clause(peer, protocol, _port_interval(intervals))
        for match in names if direction is not Direction.OWN_NODE else ():
            yield _named_clause(peer, match, direction, family)


def _peers(rule: PolicyRule, direction: Direction, family: Family) -> tuple[SetRef | None, ...]:
    """Return the sets that the other side may be in, `(None,)` for any address, nothing for none."""
    if rule.peers is None:
        return (None,)
    refs: dict[SetRef, None] = {}
    left: list[Interval] = []
    for peer in rule.peers:
        if isinstance(peer, PodPeer) and direction is not Direction.OWN_NODE:
            refs[pod_set(family, peer.selection)] = None
        elif isinstance(peer, NodePeer):
            refs[node_set(family, peer.selector)] = None
        elif isinstance(peer, BlockPeer) and peer.block.family is family:
            left += subtract(peer.block.interval, (each.interval for each in peer.exceptions))
    intervals = normalise(left)
    if is_whole(intervals, family):
        return (None,)
    if intervals:
        refs[cidr_set(family, intervals)] = None
    return tuple(refs)


def _sort_ports(ports: tuple[PortMatch, ...]) -> tuple[tuple[PortMatch, ...], dict[int, Intervals]]:
    """Return the named ports, and by protocol the numbers: `()` for all of them."""
    names: dict[PortMatch, None] = {}
    numbers: dict[int, list[Interval]] = {}
    whole = set()
    for match in ports:
        if match.name is not None:
            names[match] = None
        elif match.protocol is not None:
            numbers.setdefault(match.protocol, [])
            if match.numbers is None:
                whole.add(match.protocol)
            else:
                numbers[match.protocol].append(match.numbers)
    by_protocol = {
        protocol: () if protocol in whole else normalise(intervals) for protocol, intervals in sorted(numbers.items())
    }
    return tuple(names), by_protocol


def _port_interval(intervals: Intervals) -> Interval | SetRef | None:
    if len(intervals) > 1:
        return port_set(intervals)
    return intervals[0] if intervals else None


def _named_clause(peer: SetRef | None, match: PortMatch, direction: Direction, family: Family) -> Clause:
    """Return the clause of a named port, which the destination pod gives its number.

    Inwards that is one of this node's pods. Outwards it is a pod among the peers, so its ports make the peer's set
    superfluous; where the peers are addresses, it is whichever pod has them.
    """
    name = str(match.name)
    if direction is Direction.INGRESS:
        return Clause(peer, named=named_port_set(family, NamedPorts(None, name, match.protocol)))
    if peer is not None and peer.kind is SetKind.PODS and isinstance(peer.definition, Selection):
        return Clause(named=named_port_set(family, NamedPorts(peer.definition, name, match.protocol)))
    return Clause(peer, named=named_port_set(family, NamedPorts(EVERY_POD, name, match.protocol)))
