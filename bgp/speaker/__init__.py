"""What speaks BGP on the wire, behind one Protocol: sessions in, announcements in, events out.

The rest of the code knows only this module. `bgp.speaker.exabgp` is the real speaker, `bgp.speaker.fake` the
one for tests. A speaker decides nothing: it keeps the sessions it was told to keep, sends what it was told to
send, and reports everything it hears, in order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Protocol, TypeAlias

from bgp.path import Attributes, PeerKey
from inet.prefix import Family, IPAddress, Prefix


class Secret:
    """A password that no log line, repr or JSON shows; `reveal` is for the one place that needs it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the password itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True)
class Session:
    """One BGP session as it should be. Two equal sessions are the same session: nothing is touched."""

    peer: PeerKey
    local_address: IPAddress
    local_asn: int
    peer_asn: int
    router_id: IPv4Address
    families: frozenset[Family]
    hold_time_s: int = 90
    keepalive_time_s: int = 30  # at most: never less than three within the negotiated hold time
    connect_retry_time_s: int = 10
    peer_port: int = 179
    listen_port: int | None = 179  # None: never accept, only connect
    password: Secret | None = field(default=None, repr=False)
    graceful_restart_time_s: int | None = 120  # None: the capability is not offered
    ttl: int | None = None  # of packets we send; None: 1 for eBGP, the system's for iBGP
    minimum_ttl: int | None = None  # of packets we take (GTSM, RFC 5082)
    interface: str | None = None  # of a link-local peer
    origin: str = ""  # the object that asked for it, for messages: BGPPeer/tor-1, mesh/n2

    @property
    def is_internal(self) -> bool:
        """Whether this is iBGP (RFC 4271 section 1.1)."""
        return self.local_asn == self.peer_asn


@dataclass(frozen=True, slots=True)
class GracefulRestartOffer:
    """What the peer's OPEN said about graceful restart (RFC 4724 section 3)."""

    restart_time_s: int
    restarted: bool  # Restart State bit
    forwarding: frozenset[Family]  # families with the Forwarding State bit
    families: frozenset[Family]  # families it can keep for us while we restart


@dataclass(frozen=True, slots=True)
class SessionUp:
    """The session reached Established."""

    peer: PeerKey
    families: frozenset[Family]  # negotiated
    router_id: IPv4Address
    hold_time_s: int
    graceful_restart: GracefulRestartOffer | None


@dataclass(frozen=True, slots=True)
class SessionDown:
    """An established session ended, or an attempt failed in a way worth showing.

    `notification` is (code, subcode) of a NOTIFICATION that either side sent (RFC 4271 section 4.5), None where
    the connection just ended; `sent` says it was ours. `was_established` is False for a failed attempt.
    """

    peer: PeerKey
    reason: str  # for people: "hold timer expired", "connection closed by the peer", ...
    notification: tuple[int, int] | None = None
    sent: bool = False
    was_established: bool = True


@dataclass(frozen=True, slots=True)
class Update:
    """Prefixes of one UPDATE. `attributes` is None where it only withdraws."""

    peer: PeerKey
    attributes: Attributes | None
    announced: tuple[Prefix, ...] = ()
    withdrawn: tuple[Prefix, ...] = ()


@dataclass(frozen=True, slots=True)
class EndOfRib:
    """The peer has sent all it had for a family (RFC 4724 section 2)."""

    peer: PeerKey
    family: Family


@dataclass(frozen=True, slots=True)
class SpeakerLost:
    """The speaker process ended or can no longer be trusted; every session is gone without a NOTIFICATION.

    It is being restarted. Sessions come back with SessionUp; announcements are sent again by the speaker's user.
    """

    reason: str


Event: TypeAlias = SessionUp | SessionDown | Update | EndOfRib | SpeakerLost


@dataclass(frozen=True, slots=True)
class SpeakerHealth:
    """What status and metrics show of the speaker itself."""

    running: bool
    pid: int | None
    restarts: int
    last_error: str  # "" when all is well
    sessions_out_of_sync: frozenset[PeerKey]  # configured but not (yet) taken over by the process
    pending_announcements: int
    refused: Mapping[PeerKey, str] = field(default_factory=dict)  # sessions it cannot have, and why


class Speaker(Protocol):
    """The wire. All methods are called on the event loop; only the coroutines wait."""

    async def start(self) -> None:
        """Start the process. Returns when it takes commands; raises SpeakerError when it cannot."""

    def configure(self, sessions: Mapping[PeerKey, Session]) -> None:
        """Say which sessions there should be, all of them. Returns at once; errors show in `health`.

        Sessions that did not change are not touched. A session that goes ends with a Cease (peer de-configured), so
        that a peer with graceful restart keeps nothing of ours; one that changed ends without, and comes back.
        """

    def announce(self, peer: PeerKey, prefix: Prefix, attributes: Attributes) -> None:
        """Put a path into the Adj-RIB-Out of an established peer. The last word about a prefix counts."""

    def withdraw(self, peer: PeerKey, prefix: Prefix) -> None:
        """Take a prefix out of the Adj-RIB-Out of a peer. Unknown prefixes are ignored."""

    def end_of_rib(self, peer: PeerKey, family: Family) -> None:
        """Send End-of-RIB once everything announced so far has been sent."""

    def refresh(self, peer: PeerKey, family: Family) -> None:
        """Ask an established peer to say everything of a family again (RFC 2918), where it can."""

    def events(self) -> AsyncIterator[Event]:
        """Everything heard, in order. One consumer; a slow one slows the speaker down, nothing is lost."""

    def health(self) -> SpeakerHealth:
        """Return the present condition of the speaker."""

    async def stop(self, *, graceful: bool) -> None:
        """End every session: with `graceful` silently, so that peers keep our routes, else with a Cease."""


class SpeakerError(Exception):
    """The speaker cannot run; the text says why and what to do."""
