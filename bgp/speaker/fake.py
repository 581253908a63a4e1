"""A `Speaker` for tests: sessions are up when the test says so, and what would go to the wire can be looked at.

A test injects what peers do (`bring_up`, `take_down`, `hear`, `lose`) and reads what the code under test did
(`sessions`, `adj_rib_out`, `ends_of_rib`). The rules of the Protocol hold: nothing is announced to a peer whose
session is not up, and each session begins with an empty Adj-RIB-Out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from ipaddress import IPv4Address

from bgp.path import Attributes, PeerKey
from bgp.speaker import (
    EndOfRib,
    Event,
    GracefulRestartOffer,
    Session,
    SessionDown,
    SessionUp,
    SpeakerError,
    SpeakerHealth,
    SpeakerLost,
    Update,
)
from inet.prefix import Family, Prefix


class FakeSpeaker:
    """The wire, in memory."""

    def __init__(self) -> None:
        self.sessions: dict[PeerKey, Session] = {}
        self.adj_rib_out: dict[PeerKey, dict[Prefix, Attributes]] = {}
        """What each established peer has been told and not had withdrawn."""
        self.ends_of_rib: list[tuple[PeerKey, Family]] = []
        """Every End-of-RIB sent, in order."""
        self.refreshes: list[tuple[PeerKey, Family]] = []
        """Every ROUTE-REFRESH sent, in order."""
        self.log: list[tuple[str, PeerKey, Prefix]] = []
        """Every `announce` and `withdraw` that reached an established peer, in order."""
        self.started = False
        self.stopped: bool | None = None
        """How `stop` was called: None, or its `graceful`."""
        self.start_error = ""
        """Set before `start` to have it fail with this text."""
        self.out_of_sync: frozenset[PeerKey] = frozenset()
        self.last_error = ""
        self.restarts = 0
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    # The Protocol

    async def start(self) -> None:
        """Start, or fail with `start_error`."""
        if self.start_error:
            raise SpeakerError(self.start_error)
        self.started = True

    def configure(self, sessions: Mapping[PeerKey, Session]) -> None:
        """Take the sessions. One that is gone or changed ends, as it would on the wire."""
        before, self.sessions = self.sessions, dict(sessions)
        for peer, session in before.items():
            if peer in self.adj_rib_out and self.sessions.get(peer) != session:
                if peer in self.sessions:
                    self.take_down(peer, "session settings changed")
                else:
                    self.take_down(peer, "session removed", notification=(6, 3), sent=True)

    def announce(self, peer: PeerKey, prefix: Prefix, attributes: Attributes) -> None:
        """Put a path into the Adj-RIB-Out of an established peer."""
        if peer in self.adj_rib_out:
            self.adj_rib_out[peer][prefix] = attributes
            self.log.append(("announce", peer, prefix))

    def withdraw(self, peer: PeerKey, prefix: Prefix) -> None:
        """Take a prefix out of the Adj-RIB-Out of a peer."""
        if self.adj_rib_out.get(peer, {}).pop(prefix, None) is not None:
            self.log.append(("withdraw", peer, prefix))

    def end_of_rib(self, peer: PeerKey, family: Family) -> None:
        """Note an End-of-RIB."""
        if peer in self.adj_rib_out:
            self.ends_of_rib.append((peer, family))

    def refresh(self, peer: PeerKey, family: Family) -> None:
        """Note a request."""
        if peer in self.adj_rib_out:
            self.refreshes.append((peer, family))

    async def events(self) -> AsyncIterator[Event]:
        """Give what the test injected."""
        while True:
            yield await self._events.get()

    def health(self) -> SpeakerHealth:
        """Return a condition made of the attributes the test may set."""
        running = self.started and self.stopped is None
        return SpeakerHealth(running, 1 if running else None, self.restarts, self.last_error, self.out_of_sync, 0)

    async def stop(self, *, graceful: bool) -> None:
        """Stop."""
        self.stopped = graceful
        self.adj_rib_out.clear()

    # What the test does

    def bring_up(
        self,
        peer: PeerKey,
        *,
        families: frozenset[Family] | None = None,
        graceful_restart: GracefulRestartOffer | None = None,
    ) -> None:
        """Let a configured session reach Established."""
        session = self.sessions[peer]
        self.adj_rib_out[peer] = {}
        router_id = peer if isinstance(peer, IPv4Address) else IPv4Address(int.from_bytes(peer.packed[-4:]))
        negotiated = session.families if families is None else families
        self.hear(SessionUp(peer, negotiated, router_id, session.hold_time_s, graceful_restart))

    def take_down(
        self,
        peer: PeerKey,
        reason: str = "connection closed by the peer",
        *,
        notification: tuple[int, int] | None = None,
        sent: bool = False,
    ) -> None:
        """End an established session."""
        self.adj_rib_out.pop(peer, None)
        self.hear(SessionDown(peer, reason, notification, sent))

    def hear(self, *events: Event) -> None:
        """Inject events as they are."""
        for event in events:
            self._events.put_nowait(event)

    def hear_routes(self, peer: PeerKey, attributes: Attributes, *prefixes: str) -> None:
        """Let a peer announce prefixes and finish with End-of-RIB for their families."""
        parsed = tuple(Prefix.parse(text) for text in prefixes)
        self.hear(Update(peer, attributes, parsed))
        self.hear(*(EndOfRib(peer, family) for family in sorted({prefix.family for prefix in parsed})))

    def lose(self, reason: str = "ExaBGP killed by SIGKILL") -> None:
        """Let the speaker process die: every session is gone."""
        self.adj_rib_out.clear()
        self.restarts += 1
        self.hear(SpeakerLost(reason))
