from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from policy.selector import Operator, Requirement, Selector, selector_of_labels
from policy.selectorindex import Postings, SelectorIndex
from tests.policy.clusters import labels, selectors


@dataclass(eq=False)
class Holder:
    labels: dict[str, str] = field(default_factory=dict)


@given(st.lists(st.tuples(selectors, st.booleans()), max_size=20), st.lists(labels, max_size=5))
def test_it_finds_just_those_that_match(filed: list[tuple[Selector, bool]], sets: list[dict[str, str]]) -> None:
    index: SelectorIndex[int] = SelectorIndex()
    for number, (selector, _) in enumerate(filed):
        index.add(selector, number)
    for number, (selector, is_removed) in enumerate(filed):
        if is_removed:
            index.remove(selector, number)
    left = {number: selector for number, (selector, is_removed) in enumerate(filed) if not is_removed}
    for each in sets:
        assert sorted(index.matching(each)) == [number for number, selector in left.items() if selector.matches(each)]
    assert bool(index) is bool(left)


def test_it_looks_only_at_selectors_filed_under_a_label_it_is_asked_for() -> None:
    class Watched(Selector):
        __slots__ = ()

        def matches(self, labels: object) -> bool:
            raise AssertionError(f"{self} was looked at for {labels}")

    index: SelectorIndex[int] = SelectorIndex()
    for number in range(1000):
        index.add(Watched([Requirement("app", Operator.IN, (f"app-{number}",))]), number)
        index.add(Watched([Requirement(f"key-{number}", Operator.EXISTS)]), -number - 1)
    index.add(selector_of_labels({"app": "mine"}), 5000)
    assert index.matching({"app": "mine", "tier": "web"}) == [5000]


@given(st.lists(st.tuples(labels, st.booleans()), max_size=12), st.lists(selectors, max_size=6))
def test_postings_find_just_the_holders_that_match(
    listed: list[tuple[dict[str, str], bool]], asked: list[Selector]
) -> None:
    postings: Postings[Holder] = Postings()
    holders = [Holder(each) for each, _ in listed]
    for holder in holders:
        postings.add(holder)
        for selector in asked[:2]:  # asking early must not spoil later answers
            postings.use(selector)
    for selector in asked[:1] * len(holders):
        postings.release(selector)
    left = []
    for holder, (_, is_removed) in zip(holders, listed, strict=True):
        if is_removed:
            postings.discard(holder)
        else:
            left.append(holder)
    for selector in asked:
        expected = [holder for holder in left if selector.matches(holder.labels)]
        assert sorted(map(id, postings.use(selector))) == sorted(map(id, expected))
