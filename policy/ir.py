"""What a node enforces, as values: sets, chains of rules, and which chain judges which pod.

This is the one form between the objects people write and the text the kernel takes. The compiler makes it, the
evaluator reads verdicts and reasons from it, the nft renderer writes it out one to one. Everything is of one address
family, because a packet is. Names are hashes of content: what is the same has the same name on every node and after
every restart, and what differs in a single character has another.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, NamedTuple, TypeAlias, cast

from inet.intervals import Interval, Intervals
from inet.prefix import Family
from policy.cidr import Block, address_text, pack
from policy.memberset import Element
from policy.policies import Action, PolicyRef, PolicyRule, Selection, Tier
from policy.selector import Selector

_HASH_BYTES: Final = 10
_SHOWN_INTERVALS: Final = 4


def content_hash(text: str) -> str:
    """Return 20 hex digits that stand for a text."""
    return blake2b(text.encode(), digest_size=_HASH_BYTES).hexdigest()


class Direction(enum.StrEnum):
    """Which of a pod's packets a chain judges.

    Packets to the pod's own node never meet the forward hook; only ClusterNetworkPolicies speak about them, because
    NetworkPolicy always allows them.
    """

    EGRESS = "egress"
    INGRESS = "ingress"
    OWN_NODE = "node"


class Outcome(enum.StrEnum):
    """Where judging ends."""

    ALLOW = "allow"
    DENY = "deny"


class SetKind(enum.StrEnum):
    """What a set holds; the beginning of its name."""

    PODS = "pods"  # addresses, by selection
    NODES = "nodes"  # addresses, by node selector
    CIDRS = "cidrs"  # intervals of addresses
    NAMED = "named"  # address, protocol, port
    PORTS = "ports"  # intervals of ports


class NamedPorts(NamedTuple):
    """The ports of one name of a selection's pods, or with no selection, of this node's pods."""

    selection: Selection | None
    name: str
    protocol: int | None  # None: every protocol


Definition: TypeAlias = Selection | Selector | NamedPorts | Intervals


@dataclass(frozen=True, slots=True, eq=False)
class SetRef:
    """A set, named after what defines it: equal names, equal sets."""

    name: str
    kind: SetKind
    family: Family | None  # None for ports
    definition: Definition = field(repr=False)
    text: str  # for people

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SetRef) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def intervals(self) -> Intervals:
        """What a set of intervals holds, in order."""
        return cast("Intervals", self.definition)


def pod_set(family: Family, selection: Selection) -> SetRef:
    """Return the set of a selection's addresses."""
    return _set(SetKind.PODS, family, selection, str(selection))


def node_set(family: Family, selector: Selector) -> SetRef:
    """Return the set of the addresses of the nodes that a selector matches."""
    return _set(SetKind.NODES, family, selector, f"nodes {selector}")


def cidr_set(family: Family, intervals: Intervals) -> SetRef:
    """Return the set of some intervals of addresses."""
    shown = [
        f"{address_text(pack(family, first))}-{address_text(pack(family, last))}"
        for first, last in intervals[:_SHOWN_INTERVALS]
    ]
    return _set(SetKind.CIDRS, family, intervals, ", ".join(shown + ["..."][: len(intervals) - len(shown)]))


def named_port_set(family: Family, ports: NamedPorts) -> SetRef:
    """Return the set of the ports of one name, each with the address and protocol it belongs to."""
    place = "this node" if ports.selection is None else str(ports.selection)
    protocol = "" if ports.protocol is None else f"/{ports.protocol}"
    return _set(SetKind.NAMED, family, ports, f"port {ports.name}{protocol} of {place}")


def port_set(intervals: Intervals) -> SetRef:
    """Return the set of some intervals of ports."""
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in intervals[:_SHOWN_INTERVALS]]
    return _set(SetKind.PORTS, None, intervals, ", ".join(shown + ["..."][: len(intervals) - len(shown)]))


def _set(kind: SetKind, family: Family | None, definition: Definition, text: str) -> SetRef:
    digit = "" if family is None else "4" if family is Family.IPV4 else "6"
    # The definition's repr quotes what is free text, so that no two definitions can share one.
    return SetRef(f"{kind}{digit}_{content_hash(repr(definition))}", kind, family, definition, text)


