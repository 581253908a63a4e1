from __future__ import annotations

import pytest

from agent.datastore.absences import Absences
from agent.objects.model import Key

KEYS = frozenset(Key("Node", "", f"n{number}") for number in range(10))
MOST = frozenset(sorted(KEYS)[:8])
SOME = frozenset(sorted(KEYS)[:4])


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def absences(clock: Clock) -> Absences:
    return Absences(confirm_after_s=10, now=clock)


def test_less_than_half_is_gone_at_once(absences: Absences) -> None:
    assert absences.judge(SOME, len(KEYS)) == SOME
    assert absences.problem is None


def test_most_of_everything_waits_and_says_so(absences: Absences) -> None:
    assert absences.judge(MOST, len(KEYS)) == frozenset()
    assert str(absences.problem) == (
        "8 of 10 objects are gone at once. They stay in force until they are missed once more."
    )


def test_a_listing_in_the_same_moment_confirms_nothing(absences: Absences, clock: Clock) -> None:
    absences.judge(MOST, len(KEYS))
    clock.time += 9
    assert absences.judge(MOST, len(KEYS)) == frozenset()


def test_what_is_missed_once_more_is_gone(absences: Absences, clock: Clock) -> None:
    absences.judge(MOST, len(KEYS))
    clock.time += 10
    assert absences.judge(MOST, len(KEYS)) == MOST
    assert absences.problem is None


def test_more_missing_than_was_confirmed_waits_again(absences: Absences, clock: Clock) -> None:
    absences.judge(MOST, len(KEYS))
    clock.time += 10
    assert absences.judge(KEYS, len(KEYS)) == frozenset()
    clock.time += 10
    assert absences.judge(KEYS, len(KEYS)) == KEYS


def test_what_comes_back_was_never_gone(absences: Absences, clock: Clock) -> None:
    absences.judge(MOST, len(KEYS))
    clock.time += 10
    assert absences.judge(frozenset(), len(KEYS)) == frozenset()
    assert absences.problem is None
    assert absences.judge(MOST, len(KEYS)) == frozenset()


def test_after_the_first_minutes_everything_is_believed(absences: Absences, clock: Clock) -> None:
    clock.time += 301
    assert absences.judge(KEYS, len(KEYS)) == KEYS
