"""When a restarted node may change and prune the routes it found in the kernel (RFC 4724 section 4.1).

Forwarding state of before the restart stays untouched until every expected peer has sent its End-of-RIB, or
the deferral timer has run out. A peer that offers no graceful restart may never send one: it counts as heard
a few seconds after its session came up. One that has just restarted itself (the Restart State bit) waits for others
before it sends one, for this node too: it counts as heard a while after, or the two would wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from bgp.path import PeerKey
from inet.prefix import Family

SETTLE_TIME_S: Final = 3.0
"""How long after SessionUp a peer without graceful restart counts as heard."""

RESTARTED_TIME_S: Final = 10.0
"""How long after SessionUp a peer counts as heard that has restarted itself."""


@dataclass(slots=True)
class Deferral:
    """Who is still to be heard. Starts at `started`, ends at the latest `limit_s` later."""

    started: float
    limit_s: float
    _expected: set[PeerKey] = field(default_factory=set, init=False)
    _missing: dict[PeerKey, set[Family]] = field(default_factory=dict, init=False)
    _settles: dict[PeerKey, float] = field(default_factory=dict, init=False)
    _restarted: dict[PeerKey, float] = field(default_factory=dict, init=False)  # until when they are waited for
    _is_over: bool = field(default=False, init=False)

    def expect(self, peers: Iterable[PeerKey]) -> None:
        """Say which peers there should be, all of them: those that went are not waited for.

        Call it before `waiting_for`, which takes nobody expected for everybody heard.
        """
        self._expected = set(peers)

    def session_up(
        self,
        peer: PeerKey,
        families: Iterable[Family],
        *,
        sends_end_of_rib: bool,
        now: float,
        has_restarted: bool = False,
    ) -> None:
        """Note which families a peer still has to finish."""
        self._restarted.pop(peer, None)
        if has_restarted:
            self._restarted[peer] = now + RESTARTED_TIME_S
        if sends_end_of_rib:
            self._missing[peer] = set(families)
            self._settles.pop(peer, None)
        else:
            self._missing[peer] = set()
            self._settles[peer] = now + SETTLE_TIME_S

    def session_down(self, peer: PeerKey) -> None:
        """Note that what the peer said so far is not all it has to say."""
        self._missing.pop(peer, None)
        self._settles.pop(peer, None)
        self._restarted.pop(peer, None)

    def end_of_rib(self, peer: PeerKey, family: Family) -> None:
        """Note that a peer has said all it has of a family."""
        if peer in self._missing:
            self._missing[peer].discard(family)

    def waiting_for(self, now: float) -> frozenset[PeerKey]:
        """Return the peers that are still to be heard; empty once and for all when it is over."""
        if self._is_over or now >= self.started + self.limit_s:
            self._is_over = True
            return frozenset()
        waiting = self.unheard(now)
        self._is_over = not waiting
        return waiting

    def unheard(self, now: float) -> frozenset[PeerKey]:
        """Return the peers that have not said all they know, however long ago it began."""
        self._settles = {peer: when for peer, when in self._settles.items() if when > now}
        for peer in [peer for peer, when in self._restarted.items() if when <= now]:
            del self._restarted[peer]
            self._missing[peer] = set()
        return frozenset(peer for peer in self._expected if not self._is_heard(peer))

    def next_deadline(self) -> float | None:
        """When, after it was last asked, `waiting_for` may change by the clock alone."""
        if self._is_over:
            return None
        return min((self.started + self.limit_s, *self._settles.values(), *self._restarted.values()))

    def _is_heard(self, peer: PeerKey) -> bool:
        return self._missing.get(peer) == set() and peer not in self._settles
