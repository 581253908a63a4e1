"""Which node owns which pod CIDR, and what to do where two claim the same.

The older Node wins, then the name; the loser's claim is void everywhere, on its own node too, and is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bgp.config import Node
from inet.prefix import IPAddress, Prefix


@dataclass(frozen=True, slots=True)
class Conflict:
    """A claim that was refused. `what` is a pod CIDR or an address of `loser`."""

    loser: str
    field: str
    what: str
    winner: str
    theirs: str

    def __str__(self) -> str:
        return f"{self.what} overlaps {self.theirs} of Node {self.winner}, which is older or first by name"


@dataclass(frozen=True, slots=True)
class Ownership:
    """Pod CIDRs and addresses by owner, without the refused ones."""

    pod_cidrs: Mapping[Prefix, str]
    addresses: Mapping[IPAddress, str]
    conflicts: tuple[Conflict, ...]

    def pod_cidrs_of(self, node: str) -> tuple[Prefix, ...]:
        """Return what a node may announce."""
        return tuple(prefix for prefix, owner in self.pod_cidrs.items() if owner == node)

    def pod_cidrs_of_others(self, node: str) -> dict[Prefix, str]:
        """Return what every other node may announce."""
        return {prefix: owner for prefix, owner in self.pod_cidrs.items() if owner != node}


def settle(nodes: Iterable[Node]) -> Ownership:
    """Decide who owns what. Nodes come in any order; the outcome is the same."""
    pod_cidrs: dict[Prefix, str] = {}
    addresses: dict[IPAddress, str] = {}
    conflicts: list[Conflict] = []
    by_age = sorted(nodes, key=lambda node: (node.created, node.name))
    claimed = _Claimed(prefix for node in by_age for prefix in node.pod_cidrs)
    for node in by_age:
        for prefix in node.pod_cidrs:
            rival = claimed.rival(prefix)
            if rival is None:
                pod_cidrs[prefix] = node.name
                claimed.add(prefix)
            elif pod_cidrs[rival] != node.name:
                conflicts.append(Conflict(node.name, "spec.podCIDRs", str(prefix), pod_cidrs[rival], str(rival)))
        for address in node.addresses:
            owner = addresses.setdefault(address, node.name)
            if owner != node.name:
                conflicts.append(Conflict(node.name, "status.addresses", str(address), owner, str(address)))
    return Ownership(pod_cidrs, addresses, tuple(conflicts))


class _Claimed:
    """Disjoint prefixes; finds the one that overlaps another in as many look-ups as there are lengths in use."""

    def __init__(self, expected: Iterable[Prefix]) -> None:
        self._lengths: dict[int, set[int]] = {}
        for prefix in expected:
            self._lengths.setdefault(len(prefix.packed), set()).add(prefix.length)
        self._prefixes: set[Prefix] = set()
        self._inside: dict[Prefix, Prefix] = {}  # a shorter prefix -> one claimed inside it

    def rival(self, prefix: Prefix) -> Prefix | None:
        for shorter in self._ancestors(prefix):
            if shorter in self._prefixes:
                return shorter
        return self._inside.get(prefix)

    def add(self, prefix: Prefix) -> None:
        self._prefixes.add(prefix)
        for shorter in self._ancestors(prefix):
            self._inside.setdefault(shorter, prefix)

    def _ancestors(self, prefix: Prefix) -> Iterable[Prefix]:
        """Yield the prefix and every shorter one around it, of the lengths in use."""
        size = len(prefix.packed)
        value = int.from_bytes(prefix.packed)
        for length in self._lengths[size]:
            if length <= prefix.length:
                shift = size * 8 - length
                yield Prefix((value >> shift << shift).to_bytes(size), length)
