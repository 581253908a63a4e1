"""Which node owns which pod CIDR, and what to do where two claim the same.

The older Node wins, then the name; the loser's claim is void everywhere, on its own node too, and is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from bgp.config import Node
from inet.prefix import IPAddress, Prefix
from inet.prefix_map import PrefixMap

_SENIOR: Final = "older or first by name"


@dataclass(frozen=True, slots=True)
class Conflict:
    """A pod CIDR or address that a node does not get, and why."""

    node: str
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Ownership:
    """Pod CIDRs and addresses by owner, without the refused ones. No two of the pod CIDRs overlap."""

    pod_cidrs: PrefixMap[str]
    by_node: Mapping[str, tuple[Prefix, ...]]
    addresses: Mapping[IPAddress, str]
    conflicts: tuple[Conflict, ...]

    def pod_cidrs_of(self, node: str) -> tuple[Prefix, ...]:
        """Return what a node may announce."""
        return self.by_node.get(node, ())


def settle(nodes: Iterable[Node]) -> Ownership:
    """Decide who owns what. Nodes come in any order; the outcome is the same."""
    pod_cidrs: dict[Prefix, str] = {}
    by_node: dict[str, tuple[Prefix, ...]] = {}
    addresses: dict[IPAddress, str] = {}
    conflicts: list[Conflict] = []
    by_age = sorted(nodes, key=lambda node: (node.created, node.name))
    claimed = _Claimed(prefix for node in by_age for prefix in node.pod_cidrs)
    for node in by_age:
        # The widest first: a CIDR inside another of the same node adds nothing to it.
        for prefix in sorted(node.pod_cidrs, key=lambda prefix: prefix.length):
            if prefix.is_default:
                conflicts.append(Conflict(node.name, "spec.podCIDRs", f"{prefix} is everything, not a pod CIDR"))
                continue
            rival = claimed.rival(prefix)
            if rival is None:
                claimed.add(prefix)
                pod_cidrs[prefix] = node.name
                by_node[node.name] = (*by_node.get(node.name, ()), prefix)
            elif pod_cidrs[rival] != node.name:
                reason = f"{prefix} overlaps {rival} of Node {pod_cidrs[rival]}, which is {_SENIOR}"
                conflicts.append(Conflict(node.name, "spec.podCIDRs", reason))
        for address in node.addresses:
            owner = addresses.setdefault(address, node.name)
            if owner != node.name:
                reason = f"{address} is an address of Node {owner}, too, which is {_SENIOR}"
                conflicts.append(Conflict(node.name, "status.addresses", reason))
    return Ownership(PrefixMap(pod_cidrs), by_node, addresses, tuple(conflicts))


class _Claimed:
    """Disjoint prefixes; finds the one that overlaps another in as many look-ups as there are lengths in use."""

    def __init__(self, expected: Iterable[Prefix]) -> None:
        self._lengths: dict[int, set[int]] = {}
        for prefix in expected:
            self._lengths.setdefault(len(prefix.packed), set()).add(prefix.length)
        self._prefixes: set[Prefix] = set()
        self._inside: dict[Prefix, Prefix] = {}  # a prefix that could be claimed -> one claimed in it

    def rival(self, prefix: Prefix) -> Prefix | None:
        around = next((each for each in self._around(prefix) if each in self._prefixes), None)
        return around or self._inside.get(prefix)

    def add(self, prefix: Prefix) -> None:
        self._prefixes.add(prefix)
        for each in self._around(prefix):
            self._inside.setdefault(each, prefix)

    def _around(self, prefix: Prefix) -> Iterable[Prefix]:
        """Yield the prefix and every shorter one around it, of the lengths in use."""
        for length in self._lengths[len(prefix.packed)]:
            if length <= prefix.length:
                yield prefix.shortened(length)
