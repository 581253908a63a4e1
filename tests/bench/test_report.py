from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench import arrival, report
from bench.__main__ import BENCHMARKS, main
from bench.measure import BenchError, Measurement, Results
from inet.prefix import Family

CASE = arrival.case_name(10_000, Family.IPV4, own_med=False)


def results(tortie_ms: float) -> Results:
    found = Results()
    found.take(CASE, "Tortie", [{arrival.LAST_ROUTE: value} for value in (tortie_ms - 1, tortie_ms, tortie_ms + 500)])
    found.take(CASE, "BIRD", [{arrival.LAST_ROUTE: 100.0}])
    return found


def printed(found: Results) -> str:
    console = Console(file=io.StringIO(), width=160)
    report.print_results(console, arrival.NAME, arrival.TITLE, found)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(("tortie_ms", "verdict"), [(600.0, "≤ 600 met"), (601.0, "≤ 600 missed")])
def test_a_median_is_held_against_its_target_and_the_others(tortie_ms: float, verdict: str) -> None:
    text = printed(results(tortie_ms))
    assert verdict in text
    assert " 6.0 │" in text  # Tortie/BIRD
    assert [bool(line) for line in report.missed({arrival.NAME: results(tortie_ms)})] == [True] * (tortie_ms > 600)


def test_a_failed_round_is_told_and_the_rounds_before_it_count() -> None:
    rounds = iter([1.0, 2.0])

    def once() -> dict[tuple[str, str], float]:
        value = next(rounds, None)
        if value is None:
            raise BenchError("no [third] round")
        return {arrival.LAST_ROUTE: value}

    found = Results()
    found.measure(CASE, "Tortie", 3, once)
    assert found.measurements == [Measurement(CASE, "Tortie", *arrival.LAST_ROUTE, (1.0, 2.0))]
    assert f"Tortie, {CASE}: no [third] round" in printed(found)


def test_json_has_every_value_and_the_verdict() -> None:
    [tortie, bird] = report.as_json({arrival.NAME: results(50.0)})["benchmarks"][arrival.NAME]["measurements"]
    assert (tortie["values"], tortie["median"], tortie["atMost"], tortie["met"]) == (
        (49.0, 50.0, 550.0),
        50.0,
        600,
        True,
    )
    assert "met" not in bird


def test_every_target_belongs_to_a_benchmark_of_that_name() -> None:
    assert {line.benchmark for line in report.TARGETS} == {each.NAME for each in BENCHMARKS}


def test_an_unknown_name_is_refused_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["arivals"])
    assert "no benchmark arivals" in capsys.readouterr().err
