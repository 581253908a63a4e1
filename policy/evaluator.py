"""What a node's ruleset does with a new connection's first packet, and which rule of which policy decides.

Takes the IR and a packet, gives the verdict with every tier asked on the way. This is the kernel's walk through the
generated chains told over the values they were generated from; `nftwalk` does the same over the text, and tests hold
the two together. Packets of known connections are not judged again, here as there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from inet.intervals import holds
from policy.cidr import holds_address
from policy.ir import Chain, Clause, Direction, Endpoint, Outcome, Rule, Ruleset, SetKind, SetRef, Target
from policy.policies import Action


class Packet(NamedTuple):
    """The first packet of a connection, after service addresses are translated. Addresses are packed."""

    source: bytes
    destination: bytes
    protocol: int  # IANA number
    port: int | None  # destination port; None where the protocol has none


@dataclass(frozen=True, slots=True)
class TierDecision:
    """What one chain did. `rule` is None where none matched and the packet went on at the chain's end."""

    chain: Chain
    rule: Rule | None
    clause: Clause | None

    @property
    def action(self) -> Action:
        """What came of it; falling through is Deny in the NetworkPolicy tier and Pass in the others."""
        if self.rule is not None:
            return self.rule.action
        return Action.DENY if self.chain.otherwise is Outcome.DENY else Action.PASS


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the policies of one of this node's pods say about the packet, tier by tier."""

    direction: Direction
    endpoint: Endpoint
    outcome: Outcome
    decisions: tuple[TierDecision, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a packet on this node. `reason` says what no policy decided."""

    packet: Packet
    outcome: Outcome
    judgements: tuple[Judgement, ...]
    reason: str = ""


def evaluate(ruleset: Ruleset, packet: Packet) -> Verdict:
    """Judge a packet on one node: as its source's node, as its destination's, as both, or passing through."""
    source = ruleset.endpoints.get(packet.source)
    destination = ruleset.endpoints.get(packet.destination)
    to_own_node = packet.destination in ruleset.facts.addresses
    if packet.source in ruleset.facts.addresses:
        return Verdict(packet, Outcome.ALLOW, (), "a node always reaches its own pods")
    if source is not None and packet.source == packet.destination:
        return Verdict(packet, Outcome.ALLOW, (), "a pod always reaches itself")
    judgements = []
    if source is not None:
        direction = Direction.OWN_NODE if to_own_node else Direction.EGRESS
        target = source.own_node if to_own_node else source.egress
        judgements.append(_judge(ruleset, packet, source, direction, target))
    elif holds_address(ruleset.facts.pod_cidrs, packet.source) and not to_own_node:
        return Verdict(packet, Outcome.DENY, (), "the source is of this node's pod addresses, but no pod's here")
    if destination is not None and not any(each.outcome is Outcome.DENY for each in judgements):
        judgements.append(_judge(ruleset, packet, destination, Direction.INGRESS, destination.ingress))
    if any(each.outcome is Outcome.DENY for each in judgements):
        return Verdict(packet, Outcome.DENY, tuple(judgements))
    if destination is None and holds_address(ruleset.facts.pod_cidrs, packet.destination) and not to_own_node:
        reason = "the destination is of this node's pod addresses, but no pod's here"
        return Verdict(packet, Outcome.DENY, tuple(judgements), reason)
    return Verdict(
        packet, Outcome.ALLOW, tuple(judgements), "" if judgements else "no pod of this node has a part in it"
    )


def _judge(ruleset: Ruleset, packet: Packet, endpoint: Endpoint, direction: Direction, target: Target) -> Judgement:
    decisions = []
    while not isinstance(target, Outcome):
        decision = _ask(ruleset, packet, ruleset.chains[target])
        decisions.append(decision)
        match decision.rule and decision.rule.action:
            case Action.ACCEPT:
                target = Outcome.ALLOW
            case Action.DENY:
                target = Outcome.DENY
            case _:
                target = decision.chain.otherwise
    return Judgement(direction, endpoint, target, tuple(decisions))


def _ask(ruleset: Ruleset, packet: Packet, chain: Chain) -> TierDecision:
    peer = packet.source if chain.direction is Direction.INGRESS else packet.destination
    for rule in chain.rules:
        for clause in rule.clauses:
            if clause_matches(ruleset, clause, packet, peer):
                return TierDecision(chain, rule, clause)
    return TierDecision(chain, None, None)


def clause_matches(ruleset: Ruleset, clause: Clause, packet: Packet, peer: bytes) -> bool:
    """Whether everything in a clause holds for a packet; `peer` is the address at the other side."""
    if clause.protocol is not None and clause.protocol != packet.protocol:
        return False
    if clause.ports is not None and not _has_port(clause.ports, packet.port):
        return False
    if clause.peer is not None and not is_member(ruleset, clause.peer, peer):
        return False
    return (
        clause.named is None or (packet.destination, packet.protocol, packet.port) in ruleset.members[clause.named.name]
    )


def is_member(ruleset: Ruleset, ref: SetRef, address: bytes) -> bool:
    """Whether a set of addresses has one."""
    if ref.kind is SetKind.CIDRS:
        return holds(ref.intervals, int.from_bytes(address))
    return address in ruleset.members[ref.name]


def _has_port(ports: SetRef | tuple[int, int], port: int | None) -> bool:
    if port is None:
        return False
    return holds(ports.intervals if isinstance(ports, SetRef) else (ports,), port)
