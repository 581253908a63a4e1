from __future__ import annotations

import pytest

from bgp.deferral import RESTARTED_TIME_S, SETTLE_TIME_S, Deferral
from bgp.path import PeerKey
from inet.prefix import Family
from tests.bgp.builders import V4, V6

ONE, TWO, LATE = V4.host(1), V6.host(2), V4.host(3)


def deferral(*peers: PeerKey, limit_s: float = 120) -> Deferral:
    """A restart at time 0."""
    waiting = Deferral(started=0, limit_s=limit_s)
    waiting.expect(peers)
    return waiting


def up(waiting: Deferral, peer: PeerKey, now: float = 1, *, sends_end_of_rib: bool = True) -> None:
    waiting.session_up(peer, Family, sends_end_of_rib=sends_end_of_rib, now=now)


def test_every_family_of_every_peer_is_awaited() -> None:
    waiting = deferral(ONE, TWO)
    assert waiting.waiting_for(0) == {ONE, TWO}
    for peer in (ONE, TWO):
        up(waiting, peer)
        waiting.end_of_rib(peer, Family.IPV4)
    assert waiting.waiting_for(2) == {ONE, TWO}
    waiting.end_of_rib(ONE, Family.IPV6)
    assert waiting.waiting_for(3) == {TWO}
    waiting.end_of_rib(TWO, Family.IPV6)
    assert waiting.waiting_for(4) == set()


def test_who_is_unheard_is_known_whatever_the_limit() -> None:
    waiting = deferral(ONE, TWO, limit_s=0)
    assert waiting.waiting_for(0) == set()
    up(waiting, ONE)
    assert waiting.unheard(5) == {ONE, TWO}
    for family in Family:
        waiting.end_of_rib(ONE, family)
    assert waiting.unheard(5) == {TWO}
    up(waiting, TWO, 5, sends_end_of_rib=False)
    assert waiting.unheard(5) == {TWO}
    assert waiting.unheard(5 + SETTLE_TIME_S) == set()


def test_it_ends_at_the_limit_whoever_is_missing() -> None:
    waiting = deferral(ONE, limit_s=10)
    assert waiting.next_deadline() == 10
    assert waiting.waiting_for(9.9) == {ONE}
    assert waiting.waiting_for(10) == set()
    assert waiting.next_deadline() is None


@pytest.mark.parametrize("ends_by", ["end of rib", "limit"])
def test_it_is_over_once_and_for_all(ends_by: str) -> None:
    waiting = deferral(ONE, limit_s=10)
    if ends_by == "end of rib":
        up(waiting, ONE)
        for family in Family:
            waiting.end_of_rib(ONE, family)
        assert waiting.waiting_for(2) == set()
    else:
        assert waiting.waiting_for(11) == set()
    waiting.session_down(ONE)
    waiting.expect([ONE, LATE])
    assert waiting.waiting_for(3) == set()
    assert waiting.next_deadline() is None


def test_a_peer_without_graceful_restart_counts_as_heard_after_a_moment() -> None:
    waiting = deferral(ONE)
    up(waiting, ONE, now=5, sends_end_of_rib=False)
    assert waiting.next_deadline() == 5 + SETTLE_TIME_S
    assert waiting.waiting_for(5 + SETTLE_TIME_S - 0.1) == {ONE}
    assert waiting.waiting_for(5 + SETTLE_TIME_S) == set()


def test_a_moment_that_has_passed_is_no_deadline_any_more() -> None:
    """Or whoever sleeps until the next deadline would not sleep at all."""
    waiting = deferral(ONE, TWO)
    up(waiting, ONE, now=5, sends_end_of_rib=False)
    assert waiting.waiting_for(20) == {TWO}
    assert waiting.next_deadline() == 120


def test_a_session_that_breaks_has_to_say_everything_again() -> None:
    waiting = deferral(ONE, TWO)
    up(waiting, ONE)
    for family in Family:
        waiting.end_of_rib(ONE, family)
    assert waiting.waiting_for(2) == {TWO}
    waiting.session_down(ONE)
    assert waiting.waiting_for(3) == {ONE, TWO}
    up(waiting, ONE)
    waiting.end_of_rib(ONE, Family.IPV4)
    assert waiting.waiting_for(4) == {ONE, TWO}


def test_a_session_that_breaks_while_it_settles_settles_anew() -> None:
    waiting = deferral(ONE)
    up(waiting, ONE, now=1, sends_end_of_rib=False)
    waiting.session_down(ONE)
    assert waiting.waiting_for(1 + SETTLE_TIME_S) == {ONE}
    up(waiting, ONE, now=10)
    assert waiting.next_deadline() == 120, "it ends its RIB now, so no settling"


def test_the_newest_session_says_whether_an_end_of_rib_will_come() -> None:
    waiting = deferral(ONE)
    up(waiting, ONE, now=1, sends_end_of_rib=False)
    up(waiting, ONE, now=2)
    assert waiting.next_deadline() == 120
    for family in Family:
        waiting.end_of_rib(ONE, family)
    assert waiting.waiting_for(2) == set()


def test_a_peer_that_is_no_longer_configured_is_not_waited_for() -> None:
    waiting = deferral(ONE, TWO)
    up(waiting, ONE)
    for family in Family:
        waiting.end_of_rib(ONE, family)
    waiting.expect([ONE])
    assert waiting.waiting_for(2) == set()


def test_a_peer_configured_meanwhile_is_waited_for() -> None:
    waiting = deferral(ONE)
    waiting.expect([ONE, LATE])
    assert waiting.waiting_for(1) == {ONE, LATE}


def test_an_end_of_rib_of_a_peer_that_is_not_up_means_nothing() -> None:
    waiting = deferral(ONE)
    waiting.end_of_rib(ONE, Family.IPV4)
    up(waiting, ONE)
    waiting.end_of_rib(ONE, Family.IPV6)
    assert waiting.waiting_for(2) == {ONE}


def test_with_nobody_to_hear_there_is_nothing_to_wait_for() -> None:
    assert deferral().waiting_for(0) == set()


def test_two_that_have_restarted_do_not_wait_for_each_other() -> None:
    """RFC 4724 section 4.1: excluding the ones with the "Restart State" bit set."""
    waiting = deferral(ONE, TWO)
    up(waiting, TWO)
    waiting.session_up(ONE, Family, sends_end_of_rib=True, has_restarted=True, now=1)
    for family in Family:
        waiting.end_of_rib(TWO, family)
    assert waiting.waiting_for(1) == {ONE}
    assert waiting.next_deadline() == 1 + RESTARTED_TIME_S
    assert waiting.waiting_for(1 + RESTARTED_TIME_S) == set()


def test_one_that_has_restarted_and_says_that_it_is_done_is_waited_for_no_longer() -> None:
    waiting = deferral(ONE)
    waiting.session_up(ONE, Family, sends_end_of_rib=True, has_restarted=True, now=1)
    for family in Family:
        waiting.end_of_rib(ONE, family)
    assert waiting.waiting_for(2) == set()


def test_one_that_has_restarted_and_is_lost_again_is_waited_for() -> None:
    waiting = deferral(ONE)
    waiting.session_up(ONE, Family, sends_end_of_rib=True, has_restarted=True, now=1)
    waiting.session_down(ONE)
    assert waiting.waiting_for(1 + RESTARTED_TIME_S) == {ONE}
