"""Who matches whom: pods on one side, selections of pods on the other, kept in step update by update.

Pods come and go, namespaces change labels, selections are watched and let go; each watched selection has a
`MemberSet` that always holds the addresses (or named ports) of exactly its pods and remembers what changed since it
was last drained. Nothing is inherited and nothing is refreshed in bulk.

Why an update is cheap:

- Pods with the same namespace, labels and named ports are one *group*; equal labels are one interned label set.
  Selectors are evaluated against label sets, never against pods; a pod that joins a group is a member of what the
  group is a member of.
- A selector is filed under the one requirement that rules out most (`SelectorIndex`): a new label set looks only at
  the selectors filed under a label it has, and at the few that require nothing in particular.
- The other way round, a new selector looks only at the label sets that have a label it requires (`Postings`); they
  are listed by key while a selector in use asks for that key, so labels nobody selects by cost nothing.

A namespace nobody has described yet has no labels to match, so its pods are members of nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Final, TypeVar

from policy.memberset import MemberSet
from policy.objects import NamedPort, Namespace, Pod
from policy.policies import Selection
from policy.selector import EVERYTHING, Selector
from policy.selectorindex import Postings, SelectorIndex

Key = TypeVar("Key")


class _Space:
    """A namespace: its labels (None: not described yet) and its groups."""

    __slots__ = ("groups", "labels_or_none", "name", "selectors")

    def __init__(self, name: str) -> None:
        self.name = name
        self.labels_or_none: dict[str, str] | None = None
        self.selectors: set[_SpaceSelector] = set()
        self.groups: dict[tuple[_LabelSet, tuple[NamedPort, ...]], _Group] = {}

    @property
    def labels(self) -> Mapping[str, str]:
        return self.labels_or_none or {}


class _LabelSet:
    """Labels that at least one pod has, and the pod selectors that match them (all but the empty one)."""

    __slots__ = ("groups", "key", "labels", "selectors")

    def __init__(self, key: str, labels: Mapping[str, str]) -> None:
        self.key = key
        self.labels = {sys.intern(name): value for name, value in labels.items()}
        self.selectors: tuple[_PodSelector, ...] = ()
        self.groups: list[_Group] = []


class _Group:
    """Pods alike in namespace, labels and named ports; and the sets they are members of."""

    __slots__ = ("label_set", "members", "ports", "sets", "space")

    def __init__(self, space: _Space, label_set: _LabelSet, ports: tuple[NamedPort, ...]) -> None:
        self.space = space
        self.label_set = label_set
        self.ports = ports
        self.members: dict[str, tuple[bytes, ...]] = {}  # addresses by pod key
        self.sets: tuple[MemberSet, ...] = ()


class _PodSelector:
    """A pod selector in use, the label sets it matches, and the sets that ask for it with each kind of namespace."""

    __slots__ = ("by_selector", "by_space", "label_sets", "selector")

    def __init__(self, selector: Selector) -> None:
        self.selector = selector
        self.label_sets: set[_LabelSet] = set()  # not kept for the empty selector
        self.by_space: dict[str, list[MemberSet]] = {}
        self.by_selector: dict[_SpaceSelector, list[MemberSet]] = {}


class _SpaceSelector:
    """A namespace selector in use, and the namespaces it matches."""

    __slots__ = ("selector", "spaces", "users")

    def __init__(self, selector: Selector) -> None:
        self.selector = selector
        self.spaces: set[_Space] = set()
        self.users = 0


class LabelIndex:
    """The pods of a cluster and the selections of them that somebody watches."""

    def __init__(self) -> None:
        self._pods: dict[str, _Group] = {}
        self._spaces: dict[str, _Space] = {}
        self._described: Final[Postings[_Space]] = Postings()
        self._label_sets: dict[str, _LabelSet] = {}
        self._holders: Final[Postings[_LabelSet]] = Postings()
        self._pod_selectors: dict[Selector, _PodSelector] = {}
        self._pod_selector_index: Final[SelectorIndex[_PodSelector]] = SelectorIndex()
        self._space_selectors: dict[Selector, _SpaceSelector] = {}
        self._space_selector_index: Final[SelectorIndex[_SpaceSelector]] = SelectorIndex()

    # Pods

    def put_pod(self, pod: Pod) -> None:
        """Take over a pod as it is now. Host-network, completed and address-less ones are members of nothing."""
        key = pod.key
        if pod.host_network or pod.completed or not pod.addresses:
            self.remove_pod(key)
            return
        old = self._pods.get(key)
        group = self._group(pod.namespace, pod.labels, pod.ports)
        if old is group:
            addresses = group.members[key]
            if addresses == pod.addresses:
                return
            for each in group.sets:
                each.remove(addresses, group.ports)
        self._pods[key] = group
        group.members[key] = pod.addresses
        for each in group.sets:
            each.add(pod.addresses, group.ports)
        if old is not None and old is not group:
            self._leave(key, old)

    def remove_pod(self, key: str) -> None:
        """Forget a pod, known or not."""
        group = self._pods.pop(key, None)
        if group is not None:
            self._leave(key, group)

    def _leave(self, key: str, group: _Group) -> None:
        addresses = group.members.pop(key)
        for each in group.sets:
            each.remove(addresses, group.ports)
        if group.members:
            return
        space, label_set = group.space, group.label_set
        del space.groups[label_set, group.ports]
        self._drop_space_if_unused(space)
        label_set.groups.remove(group)
        if not label_set.groups:
            del self._label_sets[label_set.key]
            self._holders.discard(label_set)
            for selector in label_set.selectors:
                selector.label_sets.discard(label_set)

    def _group(self, namespace: str, labels: Mapping[str, str], ports: tuple[NamedPort, ...]) -> _Group:
        space = self._spaces.get(namespace)
        if space is None:
            space = self._spaces[namespace] = _Space(namespace)
        label_key = _label_key(labels)
        label_set = self._label_sets.get(label_key)
        if label_set is None:
            label_set = self._label_sets[label_key] = _LabelSet(label_key, labels)
            self._holders.add(label_set)
            label_set.selectors = tuple(self._pod_selector_index.matching(label_set.labels))
            for selector in label_set.selectors:
                selector.label_sets.add(label_set)
        group = space.groups.get((label_set, ports))
        if group is None:
            group = space.groups[label_set, ports] = _Group(space, label_set, ports)
            label_set.groups.append(group)
            group.sets = self._sets_of(group)
        return group

    def find_pod(self, address: bytes) -> tuple[str, Mapping[str, str], tuple[NamedPort, ...]] | None:
        """Return key, labels and named ports of a pod with an address. Looks at all pods: for people's questions."""
        for key, group in self._pods.items():
            if address in group.members[key]:
                return key, group.label_set.labels, group.ports
        return None

    # Namespaces

    def put_namespace(self, namespace: Namespace) -> None:
        """Take over a namespace's labels as they are now."""
        space = self._spaces.get(namespace.name)
        if space is None:
            space = self._spaces[namespace.name] = _Space(namespace.name)
        if space.labels_or_none != namespace.labels:
            self._relabel(space, dict(namespace.labels))

    def remove_namespace(self, name: str) -> None:
        """Forget a namespace, known or not. Pods it still has are members of nothing."""
        space = self._spaces.get(name)
        if space is not None and space.labels_or_none is not None:
            self._relabel(space, None)
            self._drop_space_if_unused(space)

    def namespace_labels(self, name: str) -> Mapping[str, str] | None:
        """Return a namespace's labels, None while it is not described."""
        space = self._spaces.get(name)
        return None if space is None else space.labels_or_none

    def _relabel(self, space: _Space, labels: dict[str, str] | None) -> None:
        if space.labels_or_none is not None:
            self._described.discard(space)
        for selector in space.selectors:
            selector.spaces.discard(space)
        space.labels_or_none = labels
        space.selectors = set()
        if labels is not None:
            self._described.add(space)
            space.selectors = set(self._space_selector_index.matching(labels))
        for selector in space.selectors:
            selector.spaces.add(space)
        for group in space.groups.values():
            self._move(group, self._sets_of(group))

    @staticmethod
    def _move(group: _Group, sets: tuple[MemberSet, ...]) -> None:
        """Take a group out of the sets it has left and into those it has joined."""
        before, group.sets = group.sets, sets
        for each in before:
            if each not in sets:
                for addresses in group.members.values():
                    each.remove(addresses, group.ports)
        for each in sets:
            if each not in before:
                for addresses in group.members.values():
                    each.add(addresses, group.ports)

    def _drop_space_if_unused(self, space: _Space) -> None:
        if not space.groups and space.labels_or_none is None:
            del self._spaces[space.name]

    # Selections

    def watch(self, selection: Selection, members: MemberSet) -> None:
        """Fill an empty set with a selection's pods, and keep it so."""
        pods = self._pod_selector(selection.pods)
        if selection.namespaces is None:
            pods.by_space.setdefault(str(selection.namespace), []).append(members)
        else:
            spaces = self._space_selector(selection.namespaces)
            spaces.users += 1
            pods.by_selector.setdefault(spaces, []).append(members)
        for group in self._groups_of(selection):
            group.sets += (members,)
            members.fill(group.members.values(), group.ports)

    def unwatch(self, selection: Selection, members: MemberSet) -> None:
        """Let go of a set. What is in it stays in it."""
        for group in self._groups_of(selection):
            group.sets = tuple(each for each in group.sets if each is not members)
        pods = self._pod_selectors[selection.pods]
        if selection.namespaces is None:
            _remove(pods.by_space, str(selection.namespace), members)
        else:
            spaces = self._space_selectors[selection.namespaces]
            _remove(pods.by_selector, spaces, members)
            spaces.users -= 1
            if not spaces.users:
                del self._space_selectors[selection.namespaces]
                self._space_selector_index.remove(selection.namespaces, spaces)
                self._described.release(selection.namespaces)
                for space in spaces.spaces:
                    space.selectors.discard(spaces)
        if not pods.by_space and not pods.by_selector:
            del self._pod_selectors[selection.pods]
            if not selection.pods.matches_everything:
                self._pod_selector_index.remove(selection.pods, pods)
                self._holders.release(selection.pods)
                for label_set in pods.label_sets:
                    label_set.selectors = tuple(each for each in label_set.selectors if each is not pods)

    def _pod_selector(self, selector: Selector) -> _PodSelector:
        found = self._pod_selectors.get(selector)
        if found is None:
            found = self._pod_selectors[selector] = _PodSelector(selector)
            if not selector.matches_everything:
                self._pod_selector_index.add(selector, found)
                found.label_sets.update(self._holders.use(selector))
                for label_set in found.label_sets:
                    label_set.selectors += (found,)
        return found

    def _space_selector(self, selector: Selector) -> _SpaceSelector:
        found = self._space_selectors.get(selector)
        if found is None:
            found = self._space_selectors[selector] = _SpaceSelector(selector)
            self._space_selector_index.add(selector, found)
            found.spaces.update(self._described.use(selector))
            for space in found.spaces:
                space.selectors.add(found)
        return found

    def _groups_of(self, selection: Selection) -> Iterator[_Group]:
        """Yield the groups of a selection in use, from whichever side has fewer to look at."""
        pods = self._pod_selectors[selection.pods]
        if selection.namespaces is None:
            space = self._spaces.get(str(selection.namespace))
            spaces = {space} if space is not None and space.labels_or_none is not None else set()
        else:
            spaces = self._space_selectors[selection.namespaces].spaces
        if selection.pods.matches_everything:
            for each in spaces:
                yield from each.groups.values()
        elif len(spaces) < len(pods.label_sets):
            for each in spaces:
                yield from (group for group in each.groups.values() if pods in group.label_set.selectors)
        else:
            for label_set in pods.label_sets:
                yield from (group for group in label_set.groups if group.space in spaces)

    def _sets_of(self, group: _Group) -> tuple[MemberSet, ...]:
        space = group.space
        if space.labels_or_none is None:
            return ()
        sets: list[MemberSet] = []
        everything = self._pod_selectors.get(EVERYTHING)
        for pods in group.label_set.selectors if everything is None else (*group.label_set.selectors, everything):
            sets += pods.by_space.get(space.name, ())
            if len(pods.by_selector) <= len(space.selectors):
                wanted = [each for each in pods.by_selector if each in space.selectors]
            else:
                wanted = [each for each in space.selectors if each in pods.by_selector]
            for each in wanted:
                sets += pods.by_selector[each]
        return tuple(sets)


def _label_key(labels: Mapping[str, str]) -> str:
    """Return a text that is equal for equal labels: a string is a third of a tuple of pairs, and no work for the GC."""
    return "\0".join(map("\0".join, sorted(labels.items())))


def _remove(lists: dict[Key, list[MemberSet]], key: Key, members: MemberSet) -> None:
    lists[key].remove(members)
    if not lists[key]:
        del lists[key]
