"""ExaBGP's JSON lines, read into the speaker's events.

One line in; a tuple of events, a command's answer, or nothing out. What cannot be read raises `DesyncError`: the
stream can no longer be trusted and the speaker starts ExaBGP anew.

The cost is per line and per prefix, so attributes are interned: prefixes that share attributes, in one UPDATE or
in many, share one `Attributes` object.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, TypeAlias

from bgp.path import AsPath, Attributes, Origin, PeerKey
from bgp.speaker import EndOfRib, Event, GracefulRestartOffer, Session, SessionDown, SessionUp, Update
from bgp.speaker.exabgp.reasons import ending
from inet.prefix import Family, IPAddress, Prefix

_FAMILIES: Final = {
    "ipv4 unicast": Family.IPV4,
    "ipv6 unicast": Family.IPV6,
    "ipv4/unicast": Family.IPV4,
    "ipv6/unicast": Family.IPV6,
}
_ORIGINS: Final = {"igp": Origin.IGP, "egp": Origin.EGP, "incomplete": Origin.INCOMPLETE}
_INTERNED_MAX: Final = 4096

_CAPABILITY_MULTIPROTOCOL: Final = "1"
_CAPABILITY_GRACEFUL_RESTART: Final = "64"


class DesyncError(Exception):
    """A line that is not what ExaBGP writes. What was lost with it is unknown."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A line that answers a command: `done`, `error`, or what the command shows."""

    text: str


Line: TypeAlias = tuple[Event, ...] | Answer


