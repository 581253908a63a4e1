"""The sessions of a node as they come and go, and what becomes of a peer's paths then.

Whom to speak with is `bgp.peering`'s to say, what to keep of a lost peer `bgp.graceful_restart`'s, whom to wait for
after a start `bgp.deferral`'s. What they say is carried out here, on the RIB.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

import structlog

from agent.announcing import Announcer
from agent.forwarding import Forwarding
from agent.peers import Peer
from bgp.deferral import Deferral
from bgp.graceful_restart import Action, Retention
from bgp.graceful_restart import Event as RestartEvent
from bgp.path import PeerKey, Source
from bgp.peering import PlannedSession
from bgp.rib import Rib
from bgp.speaker import EndOfRib, Event, SessionDown, SessionUp, SpeakerLost, Update
from inet.prefix import Family

SILENCE_S: Final = 5.0
"""How long after SessionUp a peer whose routes were kept counts as back even if it has said nothing.

When both ends call, one may see a session up that the other one gives up for the second connection (RFC 4271 section
6.8). Were that a restart and then another one, what is kept would have to go (RFC 4724 section 4.2)."""

CONNECTION_COLLISION: Final = (6, 7)
"""The NOTIFICATION that ends one of two connections with a peer, the other being kept (RFC 4486 section 4)."""

OWN_RESTART_TIME_S: Final = 120
"""How long our own speaker's restart may take where no graceful restart is configured."""

ARRIVAL_S: Final = 10.0
"""How long at most a fresh node waits for its peers before it takes pods: dead ones must not keep it."""

log = structlog.get_logger("routing")


