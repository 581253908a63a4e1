"""Graceful restart of one session, in both roles (RFC 4724), as a table of states.

`Retention` says when paths of a lost peer are kept, marked stale, or swept. Events and the present time go in;
actions come out for the owner of the RIB to carry out; `next_deadline` says when to come back with TIMER.

The two ways to lose a session differ. If the *peer* went (SESSION_LOST), it is the restarting speaker and we
help it: its paths stay for the restart time it offered, for the families it named (section 4.2). If our *own
speaker* went (SPEAKER_LOST), we are the restarting one: what we forward by stays in force until each peer has
told us everything again, whatever its OPEN says of its own forwarding state (section 4.1).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

from bgp.speaker import GracefulRestartOffer
from inet.prefix import Family

SETTLE_TIME_S: Final = 30.0
"""How long a peer without graceful restart is given to say everything again after our own speaker restarted."""


class State(enum.Enum):
    """Where a session stands."""

    DOWN = "down"  # no session, no paths
    UP = "up"  # established, nothing stale
    RETAINING = "retaining"  # the peer is gone, its paths are kept as stale
    RESUMING = "resuming"  # our speaker is gone, the peer's paths are kept as stale
    REFRESHING = "refreshing"  # established again, stale paths wait for End-of-RIB


class Event(enum.Enum):
    """What happens to a session."""

    SESSION_UP = "session up"
    SESSION_LOST = "session lost"  # established, ended without a NOTIFICATION, and both sides offered to restart
    SESSION_CLOSED = "session closed"  # ended by a NOTIFICATION, by configuration, or without the capability
    SPEAKER_LOST = "speaker lost"
    REFRESHED = "refreshed"  # End-of-RIB of every family
    TIMER = "timer"


class Action(enum.Enum):
    """What the owner of the RIB has to do."""

    MARK_STALE = "mark stale"  # the families of `Retention.kept_families`
    SWEEP = "sweep"  # forget all that is stale
    SWEEP_NOT_FORWARDED = "sweep not forwarded"  # forget what is stale of families the peer did not keep forwarding
    DROP = "drop"  # forget the peer
    DROP_NOT_KEPT = "drop not kept"  # forget the families that are not kept


class _Timer(enum.Enum):
    START_RESTART = "start restart"  # for the peer's restart time
    START_OWN_RESTART = "start own restart"  # for ours
    START_STALE = "start stale"  # for the End-of-RIB
    STOP = "stop"


_S, _E, _A, _T = State, Event, Action, _Timer

TRANSITIONS: Final[dict[tuple[State, Event], tuple[State, tuple[Action | _Timer, ...]]]] = {
    # state          event               next state      actions
    (_S.DOWN, _E.SESSION_UP): (_S.UP, ()),
    (_S.UP, _E.SESSION_LOST): (_S.RETAINING, (_A.DROP_NOT_KEPT, _A.MARK_STALE, _T.START_RESTART)),
    (_S.UP, _E.SESSION_CLOSED): (_S.DOWN, (_A.DROP,)),
    (_S.UP, _E.SPEAKER_LOST): (_S.RESUMING, (_A.MARK_STALE, _T.START_OWN_RESTART)),
    (_S.RETAINING, _E.SESSION_UP): (_S.REFRESHING, (_A.SWEEP_NOT_FORWARDED, _T.START_STALE)),
    (_S.RETAINING, _E.SESSION_CLOSED): (_S.DOWN, (_A.DROP, _T.STOP)),
    (_S.RETAINING, _E.TIMER): (_S.DOWN, (_A.DROP,)),
    (_S.RESUMING, _E.SESSION_UP): (_S.REFRESHING, (_T.START_STALE,)),
    (_S.RESUMING, _E.SESSION_CLOSED): (_S.DOWN, (_A.DROP, _T.STOP)),
    (_S.RESUMING, _E.TIMER): (_S.DOWN, (_A.DROP,)),
    (_S.REFRESHING, _E.REFRESHED): (_S.UP, (_A.SWEEP, _T.STOP)),
    (_S.REFRESHING, _E.TIMER): (_S.UP, (_A.SWEEP,)),
    # A second restart before the first is over: what was stale already goes (RFC 4724 section 4.2).
    (_S.REFRESHING, _E.SESSION_LOST): (
        _S.RETAINING,
        (_A.SWEEP, _A.DROP_NOT_KEPT, _A.MARK_STALE, _T.START_RESTART),
    ),
    (_S.REFRESHING, _E.SESSION_CLOSED): (_S.DOWN, (_A.DROP, _T.STOP)),
    # ... but not if it was our own speaker, twice: the peer had no chance to say anything new.
    (_S.REFRESHING, _E.SPEAKER_LOST): (_S.RESUMING, (_A.MARK_STALE, _T.START_OWN_RESTART)),
}
"""A pair that is not listed changes nothing."""


@dataclass(slots=True)
class Retention:
    """The state of one session. `own_restart_time_s` bounds how long our own restart may take."""

    own_restart_time_s: int
    stale_time_s: int = 360  # for the End-of-RIB after the session is back, as other implementations have it
    state: State = State.DOWN
    kept_families: frozenset[Family] = frozenset()
    forwarded: frozenset[Family] = frozenset()
    _restart_time_s: int = field(default=0, init=False)
    _deadline: float | None = field(default=None, init=False)

    def offered(self, offer: GracefulRestartOffer | None) -> None:
        """Note what the peer's newest OPEN said. Call it before SESSION_UP."""
        self.kept_families = offer.families if offer else frozenset()
        self.forwarded = offer.forwarding if offer else frozenset()
        self._restart_time_s = offer.restart_time_s if offer else 0

    @property
    def can_be_lost(self) -> bool:
        """Whether the end of the connection counts as SESSION_LOST rather than SESSION_CLOSED."""
        return bool(self.kept_families) and self._restart_time_s > 0

    def handle(self, event: Event, now: float) -> tuple[Action, ...]:
        """Take one event; return what is to be done, in order. `now` is in seconds of a monotonic clock."""
        if event is Event.TIMER:
            if self._deadline is None or now < self._deadline:
                return ()
            self._deadline = None
        if (transition := TRANSITIONS.get((self.state, event))) is None:
            return ()
        self.state, effects = transition
        if event is Event.SPEAKER_LOST:
            self.kept_families = frozenset(Family)
        for effect in effects:
            if isinstance(effect, _Timer):
                self._deadline = self._deadline_of(effect, now)
        return tuple(effect for effect in effects if isinstance(effect, Action))

    def next_deadline(self) -> float | None:
        """When to come back with TIMER, on the clock that `handle` was given."""
        return self._deadline

    def _deadline_of(self, timer: _Timer, now: float) -> float | None:
        match timer:
            case _Timer.START_RESTART:
                return now + self._restart_time_s
            case _Timer.START_OWN_RESTART:
                return now + self.own_restart_time_s
            case _Timer.START_STALE:
                # Without the capability a peer may never send End-of-RIB (RFC 4724 section 2).
                return now + (self.stale_time_s if self._restart_time_s else SETTLE_TIME_S)
            case _Timer.STOP:
                return None
