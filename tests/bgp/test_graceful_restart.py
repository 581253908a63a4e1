from __future__ import annotations

from itertools import product
from typing import Final

import pytest

from bgp.graceful_restart import SETTLE_TIME_S, TRANSITIONS, Action, Event, Retention, State
from bgp.speaker import GracefulRestartOffer
from inet.prefix import Family

BOTH: Final = frozenset(Family)
V4_ONLY: Final = frozenset({Family.IPV4})
V6_ONLY: Final = frozenset({Family.IPV6})
NOTHING: Final[frozenset[Family]] = frozenset()

RESTART_S, OWN_RESTART_S, STALE_S = 90, 120, 360

# Ways to each state, all at time 0.
TO: Final = {
    State.DOWN: (),
    State.UP: (Event.SESSION_UP,),
    State.RETAINING: (Event.SESSION_UP, Event.SESSION_LOST),
    State.RESUMING: (Event.SESSION_UP, Event.SPEAKER_LOST),
    State.REFRESHING: (Event.SESSION_UP, Event.SESSION_LOST, Event.SESSION_UP),
}
DROP_AND_KEEP = (Action.DROP_NOT_KEPT, Action.MARK_STALE)

# state, event, next state, what is to be done, seconds until the next timer
TABLE: Final[dict[tuple[State, Event], tuple[State, tuple[Action, ...], int | None]]] = {
    (State.DOWN, Event.SESSION_UP): (State.UP, (), None),
    (State.UP, Event.SESSION_LOST): (State.RETAINING, DROP_AND_KEEP, RESTART_S),
    (State.UP, Event.SESSION_CLOSED): (State.DOWN, (Action.DROP,), None),
    (State.UP, Event.SPEAKER_LOST): (State.RESUMING, (Action.MARK_STALE,), OWN_RESTART_S),
    (State.RETAINING, Event.SESSION_UP): (State.REFRESHING, (Action.SWEEP_NOT_FORWARDED,), STALE_S),
    (State.RETAINING, Event.SESSION_CLOSED): (State.DOWN, (Action.DROP,), None),
    (State.RETAINING, Event.TIMER): (State.DOWN, (Action.DROP,), None),
    (State.RESUMING, Event.SESSION_UP): (State.REFRESHING, (), STALE_S),
    (State.RESUMING, Event.SESSION_CLOSED): (State.DOWN, (Action.DROP,), None),
    (State.RESUMING, Event.TIMER): (State.DOWN, (Action.DROP,), None),
    (State.REFRESHING, Event.SESSION_LOST): (State.RETAINING, (Action.SWEEP, *DROP_AND_KEEP), RESTART_S),
    (State.REFRESHING, Event.SESSION_CLOSED): (State.DOWN, (Action.DROP,), None),
    (State.REFRESHING, Event.SPEAKER_LOST): (State.RESUMING, (Action.MARK_STALE,), OWN_RESTART_S),
    (State.REFRESHING, Event.REFRESHED): (State.UP, (Action.SWEEP,), None),
    (State.REFRESHING, Event.TIMER): (State.UP, (Action.SWEEP,), None),
}


def offer(
    families: frozenset[Family] = BOTH, *, forwarding: frozenset[Family] | None = None, time_s: int = RESTART_S
) -> GracefulRestartOffer:
    kept = families if forwarding is None else forwarding
    return GracefulRestartOffer(time_s, restarted=False, forwarding=kept, families=families)


def retention(*events: Event, peer: GracefulRestartOffer | None = None) -> Retention:
    """A session whose peer offers both families, after some events at time 0."""
    session = Retention(OWN_RESTART_S, STALE_S)
    session.offered(peer or offer())
    for event in events:
        session.handle(event, 0)
    return session


@pytest.mark.parametrize(
    ("state", "event"), list(product(State, Event)), ids=[f"{s.value}-{e.value}" for s, e in product(State, Event)]
)
def test_every_state_takes_every_event_as_the_table_says(state: State, event: Event) -> None:
    session = retention(*TO[state])
    assert session.state is state
    deadline = session.next_deadline()
    now = float(deadline or 0) if event is Event.TIMER else 1.0

    done = session.handle(event, now)

    if (state, event) in TABLE:
        target, actions, seconds = TABLE[state, event]
        assert (session.state, done) == (target, actions)
        assert session.next_deadline() == (None if seconds is None else now + seconds)
    else:
        assert (session.state, done, session.next_deadline()) == (state, (), deadline)


def test_the_table_knows_no_more_than_that() -> None:
    assert TRANSITIONS.keys() == TABLE.keys()


def test_a_timer_that_is_early_does_nothing() -> None:
    session = retention(Event.SESSION_UP, Event.SESSION_LOST)
    assert session.handle(Event.TIMER, RESTART_S - 0.001) == ()
    assert session.state is State.RETAINING
    assert session.handle(Event.TIMER, RESTART_S) == (Action.DROP,)
    assert session.handle(Event.TIMER, RESTART_S + 1) == ()


def test_a_restarting_peer_keeps_its_routes_until_end_of_rib() -> None:
    session = retention(Event.SESSION_UP)
    assert session.can_be_lost
    assert session.handle(Event.SESSION_LOST, 10) == DROP_AND_KEEP
    assert session.kept_families == BOTH
    assert session.next_deadline() == 10 + RESTART_S
    session.offered(offer())
    assert session.handle(Event.SESSION_UP, 50) == (Action.SWEEP_NOT_FORWARDED,)
    assert session.forwarded == BOTH
    assert session.next_deadline() == 50 + STALE_S
    assert session.handle(Event.REFRESHED, 60) == (Action.SWEEP,)
    assert session.next_deadline() is None


