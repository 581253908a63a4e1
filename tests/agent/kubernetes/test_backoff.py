from __future__ import annotations

from agent.kubernetes.backoff import Backoff


def test_pauses_double_up_to_the_longest_and_begin_again_after_a_success() -> None:
    backoff = Backoff(first_s=1, longest_s=5, fraction=lambda: 1.0)
    assert [backoff.failed() for _ in range(5)] == [1, 2, 4, 5, 5]
    backoff.succeeded()
    assert backoff.failed() == 1


def test_half_of_a_pause_is_chance_and_what_the_server_asks_for_is_kept() -> None:
    assert Backoff(first_s=1, fraction=lambda: 0.0).failed() == 0.5
    assert Backoff(first_s=1, fraction=lambda: 0.0).failed(at_least_s=7) == 7.5
