from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.cidr import pack_address
from policy.compiler import Deleted, Update
from policy.labelindex import LabelIndex
from policy.memberset import Element, MemberSet
from policy.objects import NamedPort, Namespace, Pod
from policy.policies import Selection
from policy.selector import EVERYTHING, Selector, selector_of_labels
from tests.policy.clusters import NAMESPACES, cluster_selections, deletions, namespaces, pods, remaining, selectors

A1, A2 = pack_address("10.0.0.1"), pack_address("10.0.0.2")


def pod(name: str, address: bytes, namespace: str = "shop", **labels: str) -> Pod:
    return Pod(namespace, name, labels, (address,))


def in_namespace(name: str, **labels: str) -> Selection:
    return Selection(name, None, selector_of_labels(labels))


def in_namespaces(selector: Selector, **labels: str) -> Selection:
    return Selection(None, selector, selector_of_labels(labels))


@pytest.fixture
def index() -> LabelIndex:
    index = LabelIndex()
    index.put_namespace(Namespace("shop", {"team": "web"}))
    return index


@pytest.fixture
def watch(index: LabelIndex) -> Callable[[Selection], MemberSet]:
    def begin(selection: Selection) -> MemberSet:
        members = MemberSet(4, set())
        index.watch(selection, members)
        members.drain()
        return members

    return begin


Watch = Callable[[Selection], MemberSet]


def test_a_pod_that_is_there_already_is_found(index: LabelIndex, watch: Watch) -> None:
    index.put_pod(pod("a", A1, app="api"))
    assert set(watch(in_namespace("shop", app="api")).counts) == {A1}
    assert set(watch(in_namespaces(selector_of_labels({"team": "web"}))).counts) == {A1}
    assert not watch(in_namespace("web", app="api")).counts


def test_a_changed_label_moves_a_pod_from_set_to_set(index: LabelIndex, watch: Watch) -> None:
    index.put_pod(pod("a", A1, app="api"))
    api, db = watch(in_namespace("shop", app="api")), watch(in_namespace("shop", app="db"))
    index.put_pod(pod("a", A1, app="db"))
    assert api.drain() == (set(), {A1})
    assert db.drain() == ({A1}, set())


def test_there_and_back_again_is_no_change(index: LabelIndex, watch: Watch) -> None:
    index.put_pod(pod("a", A1, app="api"))
    api = watch(in_namespace("shop", app="api"))
    for _ in range(10_000):
        index.put_pod(pod("a", A1, app="db"))
        index.put_pod(pod("a", A1, app="api"))
    assert api.drain() == (set(), set())


def test_a_label_nobody_selects_by_changes_nothing(index: LabelIndex, watch: Watch) -> None:
    index.put_pod(pod("a", A1, app="api"))
    api = watch(in_namespace("shop", app="api"))
    index.put_pod(pod("a", A1, app="api", build="2"))
    assert api.drain() == (set(), set())
    assert set(api.counts) == {A1}


def test_a_namespaces_label_moves_all_its_pods(index: LabelIndex, watch: Watch) -> None:
    web = watch(in_namespaces(selector_of_labels({"team": "web"})))
    index.put_pod(pod("a", A1, app="api"))
    index.put_pod(pod("b", A2, app="db"))
    assert web.drain() == ({A1, A2}, set())
    index.put_namespace(Namespace("shop", {"team": "ops"}))
    assert web.drain() == (set(), {A1, A2})
    index.put_namespace(Namespace("shop", {"team": "web"}))
    assert web.drain() == ({A1, A2}, set())


def test_pods_of_an_unknown_namespace_are_members_of_nothing(index: LabelIndex, watch: Watch) -> None:
    index.put_pod(pod("a", A1, "new", app="api"))
    everything, own = watch(in_namespaces(EVERYTHING)), watch(in_namespace("new"))
    assert not everything.counts
    assert not own.counts
    index.put_namespace(Namespace("new", {}))
    assert set(everything.counts) == set(own.counts) == {A1}
    index.remove_namespace("new")
    assert not everything.counts
    assert not own.counts


@pytest.mark.parametrize(
    "other",
    [
        Pod("shop", "a", {"app": "api"}, (A1,), host_network=True),
        Pod("shop", "a", {"app": "api"}, (A1,), completed=True),
        Pod("shop", "a", {"app": "api"}, ()),
    ],
    ids=["host network", "completed", "no address"],
)
def test_a_pod_that_is_no_member_leaves(index: LabelIndex, watch: Watch, other: Pod) -> None:
    api = watch(in_namespace("shop", app="api"))
    index.put_pod(pod("a", A1, app="api"))
    index.put_pod(other)
    assert not api.counts


def test_an_address_of_two_pods_stays_until_both_are_gone(index: LabelIndex, watch: Watch) -> None:
    api = watch(in_namespace("shop", app="api"))
    index.put_pod(pod("old", A1, app="api"))
    index.put_pod(pod("new", A1, app="api"))
    api.drain()
    index.remove_pod("shop/old")
    assert api.drain() == (set(), set())
    index.remove_pod("shop/new")
    assert api.drain() == (set(), {A1})