def test_the_restart_time_is_the_one_of_the_peers_last_open() -> None:
    session = retention(Event.SESSION_UP, peer=offer(time_s=7))
    session.handle(Event.SESSION_LOST, 100)
    assert session.next_deadline() == 107


def test_a_peer_that_lost_its_forwarding_state_loses_its_routes_when_it_is_back() -> None:
    """Without the F bit (RFC 4724 section 4.2)."""
    session = retention(Event.SESSION_UP, Event.SESSION_LOST)
    session.offered(offer(forwarding=V6_ONLY))
    assert session.handle(Event.SESSION_UP, 1) == (Action.SWEEP_NOT_FORWARDED,)
    assert session.forwarded == V6_ONLY


def test_a_peer_that_comes_back_without_the_capability_has_kept_nothing() -> None:
    session = retention(Event.SESSION_UP, Event.SESSION_LOST)
    session.offered(None)
    assert session.handle(Event.SESSION_UP, 1) == (Action.SWEEP_NOT_FORWARDED,)
    assert session.forwarded == NOTHING
    assert not session.can_be_lost


def test_families_the_peer_did_not_name_are_not_kept() -> None:
    session = retention(Event.SESSION_UP, peer=offer(V4_ONLY))
    assert session.handle(Event.SESSION_LOST, 1) == DROP_AND_KEEP
    assert session.kept_families == V4_ONLY


@pytest.mark.parametrize(
    "said",
    [None, offer(NOTHING), offer(time_s=0)],
    ids=["no capability", "helps others only", "no time to restart"],
)
def test_a_peer_that_cannot_restart_gracefully_is_gone_when_it_is_gone(said: GracefulRestartOffer | None) -> None:
    session = Retention(OWN_RESTART_S)
    session.offered(said)
    session.handle(Event.SESSION_UP, 0)
    assert not session.can_be_lost
    assert session.handle(Event.SESSION_CLOSED, 1) == (Action.DROP,)


def test_a_second_restart_during_the_refresh_sweeps_what_the_first_left_over() -> None:
    """RFC 4724 section 4.2: what was stale already is deleted."""
    session = retention(Event.SESSION_UP, Event.SESSION_LOST, Event.SESSION_UP)
    assert session.handle(Event.SESSION_LOST, 5) == (Action.SWEEP, *DROP_AND_KEEP)
    assert session.next_deadline() == 5 + RESTART_S


def test_our_own_speaker_lost_twice_loses_nothing() -> None:
    session = retention(Event.SESSION_UP)
    assert session.handle(Event.SPEAKER_LOST, 0) == (Action.MARK_STALE,)
    assert session.handle(Event.SESSION_UP, 2) == ()
    assert session.handle(Event.SPEAKER_LOST, 3) == (Action.MARK_STALE,)
    assert session.next_deadline() == 3 + OWN_RESTART_S
    assert session.handle(Event.SPEAKER_LOST, 4) == (), "it was down already: the time to come back is not renewed"
    assert session.next_deadline() == 3 + OWN_RESTART_S


def test_what_we_forward_by_is_kept_whatever_the_peer_offered() -> None:
    """It is we who restart (RFC 4724 section 4.1)."""
    session = Retention(OWN_RESTART_S)
    session.offered(None)
    session.handle(Event.SESSION_UP, 0)
    assert session.handle(Event.SPEAKER_LOST, 1) == (Action.MARK_STALE,)
    assert session.kept_families == BOTH
    session.offered(None)
    assert session.handle(Event.SESSION_UP, 2) == (), "nor does a peer without the F bit lose anything"
    assert session.kept_families == NOTHING


def test_a_peer_that_is_gone_already_is_not_kept_longer_by_our_own_restart() -> None:
    session = retention(Event.SESSION_UP, Event.SESSION_LOST, peer=offer(V4_ONLY))
    assert session.handle(Event.SPEAKER_LOST, 50) == ()
    assert session.kept_families == V4_ONLY
    assert session.next_deadline() == RESTART_S


def test_a_peer_that_never_ends_its_rib_is_swept_after_the_stale_time() -> None:
    session = retention(*TO[State.REFRESHING])
    assert session.handle(Event.TIMER, STALE_S) == (Action.SWEEP,)
    assert session.state is State.UP
    assert session.next_deadline() is None


def test_an_end_of_rib_at_the_first_start_sweeps_nothing() -> None:
    assert retention(Event.SESSION_UP).handle(Event.REFRESHED, 1) == ()


def test_after_our_own_restart_a_peer_that_may_never_send_end_of_rib_is_given_half_a_minute() -> None:
    retention = Retention(own_restart_time_s=120)
    retention.handle(Event.SESSION_UP, 0)
    retention.handle(Event.SPEAKER_LOST, 10)
    retention.offered(None)
    retention.handle(Event.SESSION_UP, 12)
    assert retention.next_deadline() == 12 + SETTLE_TIME_S
    assert retention.handle(Event.TIMER, 12 + SETTLE_TIME_S) == (Action.SWEEP,)