class Sessions:
    """Every configured peer, and what it is to the RIB. Times are of the clock `now`."""

    def __init__(self, rib: Rib, forwarding: Forwarding, announcer: Announcer, *, now: Callable[[], float]) -> None:
        self.peers: dict[PeerKey, Peer] = {}
        self._rib = rib
        self._forwarding = forwarding
        self._announcer = announcer
        self._now = now
        self._deferral: Deferral | None = None

    # What is wanted

    async def follow(self, planned: Mapping[PeerKey, PlannedSession], restart_time_s: int | None) -> None:
        """Take over which sessions there are to be. The first time begins the wait of `is_deferring`."""
        for key in self.peers.keys() - planned.keys():
            await self._close(self.peers.pop(key), "no longer configured")
        for key, session in planned.items():
            await self._adopt(key, session, restart_time_s)
        if self._deferral is None:
            self._deferral = Deferral(started=self._now(), limit_s=restart_time_s or 0.0)
        self._deferral.expect(key for key, session in planned.items() if not session.hindrance)

    async def _adopt(self, key: PeerKey, planned: PlannedSession, restart_time_s: int | None) -> None:
        peer = self.peers.get(key)
        if peer is None:
            retention = Retention(restart_time_s or OWN_RESTART_TIME_S)
            self.peers[key] = Peer(planned, retention, since=time.time())
            return
        peer.planned = planned
        if planned.hindrance:
            await self._close(peer, planned.hindrance)
        else:
            self._rib.set_rules(key, planned.rules)
            self._announcer.advertise(peer)

    # What is so

    @property
    def is_deferring(self) -> bool:
        """Whether routes found at start are still left as they were (RFC 4724 section 4.1)."""
        return self._deferral is None or bool(self.waiting_for())

    def waiting_for(self) -> frozenset[PeerKey]:
        """Return the peers whose End-of-RIB is awaited before routes of before the restart are touched."""
        return self._deferral.waiting_for(self._now()) if self._deferral else frozenset()

    def coming_up(self) -> frozenset[PeerKey]:
        """Return the peers that a fresh node has yet to hear before it knows its way; none when ARRIVAL_S are over."""
        now, deferral = self._now(), self._deferral
        return frozenset() if deferral is None or now >= deferral.started + ARRIVAL_S else deferral.unheard(now)

    def have_told_all(self, planned: Collection[PlannedSession]) -> bool:
        """Whether every session that should be has sent all it knows."""
        running = [peer for peer in self.peers.values() if not peer.planned.hindrance]
        return len(running) == sum(not each.hindrance for each in planned) and all(
            peer.established is not None and not peer.awaits_end_of_rib for peer in running
        )

    @property
    def next_deadline(self) -> float | None:
        """When `tick` has something to do, or `is_deferring` may be over."""
        deadlines = [self._deferral.next_deadline() if self._deferral else None]
        deadlines += [peer.retention.next_deadline() for peer in self.peers.values()]
        deadlines += [peer.silent_until for peer in self.peers.values()]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def tick(self, now: float) -> None:
        """Do what the clock alone asks for."""
        for peer in self.peers.values():
            if peer.silent_until is not None and now >= peer.silent_until:
                self._welcome_back(peer)
            self._act(peer, peer.retention.handle(RestartEvent.TIMER, now))
            self._announcer.ask_again(peer, now)

    # What the speaker says

    async def hear(self, event: Event) -> None:
        """Take in what happened to a session, or to all of them."""
        if isinstance(event, SpeakerLost):
            self._on_speaker_lost(event)
            return
        peer = self.peers.get(event.peer)
        if peer is None or peer.planned.hindrance:
            return  # the last words of a session that is being taken down
        match event:
            case Update():
                self._welcome_back(peer)
                if event.peer in self._rib.peers():
                    if event.withdrawn:
                        self._rib.withdraw(event.peer, event.withdrawn)
                    if event.attributes is not None:
                        self._rib.learn(event.peer, event.attributes, event.announced)
            case SessionUp():
                self._on_up(peer, event)
            case SessionDown():
                await self._on_down(peer, event)
            case EndOfRib():
                self._welcome_back(peer)
                self._on_end_of_rib(peer, event.family)

    def _on_up(self, peer: Peer, event: SessionUp) -> None:
        session, now = peer.planned.session, self._now()
        log.info("session.up", peer=str(event.peer), origin=session.origin, families=_names(event.families))
        peer.established, peer.since, peer.last_error = event, time.time(), ""
        peer.announced = {}
        peer.awaits_end_of_rib = set(event.families)
        peer.owes_end_of_rib = set(event.families)
        source = Source(event.peer, session.peer_asn, session.is_internal, event.router_id)
        self._rib.open(source, peer.planned.rules)
        offer = event.graceful_restart
        peer.retention.offered(offer)
        kept_until = peer.retention.next_deadline()
        if kept_until is not None and offer is not None:
            peer.silent_until = min(kept_until, now + SILENCE_S)
        else:
            self._act(peer, peer.retention.handle(RestartEvent.SESSION_UP, now))
        if self._deferral is not None:
            self._deferral.session_up(
                event.peer,
                event.families,
                sends_end_of_rib=offer is not None,
                has_restarted=offer is not None and offer.restarted,
                now=now,
            )
        self._announcer.advertise(peer)
        self._announcer.finish(peer)

    def _welcome_back(self, peer: Peer) -> None:
        """Have a peer whose routes were kept be back, now that it has spoken, or stayed."""
        if peer.silent_until is not None:
            peer.silent_until = None
            self._act(peer, peer.retention.handle(RestartEvent.SESSION_UP, self._now()))

    async def _on_down(self, peer: Peer, event: SessionDown) -> None:
        peer.last_error = event.reason
        if not event.was_established or peer.established is None:
            return
        offers_restart = peer.planned.session.graceful_restart_time_s is not None
        is_cut = event.notification in {None, CONNECTION_COLLISION}
        is_lost = is_cut and offers_restart and peer.retention.can_be_lost
        log.warning(
            "session.down",
            peer=str(event.peer),
            origin=peer.planned.session.origin,
            reason=event.reason,
            routes="kept" if is_lost else "withdrawn",
        )
        if not is_lost:
            await self._close(peer, event.reason)
            return
        self._note_down(peer, event.reason)
        self._act(peer, peer.retention.handle(RestartEvent.SESSION_LOST, self._now()))

    def _on_end_of_rib(self, peer: Peer, family: Family) -> None:
        key = peer.planned.session.peer
        if peer.established is None:
            return
        self._rib.sweep(key, [family])
        peer.awaits_end_of_rib.discard(family)
        if not peer.awaits_end_of_rib:
            self._act(peer, peer.retention.handle(RestartEvent.REFRESHED, self._now()))
        if self._deferral is not None:
            self._deferral.end_of_rib(key, family)

    def _on_speaker_lost(self, event: SpeakerLost) -> None:
        log.error("speaker.lost", reason=event.reason)
        for peer in self.peers.values():
            self._welcome_back(peer)  # it was: this end is no word of the peer's
            if peer.established is not None:
                self._note_down(peer, event.reason)
            self._act(peer, peer.retention.handle(RestartEvent.SPEAKER_LOST, self._now()))

    async def _close(self, peer: Peer, reason: str) -> None:
        """End a session for good: its paths go, all prefixes with an equal path at once, the others one by one."""
        key = peer.planned.session.peer
        if peer.established is not None:
            self._note_down(peer, reason)
        await self._forwarding.fail_over(self._rib.failover(lambda path: path.source.peer == key))
        self._act(peer, peer.retention.handle(RestartEvent.SESSION_CLOSED, self._now()))

    def _note_down(self, peer: Peer, reason: str) -> None:
        peer.established, peer.since, peer.last_error = None, time.time(), reason
        peer.silent_until = None
        peer.flaps += 1
        if self._deferral is not None:
            self._deferral.session_down(peer.planned.session.peer)

    def _act(self, peer: Peer, actions: tuple[Action, ...]) -> None:
        key, retention = peer.planned.session.peer, peer.retention
        for action in actions:
            match action:
                case Action.MARK_STALE:
                    self._rib.mark_stale(key, retention.kept_families)
                case Action.SWEEP:
                    self._rib.sweep(key)
                case Action.SWEEP_NOT_FORWARDED:
                    self._rib.sweep(key, frozenset(Family) - retention.forwarded)
                case Action.DROP:
                    self._rib.drop(key)
                case Action.DROP_NOT_KEPT:
                    gone = frozenset(Family) - retention.kept_families
                    self._rib.mark_stale(key, gone)
                    self._rib.sweep(key, gone)


def _names(families: Iterable[Family]) -> list[str]:
    return [family.label for family in sorted(families)]