class Clause(NamedTuple):
    """One way for a rule to match: everything in it holds at once; what is None is not looked at."""

    peer: SetRef | None = None  # the other side's address is in it
    protocol: int | None = None
    ports: Interval | SetRef | None = None  # the destination port is in it; only with a protocol
    named: SetRef | None = None  # destination, protocol and port are in it

    @property
    def sets(self) -> tuple[SetRef, ...]:
        """The sets that this looks into."""
        return tuple(each for each in self if isinstance(each, SetRef))

    def __str__(self) -> str:
        ports = self.ports.name if isinstance(self.ports, SetRef) else self.ports
        return f"{self.peer and self.peer.name} {self.protocol} {ports} {self.named and self.named.name}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy's rule in one direction and family. It matches if one of the clauses does."""

    policy: PolicyRef
    number: int  # 1 is the first of its direction
    rule: PolicyRule
    clauses: tuple[Clause, ...]
    text: str = field(
        init=False, repr=False
    )  # all that matters to the packet and to people: what a chain's name hashes

    def __post_init__(self) -> None:
        text = f"{self.policy} {self.number} {self.action} [{'|'.join(map(str, self.clauses))}]"
        object.__setattr__(self, "text", text)

    @property
    def action(self) -> Action:
        """What it does when it matches."""
        return self.rule.action

    def __str__(self) -> str:
        return f"{self.policy} rule {self.number}"


Target: TypeAlias = str
"""The name of a chain, or an Outcome."""


@dataclass(frozen=True, slots=True)
class Chain:
    """What one tier says about a pod's packets in one direction.

    The first matching rule decides: Accept and Deny at once, Pass by going on at `otherwise`, which is also where a
    packet goes that no rule matches.
    """

    name: str
    family: Family
    direction: Direction
    tier: Tier
    policies: tuple[PolicyRef, ...]  # that select the pod and speak about the direction
    rules: tuple[Rule, ...]
    otherwise: Target
    sets: tuple[SetRef, ...]  # that its rules look into, without repetition


def make_chain(
    family: Family,
    direction: Direction,
    tier: Tier,
    rules_by_policy: Mapping[PolicyRef, tuple[Rule, ...]],
    otherwise: Target,
) -> Chain:
    """Return the chain of some policies' rules, in the order given, under the name of its content."""
    rules = tuple(rule for each in rules_by_policy.values() for rule in each)
    texts = [otherwise, *map(str, rules_by_policy), *(rule.text for rule in rules)]
    digit = "4" if family is Family.IPV4 else "6"
    place = tier.label.lower().replace("networkpolicy", "policy")
    name = f"{direction}{digit}_{place}_{content_hash(chr(10).join(texts))}"
    sets = dict.fromkeys(each for rule in rules for clause in rule.clauses for each in clause.sets)
    return Chain(name, family, direction, tier, tuple(rules_by_policy), rules, otherwise, tuple(sets))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of one of this node's pods, and where its packets are judged."""

    address: bytes  # packed
    pod: str  # namespace/name
    egress: Target
    ingress: Target
    own_node: Target

    @property
    def targets(self) -> tuple[Target, Target, Target]:
        """The three places where judging begins."""
        return self.egress, self.ingress, self.own_node


Members: TypeAlias = Collection[Element | Interval]
"""What a set holds, in no order: elements, or the intervals that are its definition."""


class NodeFacts(NamedTuple):
    """What the node object says about this node: sorted, without repetition."""

    addresses: tuple[bytes, ...] = ()
    pod_cidrs: tuple[Block, ...] = ()


@dataclass(slots=True)
class Ruleset:
    """All that one node enforces. Whoever holds it may only read it."""

    facts: NodeFacts = field(default_factory=NodeFacts)
    endpoints: dict[bytes, Endpoint] = field(default_factory=dict)
    chains: dict[str, Chain] = field(default_factory=dict)
    sets: dict[str, SetRef] = field(default_factory=dict)
    members: dict[str, Members] = field(default_factory=dict)  # by set name


class MemberChange(NamedTuple):
    """What a set gains and loses."""

    added: frozenset[Element]
    removed: frozenset[Element]


@dataclass(frozen=True, slots=True)
class Delta:
    """What turns one ruleset into the next. Additions are complete: a new set comes with its members."""

    facts: tuple[NodeFacts, NodeFacts] | None = None  # before, after
    sets_added: tuple[SetRef, ...] = ()
    members_added: Mapping[str, Members] = field(default_factory=dict)  # of the new sets
    members_changed: Mapping[str, MemberChange] = field(default_factory=dict)  # of the others
    sets_removed: tuple[SetRef, ...] = ()
    chains_added: tuple[Chain, ...] = ()  # a chain comes after those it goes on to
    chains_removed: tuple[Chain, ...] = ()  # a chain comes before those it goes on to
    endpoints: Mapping[bytes, tuple[Endpoint | None, Endpoint | None]] = field(default_factory=dict)  # before, after

    def __bool__(self) -> bool:
        return bool(
            self.facts
            or self.sets_added
            or self.members_changed
            or self.sets_removed
            or self.chains_added
            or self.chains_removed
            or self.endpoints
        )
