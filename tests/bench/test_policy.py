from __future__ import annotations

import pytest

from bench import policy, policy_flood, policy_packets
from bench.measure import Settings
from bench.report import TARGETS, Line
from inet.prefix import Family
from tests.felix.netns import WHY_NOT


def test_percentiles_are_in_milliseconds_and_tell_cpu_time_apart() -> None:
    found = policy._percentiles([(number / 1000, number / 2000) for number in range(1, 101)])
    assert found == {"median": 51.0, "99th percentile": 100.0, "99th percentile of CPU time": 50.0}


@pytest.mark.kernel
@pytest.mark.timeout(300)
def test_every_case_runs_and_has_the_quantities_that_targets_are_set_for() -> None:
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    found = list(policy.run(Settings(1, quick=True)))
    assert [failure for part in found for failure in part.failures] == []
    lines = {Line(policy.NAME, each.case, each.quantity) for part in found for each in part.measurements}
    assert {line for line in TARGETS if line.benchmark == policy.NAME} <= lines


@pytest.mark.kernel
def test_packets_get_through_whatever_stands_in_their_way() -> None:
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    for part, family in zip(policy_packets.run(Settings(1, quick=True)), Family, strict=True):
        assert part.failures == []
        rates = {
            each.quantity: each.median for each in part.measurements if each.case == policy_packets.case_name(family)
        }
        quantities = (policy_packets.UDP, policy_packets.NEW, policy_packets.TCP, policy_packets.REQUESTS)
        assert rates.keys() == {quantity[0] for quantity in quantities}
        assert all(rates.values())


def test_speeds_are_compared_round_by_round_and_set_by_set() -> None:
    slow_machine, quick_machine = [1.0, 2.0, 3.0], [10.0, 20.0, 30.0]
    found = policy_packets.quotient(
        [[each * 0.5 for each in slow_machine], [each * 0.7 for each in quick_machine]], [slow_machine, quick_machine]
    )
    assert [round(each, 3) for each in found] == [0.6, 0.5, 0.7]


@pytest.mark.kernel
def test_changes_under_traffic_lose_nothing_and_let_nothing_through() -> None:
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    for part in policy_flood.run(Settings(1, quick=True)):
        assert part.failures == []
        assert {each.quantity: each.median for each in part.measurements if each.unit == "packets"} == {
            policy_flood.LOST[0]: 0,
            policy_flood.LEAKED[0]: 0,
        }
