"""Which node owns which pod CIDR, and what to do where two claim the same.

The older Node wins, then the name; the loser's claim is void everywhere, on its own node too, and is reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from bgp.config import Node
from inet.prefix import IPAddress, Prefix
from inet.prefix_map import PrefixMap

T = TypeVar("T")

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


class Settlement:
    """`settle` for a cluster whose nodes change: what has to be settled anew is what somebody else claims, too."""

    def __init__(self) -> None:
        self._nodes: Mapping[str, Node] = {}
        self._claims = _Claims()
        self._ownership = settle(())

    def follow(self, nodes: Mapping[str, Node]) -> Ownership:
        """Return what `settle` says of these nodes, and the same object as before where that is the same.

        A node that did not change is the same object as before; the mapping is another one whenever it holds others.
        """
        before, self._nodes = self._nodes, nodes
        changed = [name for name, node in nodes.items() if before.get(name) is not node]
        pairs = [(before.get(name), nodes.get(name)) for name in (*changed, *(before.keys() - nodes.keys()))]
        changes = [(old, new) for old, new in pairs if _claims_of(old) != _claims_of(new)]
        if not changes:
            return self._ownership
        is_alone = True
        for old, _ in changes:
            is_alone &= old is None or self._claims.are_alone(old)
            if old is not None:
                self._claims.remove(old)
        for _, new in changes:
            if new is not None:
                self._claims.add(new)
        is_alone = is_alone and all(new is None or self._claims.are_alone(new) for _, new in changes)
        self._ownership = self._exchanged(changes) if is_alone else settle(nodes.values())
        return self._ownership

    def _exchanged(self, changes: Iterable[tuple[Node | None, Node | None]]) -> Ownership:
        """Return the ownership after changes of nodes that claim nothing that another one does, and get all of it."""
        pod_cidrs = self._ownership.pod_cidrs
        by_node, addresses = dict(self._ownership.by_node), dict(self._ownership.addresses)
        gone: list[Prefix] = []
        new_ones: dict[Prefix, str] = {}
        for old, _ in changes:
            if old is not None:
                gone += by_node.pop(old.name, ())
                for address in old.addresses:
                    addresses.pop(address, None)
        for _, new in changes:
            if new is not None:
                if new.pod_cidrs:
                    by_node[new.name] = tuple(sorted(new.pod_cidrs, key=lambda prefix: prefix.length))
                new_ones |= dict.fromkeys(new.pod_cidrs, new.name)
                addresses |= dict.fromkeys(new.addresses, new.name)
        is_same = len(gone) == len(new_ones) and all(pod_cidrs[prefix] == new_ones.get(prefix) for prefix in gone)
        return replace(
            self._ownership,
            pod_cidrs=pod_cidrs if is_same else pod_cidrs.replaced(gone, new_ones),
            by_node=by_node,
            addresses=addresses,
        )


def _claims_of(node: Node | None) -> object:
    return node and (node.pod_cidrs, node.addresses, node.created)


class _Claims:
    """How often everything is claimed, granted or not."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._lengths: dict[int, set[int]] = {}  # that were ever in use, by the size of an address
        self._prefixes: Counter[Prefix] = Counter()
        self._around: Counter[Prefix] = Counter()  # how many are, or lie in, a prefix of a length in use
        self._addresses: Counter[IPAddress] = Counter()

    def add(self, node: Node) -> None:
        self._nodes[node.name] = node
        new = {prefix.length for prefix in node.pod_cidrs if prefix.length not in self._in_use(prefix)}
        for prefix in node.pod_cidrs:
            self._in_use(prefix).add(prefix.length)
        if new:
            self._around.clear()
            for each in self._nodes.values():
                self._count_around(each, 1)
        else:
            self._count_around(node, 1)
        self._prefixes.update(node.pod_cidrs)
        self._addresses.update(node.addresses)

    def remove(self, node: Node) -> None:
        del self._nodes[node.name]
        self._count_around(node, -1)
        for prefix in node.pod_cidrs:
            _count(self._prefixes, prefix, -1)
        for address in node.addresses:
            _count(self._addresses, address, -1)

    def are_alone(self, node: Node) -> bool:
        """Whether a node that was added gets all it claims, and nobody else would get any of it."""
        return all(map(self._is_alone, node.pod_cidrs)) and all(
            self._addresses[address] == 1 for address in node.addresses
        )

    def _is_alone(self, prefix: Prefix) -> bool:
        outer = (prefix.shortened(length) for length in self._in_use(prefix) if length < prefix.length)
        return not prefix.is_default and self._around[prefix] == 1 and not any(self._prefixes[each] for each in outer)

    def _count_around(self, node: Node, by: int) -> None:
        for prefix in node.pod_cidrs:
            for length in self._in_use(prefix):
                if length <= prefix.length:
                    _count(self._around, prefix.shortened(length), by)

    def _in_use(self, prefix: Prefix) -> set[int]:
        return self._lengths.setdefault(len(prefix.packed), set())


def _count(counter: Counter[T], key: T, by: int) -> None:
    counter[key] += by
    if not counter[key]:
        del counter[key]


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
