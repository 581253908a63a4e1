from __future__ import annotations

from bench import cni
from bench.measure import Measurement, Results


def measured(with_us: float, without: float | None) -> Results:
    results = Results()
    results.take("10 at a time", "Tortie", [{cni.WHOLE: with_us}])
    if without is not None:
        results.take("10 at a time", "without us", [{cni.WHOLE: without}])
    cni.compare("10 at a time", results)
    return results


def more(results: Results) -> list[Measurement]:
    return [each for each in results.measurements if each.quantity == cni.MORE[0]]


def test_what_is_ours_of_the_whole_is_told() -> None:
    results = measured(150.0, 110.0)
    assert [(each.subject, each.values) for each in more(results)] == [("Tortie", (40.0,))]
    assert results.notes == []


def test_it_is_said_where_the_plugins_before_ours_take_longer_than_all_may() -> None:
    (note,) = measured(389.0, 289.0).notes
    assert "10 at a time: p99 is 289 ms without us, 389 ms with us" in note


def test_a_round_that_came_to_nothing_is_compared_with_nothing() -> None:
    results = measured(389.0, None)
    assert (more(results), results.notes) == ([], [])