class Decoder:
    """Reads lines. Keeps what the peers' OPENs said, and the attributes seen lately."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, str], Session] = {}
        self._opens: dict[PeerKey, Mapping[str, Any]] = {}
        self._established: set[PeerKey] = set()
        self._interned: dict[Attributes, Attributes] = {}

    def know(self, sessions: Iterable[Session]) -> None:
        """Say which sessions lines may speak of. Those known before stay known: ExaBGP may still speak of them."""
        for session in sessions:
            self._sessions[_ends(session)] = session

    def know_only(self, sessions: Iterable[Session]) -> None:
        """Say that ExaBGP has these sessions and no others, and will not speak of others any more."""
        self._sessions.clear()
        self.know(sessions)

    def forget_state(self) -> None:
        """ExaBGP was started anew: no session is up."""
        self._opens.clear()
        self._established.clear()

    def decode(self, line: bytes) -> Line:
        """Read one line, without its newline."""
        if not line.startswith(b'{ "exabgp"'):
            return Answer(line.decode("ascii", "replace"))
        try:
            message = json.loads(line)
            return self._event(message)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise DesyncError(f"cannot read {line[:200]!r}: {error!r}") from error

    def _event(self, message: Mapping[str, Any]) -> tuple[Event, ...]:
        kind = message["type"]
        if "neighbor" not in message:
            return ()  # ExaBGP says goodbye: it ends, and its process says so
        neighbour = message["neighbor"]
        address = neighbour["address"]
        session = self._sessions.get((address["local"], address["peer"]))
        if session is None:
            raise KeyError(f"no session with {address['peer']} from {address['local']}")
        if kind == "update":
            return self._update(session, neighbour["message"])
        if kind == "state":
            return self._state(session, neighbour)
        if kind == "open":
            self._opens[session.peer] = neighbour["open"]
        return ()

    def _state(self, session: Session, neighbour: Mapping[str, Any]) -> tuple[Event, ...]:
        peer = session.peer
        if neighbour["state"] == "up":
            self._established.add(peer)
            return (_session_up(session, self._opens[peer]),)
        if neighbour["state"] == "down":
            was_established = peer in self._established
            self._established.discard(peer)
            end = ending(neighbour["reason"])
            if end.is_collision and not was_established:
                return ()
            return (SessionDown(peer, end.reason, end.notification, end.sent, was_established),)
        return ()

    def _update(self, session: Session, message: Mapping[str, Any]) -> tuple[Event, ...]:
        if "eor" in message:
            family = _FAMILIES.get(f"{message['eor']['afi']} {message['eor']['safi']}")
            return (EndOfRib(session.peer, family),) if family is not None else ()
        update = message["update"]
        withdrawn = tuple(
            _prefix(text)
            for words, prefixes in update.get("withdraw", {}).items()
            if words in _FAMILIES
            for text in prefixes
        )
        events: list[Event] = [Update(session.peer, None, (), withdrawn)] if withdrawn else []
        for words, by_next_hop in update.get("announce", {}).items():
            if words in _FAMILIES:
                for next_hop, prefixes in _next_hops(by_next_hop):
                    attributes = self._attributes(update.get("attribute", {}), next_hop, session)
                    events.append(Update(session.peer, attributes, prefixes))
        return tuple(events)

    def _attributes(self, said: Mapping[str, Any], next_hop: IPAddress, session: Session) -> Attributes:
        attributes = Attributes(
            next_hop=next_hop,
            as_path=_as_path(said.get("as-path", {})),
            origin=_ORIGINS[said.get("origin", "incomplete")],
            med=said.get("med"),
            local_pref=said.get("local-preference"),
            communities=tuple((high, low) for high, low in said.get("community", ())),
            large_communities=tuple((a, b, c) for a, b, c in said.get("large-community", ())),
            originator_id=IPv4Address(said["originator-id"]) if "originator-id" in said else None,
            cluster_list=tuple(IPv4Address(text) for text in said.get("cluster-list", ())),
            atomic_aggregate="atomic-aggregate" in said,
            next_hop_interface=session.interface if next_hop.is_link_local else None,
        )
        if len(self._interned) >= _INTERNED_MAX:
            self._interned.clear()  # whoever holds attributes keeps theirs; only sharing begins anew
        return self._interned.setdefault(attributes, attributes)


def _session_up(session: Session, opened: Mapping[str, Any]) -> SessionUp:
    capabilities = opened["capabilities"]
    offered = capabilities.get(_CAPABILITY_MULTIPROTOCOL, {}).get("families", ())
    families = frozenset(_FAMILIES[words] for words in offered if words in _FAMILIES)
    return SessionUp(
        session.peer,
        families & session.families,
        IPv4Address(opened["router_id"]),
        min(opened["hold_time"], session.hold_time_s),
        _graceful_restart(capabilities.get(_CAPABILITY_GRACEFUL_RESTART)),
    )


def _graceful_restart(said: Mapping[str, Any] | None) -> GracefulRestartOffer | None:
    if said is None:
        return None
    flags = {_FAMILIES[words]: bits for words, bits in said["address-family-flags"].items() if words in _FAMILIES}
    return GracefulRestartOffer(
        restart_time_s=said["time"],
        restarted="forwarding" in said["restart-flags"],  # ExaBGP's name for the Restart State bit
        forwarding=frozenset(family for family, bits in flags.items() if bits),
        families=frozenset(flags),
    )


def _as_path(said: Mapping[str, Any]) -> AsPath:
    sequence: list[int] = []
    aggregated: set[int] = set()
    for segment in said.values():
        if segment["element"] == "as-set":
            aggregated.update(segment["value"])
        else:
            sequence += segment["value"]
    return AsPath(tuple(sequence), frozenset(aggregated))


def _next_hops(by_next_hop: Mapping[str, list[str]]) -> Iterable[tuple[IPAddress, tuple[Prefix, ...]]]:
    """Sort out the next hops of one family.

    An IPv6 next hop may be a pair of a global and a link-local address (RFC 2545 section 3), which ExaBGP shows
    as two next hops of the same prefixes, the global one as `::` where there is none. A prefix has one next hop:
    the global one, or the link-local one where that is all there is.
    """
    if len(by_next_hop) == 1:
        [(text, prefixes)] = by_next_hop.items()
        return ((ip_address(text), tuple(map(_prefix, prefixes))),)
    found: list[tuple[IPAddress, tuple[Prefix, ...]]] = []
    seen: set[str] = set()
    for text in sorted(by_next_hop, key=_next_hop_rank):
        fresh = [prefix for prefix in by_next_hop[text] if prefix not in seen]
        seen.update(fresh)
        if fresh:
            found.append((ip_address(text), tuple(map(_prefix, fresh))))
    return found


def _next_hop_rank(text: str) -> int:
    address = ip_address(text)
    if address.is_unspecified:
        return 2
    return 1 if isinstance(address, IPv6Address) and address.is_link_local else 0


def _prefix(text: str) -> Prefix:
    address, _, length_text = text.partition("/")
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    length = int(length_text)
    free = len(packed) * 8 - length
    if length < 0 or free < 0:
        raise ValueError(f"{text!r} is not a prefix")
    if length & 7:
        # RFC 4271 section 4.3: the value of bits behind the prefix is irrelevant.
        packed = (int.from_bytes(packed) >> free << free).to_bytes(len(packed))
    return Prefix(packed, length)


def _ends(session: Session) -> tuple[str, str]:
    return str(session.local_address).partition("%")[0], str(session.peer).partition("%")[0]
