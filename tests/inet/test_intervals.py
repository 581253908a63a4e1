from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from inet.intervals import Interval, holds, normalise, subtract

INTERVALS = st.tuples(st.integers(0, 40), st.integers(0, 8)).map(lambda each: (each[0], each[0] + each[1]))


def values(intervals: tuple[Interval, ...]) -> list[int]:
    return [value for first, last in intervals for value in range(first, last + 1)]


@given(st.lists(INTERVALS, max_size=8))
def test_normalised_intervals_are_sorted_disjoint_and_the_same_values(intervals: list[Interval]) -> None:
    result = normalise(intervals)
    assert values(result) == sorted(set(values(tuple(intervals))))
    assert all(one[1] + 1 < other[0] for one, other in pairwise(result))
    assert all(holds(result, value) is (value in values(result)) for value in range(60))


@given(INTERVALS, st.lists(INTERVALS, max_size=5))
def test_what_is_left_is_the_whole_without_the_holes(whole: Interval, holes: list[Interval]) -> None:
    expected = sorted(set(values((whole,))) - set(values(tuple(holes))))
    assert values(subtract(whole, holes)) == expected
