from __future__ import annotations

from bgp.drain import Drain, Stage, Wish


def test_a_node_nobody_wants_drained_is_in_service() -> None:
    assert Drain().stage(0) is Stage.IN_SERVICE
    assert Drain().next_deadline(0) is None


def test_a_drain_is_the_last_choice_until_its_time_and_then_no_choice() -> None:
    drain = Drain({"command": Wish(since=10, withdraw_at=70)})
    assert drain.stage(69.9) is Stage.DRAINING
    assert drain.next_deadline(69.9) == 70
    assert drain.stage(70) is Stage.DRAINED
    assert drain.next_deadline(70) is None


def test_of_several_wishes_the_first_to_be_due_counts_and_the_last_to_go_ends_it() -> None:
    drain = Drain({"command": Wish(0, 60), "taint": Wish(0, 30)})
    assert drain.stage(30) is Stage.DRAINED
    drain.replace({"command": Wish(0, 60)})
    assert drain.stage(30) is Stage.DRAINING
    drain.replace({})
    assert drain.stage(30) is Stage.IN_SERVICE
