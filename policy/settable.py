"""The sets that chains ask for: made when first asked for, filled, kept in step, and dropped when nobody asks.

Asking and letting go are only counted; `drain` makes the counts true and returns the difference, so a set that is let
go and asked for again in between is not touched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple, cast

from policy.ir import MemberChange, Members, NamedPorts, SetKind, SetRef
from policy.labelindex import LabelIndex
from policy.memberset import Element, MemberSet
from policy.objects import Node, Pod
from policy.policies import Selection
from policy.selector import Selector


class SetChanges(NamedTuple):
    """What happened to the sets between two drains."""

    added: tuple[SetRef, ...]
    changed: dict[str, MemberChange]
    removed: tuple[SetRef, ...]


class SetTable:
    """Every set in use on this node, by name."""

    def __init__(self, index: LabelIndex) -> None:
        self._index: Final = index
        self._users: dict[SetRef, int] = {}
        self._touched: dict[SetRef, None] = {}
        self._live: dict[SetRef, MemberSet] = {}  # the sets whose members come and go
        self._names: dict[MemberSet, str] = {}
        self._dirty: set[MemberSet] = set()
        self.nodes: dict[str, Node] = {}
        self._of_nodes: dict[SetRef, MemberSet] = {}
        self._local_pods: dict[str, Pod] = {}
        self._of_local_pods: dict[SetRef, MemberSet] = {}
        self.members: dict[str, Members] = {}  # of the sets in use; never stale
        self.refs: dict[str, SetRef] = {}

    def acquire(self, refs: Iterable[SetRef]) -> None:
        """Ask for sets."""
        for ref in refs:
            self._users[ref] = self._users.get(ref, 0) + 1
            self._touched[ref] = None

    def release(self, refs: Iterable[SetRef]) -> None:
        """Let go of sets asked for."""
        for ref in refs:
            self._users[ref] -= 1
            self._touched[ref] = None

    def put_node(self, node: Node) -> None:
        """Take over a node as it is now."""
        self._replace_node(self.nodes.get(node.name), node)
        self.nodes[node.name] = node

    def remove_node(self, name: str) -> None:
        """Forget a node, known or not."""
        self._replace_node(self.nodes.pop(name, None), None)

    def _replace_node(self, old: Node | None, new: Node | None) -> None:
        for ref, members in self._of_nodes.items():
            selector = cast("Selector", ref.definition)
            if new is not None and selector.matches(new.labels):
                members.add(new.addresses)
            if old is not None and selector.matches(old.labels):
                members.remove(old.addresses)

    def put_local_pod(self, pod: Pod) -> None:
        """Take over a pod of this node as it is now."""
        self._replace_local_pod(self._local_pods.get(pod.key), pod)
        self._local_pods[pod.key] = pod

    def remove_local_pod(self, key: str) -> None:
        """Forget a pod of this node, known or not."""
        self._replace_local_pod(self._local_pods.pop(key, None), None)

    def _replace_local_pod(self, old: Pod | None, new: Pod | None) -> None:
        for members in self._of_local_pods.values():
            if new is not None:
                members.add(new.addresses, new.ports)
            if old is not None:
                members.remove(old.addresses, old.ports)

    def drain(self) -> SetChanges:
        """Make and drop what was asked for and let go, and return all changes since the last time."""
        added = []
        removed = []
        for ref in self._touched:
            if not self._users[ref]:
                del self._users[ref]
                if ref.name in self.refs:
                    removed.append(ref)
                    self._drop(ref)
            elif ref.name not in self.refs:
                added.append(ref)
                self._make(ref)
        self._touched.clear()
        changed = {}
        for members in sorted(self._dirty, key=self._names.__getitem__):
            change = MemberChange(*members.drain())
            if change.added or change.removed:
                changed[self._names[members]] = change
        return SetChanges(tuple(added), changed, tuple(removed))

    def _make(self, ref: SetRef) -> None:
        self.refs[ref.name] = ref
        if ref.kind in {SetKind.CIDRS, SetKind.PORTS} or ref.family is None:
            self.members[ref.name] = ref.intervals
            return
        definition = ref.definition
        width = ref.family.bits // 8
        if isinstance(definition, NamedPorts):
            members = MemberSet(width, self._dirty, definition.name, definition.protocol)
        else:
            members = MemberSet(width, self._dirty)
        match definition:
            case Selection() | NamedPorts(selection=Selection()):
                self._index.watch(_selection(ref), members)
            case NamedPorts():
                self._of_local_pods[ref] = members
                for pod in self._local_pods.values():
                    members.fill((pod.addresses,), pod.ports)
            case Selector():
                self._of_nodes[ref] = members
                matching = (node.addresses for node in self.nodes.values() if definition.matches(node.labels))
                members.fill(matching, ())
        self._live[ref] = members
        self._names[members] = ref.name
        self.members[ref.name] = cast("Collection[Element]", members.counts.keys())

    def _drop(self, ref: SetRef) -> None:
        del self.refs[ref.name]
        del self.members[ref.name]
        members = self._live.pop(ref, None)
        if members is None:
            return
        if self._of_local_pods.pop(ref, None) is None and self._of_nodes.pop(ref, None) is None:
            self._index.unwatch(_selection(ref), members)
        self._dirty.discard(members)
        del self._names[members]


def _selection(ref: SetRef) -> Selection:
    """Return the pods that a set of them, or of their ports, is about."""
    selection = ref.definition.selection if isinstance(ref.definition, NamedPorts) else ref.definition
    return cast("Selection", selection)
