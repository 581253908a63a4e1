from __future__ import annotations

import pytest

from felix.guard import Held, MassDeleteGuard


@pytest.mark.parametrize(
    ("removals", "total", "passes"),
    [
        pytest.param(0, 0, True, id="nothing"),
        pytest.param(3, 3, True, id="a few, though they are all"),
        pytest.param(4, 8, True, id="half"),
        pytest.param(4, 7, False, id="more than half"),
        pytest.param(100, 100, False, id="everything"),
    ],
)
def test_more_than_half_and_more_than_a_few_is_held_back(removals: int, total: int, passes: bool) -> None:
    guard = MassDeleteGuard(started=0.0)
    assert guard.allows(removals, total, 10.0) is passes
    assert guard.held == (None if passes else Held(removals, total, 10.0, 300.0))


def test_what_is_held_back_says_since_when() -> None:
    guard = MassDeleteGuard(started=0.0)
    for now in (10.0, 20.0, 30.0):
        assert not guard.allows(90, 100, now)
    assert guard.held == Held(90, 100, 10.0, 300.0)


def test_after_the_first_minutes_everything_passes() -> None:
    guard = MassDeleteGuard(started=100.0, window_s=60.0)
    assert not guard.allows(90, 100, 159.0)
    assert guard.allows(90, 100, 160.0)
    assert guard.held is None


def test_a_confirmed_deletion_passes_but_no_larger_one() -> None:
    guard = MassDeleteGuard(started=0.0)
    assert not guard.allows(90, 100, 10.0)
    guard.confirm()
    assert not guard.allows(91, 100, 11.0)
    assert guard.allows(90, 100, 12.0)


def test_a_confirmation_is_good_for_once() -> None:
    guard = MassDeleteGuard(started=0.0)
    guard.allows(90, 100, 10.0)
    guard.confirm()
    assert guard.allows(90, 100, 11.0)
    assert not guard.allows(60, 100, 12.0)


def test_confirming_nothing_changes_nothing() -> None:
    guard = MassDeleteGuard(started=0.0)
    guard.confirm()
    assert not guard.allows(90, 100, 10.0)


def test_nothing_is_held_back_once_there_is_nothing_to_delete() -> None:
    guard = MassDeleteGuard(started=0.0)
    guard.allows(90, 100, 10.0)
    assert guard.allows(0, 100, 11.0)
    assert guard.held is None