def test_named_ports_are_each_pods_own(index: LabelIndex) -> None:
    members = MemberSet(4, set(), "http", 6)
    index.watch(in_namespace("shop"), members)
    index.put_pod(Pod("shop", "a", {}, (A1,), (NamedPort("http", 6, 8080), NamedPort("dns", 17, 53))))
    index.put_pod(Pod("shop", "b", {}, (A2,), (NamedPort("http", 6, 80), NamedPort("http", 17, 443))))
    assert set(members.counts) == {(A1, 6, 8080), (A2, 6, 80)}
    index.put_pod(Pod("shop", "a", {}, (A1,), (NamedPort("http", 6, 8081),)))
    assert set(members.counts) == {(A1, 6, 8081), (A2, 6, 80)}


def test_labels_that_nobody_has_any_more_are_forgotten(index: LabelIndex, watch: Watch) -> None:
    watch(in_namespaces(EVERYTHING, app="api"))
    for n in range(3):
        index.put_pod(pod("a", A1, app="api", build=str(n)))
    index.remove_pod("shop/a")
    assert not index._label_sets
    assert [each.label_sets for each in index._pod_selectors.values()] == [set()]


def test_deleting_what_is_not_there_is_nothing(index: LabelIndex) -> None:
    index.remove_pod("shop/none")
    index.remove_namespace("none")


class Watched:
    """An index with sets that come and go, and what each must hold by the objects alone."""

    def __init__(self) -> None:
        self.index = LabelIndex()
        self.sets: list[tuple[Selection, MemberSet]] = []
        self.mirrors: dict[MemberSet, set[Element]] = {}
        self.so_far: list[Update] = []

    def step(self, step: Pod | Namespace | Deleted | Selection | int) -> None:
        match step:
            case Selection():
                members = MemberSet(4, set())
                self.index.watch(step, members)
                self.sets.append((step, members))
                self.mirrors[members] = set(members.counts)
            case int():
                if step < len(self.sets):
                    self.index.unwatch(*self.sets.pop(step))
            case _:
                self.so_far.append(step)
                self._apply(step)

    def _apply(self, update: Pod | Namespace | Deleted) -> None:
        match update:
            case Pod():
                self.index.put_pod(update)
            case Namespace():
                self.index.put_namespace(update)
            case Deleted(kind="Pod"):
                self.index.remove_pod(f"{update.namespace}/{update.name}")
            case Deleted():
                self.index.remove_namespace(update.name)

    def check(self) -> None:
        objects = remaining(self.so_far)
        for selection, members in self.sets:
            assert set(members.counts) == selected(objects, selection)
            added, removed = members.drain()
            mirror = self.mirrors[members]
            assert removed <= mirror
            assert not added & mirror
            self.mirrors[members] = mirror - removed | added
            assert self.mirrors[members] == set(members.counts)

    def check_nothing_is_left_behind(self) -> None:
        index = self.index
        alive = set(index._label_sets.values())
        for selector in index._pod_selectors.values():
            assert selector.label_sets <= alive
        for label_set in alive:
            assert set(label_set.selectors) <= set(index._pod_selectors.values())
            assert label_set.groups
        for space in index._spaces.values():
            assert space.selectors <= set(index._space_selectors.values())
            assert all(group.members for group in space.groups.values())

    def clear(self) -> None:
        for selection, members in self.sets:
            self.index.unwatch(selection, members)
        for kind, key in remaining(self.so_far):
            self._apply(Deleted(kind, *key.split("/")) if kind == "Pod" else Deleted(kind, "", key))


@given(
    st.lists(
        st.one_of(
            pods(),
            pods(),
            namespaces(),
            deletions.filter(lambda each: each.kind in {"Pod", "Namespace"}),
            st.one_of(cluster_selections, st.builds(Selection, st.sampled_from(NAMESPACES), st.none(), selectors)),
            st.integers(0, 5),
        ),
        max_size=40,
    )
)
@settings(max_examples=300, deadline=None)
def test_after_every_step_each_watched_set_has_exactly_its_pods(
    steps: list[Pod | Namespace | Deleted | Selection | int],
) -> None:
    watched = Watched()
    for step in steps:
        watched.step(step)
        watched.check()
        watched.check_nothing_is_left_behind()
    watched.clear()
    index = watched.index
    assert not index._pods
    assert not index._spaces
    assert not index._label_sets
    assert not index._pod_selectors
    assert not index._space_selectors
    assert not index._pod_selector_index
    assert not index._space_selector_index


def selected(objects: dict[tuple[str, str], Update], selection: Selection) -> set[bytes]:
    found = set()
    for each in objects.values():
        if not isinstance(each, Pod) or each.host_network or each.completed:
            continue
        namespace = objects.get(("Namespace", each.namespace))
        if not isinstance(namespace, Namespace):
            continue
        if selection.namespaces is None:
            is_there = selection.namespace == each.namespace
        else:
            is_there = selection.namespaces.matches(namespace.labels)
        if is_there and selection.pods.matches(each.labels):
            found.update(address for address in each.addresses if len(address) == 4)
    return found
