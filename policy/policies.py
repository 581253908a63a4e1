"""Policies as values: one shape for NetworkPolicy and ClusterNetworkPolicy.

A policy has a subject (which pods it is about) and, for each direction it speaks about, an ordered list of rules.
A NetworkPolicy is a policy of the middle tier whose rules all accept; that it isolates is the tier's doing, not the
rule's. `networkpolicy` and `clusterpolicy` read the API's objects into these.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from inet.intervals import Interval
from policy.cidr import Block
from policy.selector import Selector


class Tier(enum.IntEnum):
    """Who decides, in this order; what no tier decides is allowed."""

    ADMIN = 0
    NETWORK_POLICY = 1
    BASELINE = 2

    @property
    def label(self) -> str:
        """The name people read."""
        return ("Admin", "NetworkPolicy", "Baseline")[self]


class Action(enum.StrEnum):
    """What a matching rule does."""

    ACCEPT = "Accept"
    DENY = "Deny"
    PASS = "Pass"  # noqa: S105 - an action, no password


class Selection(NamedTuple):
    """Which pods: those of one namespace by name, or of the namespaces a selector matches; then by their labels.

    Exactly one of `namespace` and `namespaces` is set. Host-network and completed pods are never selected.
    """

    namespace: str | None
    namespaces: Selector | None
    pods: Selector

    def __str__(self) -> str:
        place = f"ns {self.namespace if self.namespaces is None else self.namespaces}"
        return place if self.pods.matches_everything else f"{place}, {self.pods}"


class PodPeer(NamedTuple):
    """Pods as the other side. `is_own_namespace` says the policy's namespace was not written out."""

    selection: Selection
    is_own_namespace: bool = False

    def __str__(self) -> str:
        if self.is_own_namespace:
            selector = self.selection.pods
            return "every pod of the namespace" if selector.matches_everything else str(selector)
        return str(self.selection)


class NodePeer(NamedTuple):
    """Nodes as the other side, by their labels: every address in their status."""

    selector: Selector

    def __str__(self) -> str:
        return f"nodes {self.selector}"


class BlockPeer(NamedTuple):
    """A CIDR block without its exceptions, whoever lives there: pods too."""

    block: Block
    exceptions: tuple[Block, ...] = ()

    def __str__(self) -> str:
        text = str(self.block)
        return f"{text} except {', '.join(map(str, self.exceptions))}" if self.exceptions else text


class UnknownPeer(NamedTuple):
    """Something that is not enforced here. It makes an Accept rule match nothing, any other rule deny everything."""

    text: str

    def __str__(self) -> str:
        return f"{self.text} (not enforced)"


Peer: TypeAlias = PodPeer | NodePeer | BlockPeer | UnknownPeer


class PortMatch(NamedTuple):
    """Destination ports of a protocol: numbers, or a name that each destination pod resolves, or neither (all)."""

    protocol: int | None  # IANA number; None only with a name: the port's own protocol
    numbers: Interval | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One rule. `peers` and `ports` are None for any; an empty tuple matches nothing."""

    action: Action
    peers: tuple[Peer, ...] | None = None
    ports: tuple[PortMatch, ...] | None = None
    name: str = ""


class PolicyRef(NamedTuple):
    """The name of a policy, for people and for keys. `namespace` is empty for a ClusterNetworkPolicy."""

    kind: str
    namespace: str
    name: str

    @property
    def key(self) -> str:
        """Namespace and name."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"


NETWORK_POLICY = "NetworkPolicy"
CLUSTER_NETWORK_POLICY = "ClusterNetworkPolicy"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a valid policy asks for that is not done, and what is done instead."""

    field: str
    text: str

    def __str__(self) -> str:
        return f"{self.field}: {self.text}"


@dataclass(frozen=True, slots=True)
class Policy:
    """A valid policy. A direction is None where it says nothing about it; `()` of a NetworkPolicy still isolates."""

    ref: PolicyRef
    tier: Tier
    priority: int  # lower goes first within its tier; always 0 in the NetworkPolicy tier
    subject: Selection
    ingress: tuple[PolicyRule, ...] | None
    egress: tuple[PolicyRule, ...] | None
    notices: tuple[Notice, ...] = ()

    @property
    def precedence(self) -> tuple[int, int, str]:
        """Sort key: tier, priority, and the name where the API leaves the order open."""
        return self.tier, self.priority, self.ref.key
