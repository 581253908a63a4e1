"""Sorted, disjoint intervals of whole numbers, addresses or ports: the form that the kernel's interval sets want.

nftables refuses a whole transaction when two intervals of a set overlap, and its auto-merge forgets what it merged,
so whatever goes into such a set is normalised here first.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import TypeAlias

Interval: TypeAlias = tuple[int, int]
"""First and last address (or port), both included."""

Intervals: TypeAlias = tuple[Interval, ...]
"""Sorted; no two overlap or touch."""


def normalise(intervals: Iterable[Interval]) -> Intervals:
    """Sort and merge what overlaps or touches."""
    merged: list[Interval] = []
    for first, last in sorted(intervals):
        if merged and first <= merged[-1][1] + 1:
            if last > merged[-1][1]:
                merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    return tuple(merged)


def subtract(whole: Interval, holes: Iterable[Interval]) -> Intervals:
    """Return what is left of an interval without the holes."""
    left: list[Interval] = []
    first, last = whole
    for hole_first, hole_last in normalise(holes):
        if hole_last < first or hole_first > last:
            continue
        if hole_first > first:
            left.append((first, hole_first - 1))
        first = hole_last + 1
    if first <= last:
        left.append((first, last))
    return tuple(left)


def holds(intervals: Intervals, value: int) -> bool:
    """Whether one of the intervals has the value."""
    position = bisect_right(intervals, (value, 1 << 128))
    return position > 0 and intervals[position - 1][1] >= value
