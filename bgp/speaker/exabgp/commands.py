"""The Adj-RIB-Out of every peer (RFC 4271 section 3.2) as commands for ExaBGP. No I/O, no clock.

In go the user's announcements and withdrawals and the answers to commands; out come batches of commands. Three
rules make the end state right whatever the order of events:

- One batch is in flight at a time, with at most one command for a prefix. Answers (`done`, `error`) carry no
  reference and need not be in order, so they are only counted: with the last one, the batch is known to be over.
- What changes meanwhile is coalesced: the next batch holds the difference between what is wanted then and what
  ExaBGP was told, whatever happened in between.
- A batch with an error in it is sent again command by command, until the one that ExaBGP refuses stands alone.

ExaBGP forgets its Adj-RIB-Out with each session (server.py), so that a session begins with nothing told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from bgp.path import Attributes, PeerKey
from inet.prefix import Family, IPAddress, Prefix

WINDOW: Final = 200
"""Prefixes in flight at most: ExaBGP walks its whole queue again for every command in it."""


@dataclass(frozen=True, slots=True)
class _Unknown:
    """What ExaBGP holds for a prefix cannot be known: a command was under way while the session ended."""


_UNKNOWN: Final = _Unknown()
_Told: TypeAlias = Attributes | _Unknown


@dataclass(frozen=True, slots=True)
class Signal:
    """What is told once, in its turn: `eor` (RFC 4724) or `route-refresh` (RFC 2918) of a family."""

    word: str
    family: Family


_Entry: TypeAlias = Prefix | Signal


@dataclass(frozen=True, slots=True)
class Command:
    """One line for ExaBGP, and what it will have been told with it: `attributes` of None withdraws."""

    line: str
    peer: PeerKey
    attributes: Attributes | None
    entries: tuple[_Entry, ...]


@dataclass(slots=True)
class _Peer:
    """One established session. `queue` holds, in order and once each, what is not told yet."""

    selector: str
    wanted: dict[Prefix, Attributes] = field(default_factory=dict)
    told: dict[Prefix, _Told] = field(default_factory=dict)
    queue: dict[_Entry, None] = field(default_factory=dict)


class AdjRibOut:
    """What the peers should know, against what one ExaBGP process was told."""

    def __init__(self) -> None:
        self._peers: dict[PeerKey, _Peer] = {}
        self._flying: tuple[Command, ...] = ()
        self._flying_peers: dict[PeerKey, _Peer] = {}
        self._flying_entries: set[tuple[PeerKey, _Entry]] = set()
        self._answers_missing = 0
        self._errors = 0
        self._alone: list[tuple[PeerKey, _Entry]] = []  # to be sent one by one, after an error
        self.refused: dict[tuple[PeerKey, _Entry], str] = {}

    @property
    def pending(self) -> int:
        """How many changes ExaBGP has not acknowledged yet."""
        return sum(len(peer.queue) for peer in self._peers.values()) + sum(
            len(command.entries) for command in self._flying
        )

    def session_up(self, peer: PeerKey, local_address: IPAddress) -> None:
        """Begin the Adj-RIB-Out of a session, empty."""
        remote, local = (str(address).partition("%")[0] for address in (peer, local_address))
        made = _Peer(f"neighbor {remote} local-ip {local}")
        for command in self._flying:
            if command.peer == peer:  # sent in the session before: it may arrive in this one
                made.told.update((entry, _UNKNOWN) for entry in command.entries if isinstance(entry, Prefix))
        made.queue.update(dict.fromkeys(made.told))
        self._peers[peer] = made

    def session_down(self, peer: PeerKey) -> None:
        """Forget what a peer was told and should be told."""
        self._peers.pop(peer, None)
        self._alone = [(other, entry) for other, entry in self._alone if other != peer]
        self.refused = {key: line for key, line in self.refused.items() if key[0] != peer}

    def announce(self, peer: PeerKey, prefix: Prefix, attributes: Attributes) -> None:
        """Want a path told. Nothing happens for a peer whose session is not up."""
        state = self._peers.get(peer)
        if state is not None and state.wanted.get(prefix) != attributes:
            state.wanted[prefix] = attributes
            self._requeue(peer, state, prefix)

    def withdraw(self, peer: PeerKey, prefix: Prefix) -> None:
        """Want a prefix told no more. Nothing happens where it was not wanted."""
        state = self._peers.get(peer)
        if state is not None and state.wanted.pop(prefix, None) is not None:
            self._requeue(peer, state, prefix)

    def end_of_rib(self, peer: PeerKey, family: Family) -> None:
        """Want End-of-RIB told, after everything wanted so far."""
        self._signal(peer, Signal("eor", family))

    def refresh(self, peer: PeerKey, family: Family) -> None:
        """Want the peer asked to say everything of a family again."""
        self._signal(peer, Signal("route-refresh", family))

    def _signal(self, peer: PeerKey, signal: Signal) -> None:
        state = self._peers.get(peer)
        if state is not None:
            state.queue.pop(signal, None)
            state.queue[signal] = None

    def next_batch(self) -> tuple[Command, ...]:
        """Return the commands to send now; none while a batch is in flight or nothing is to be told."""
        if self._flying:
            return ()
        commands = self._next_alone() or tuple(self._collect())
        self._flying = commands
        self._flying_peers = {command.peer: self._peers[command.peer] for command in commands}
        self._flying_entries = {(command.peer, entry) for command in commands for entry in command.entries}
        self._answers_missing = len(commands)
        self._errors = 0
        return commands

    def answered(self, *, error: bool) -> None:
        """Take one answer to the batch in flight."""
        self._errors += error
        self._answers_missing -= 1
        if self._answers_missing == 0:
            self._land()

    def _requeue(self, peer: PeerKey, state: _Peer, prefix: Prefix) -> None:
        self.refused.pop((peer, prefix), None)
        # What a flying prefix came to is compared when the batch lands; it keeps its place before an End-of-RIB.
        if (peer, prefix) in self._flying_entries or state.told.get(prefix) != state.wanted.get(prefix):
            state.queue.setdefault(prefix)
        else:
            state.queue.pop(prefix, None)

    def _collect(self) -> Iterator[Command]:
        room = WINDOW
        for peer, state in self._peers.items():
            taken: list[Prefix] = []
            for entry in tuple(state.queue):
                if room == 0:
                    break
                if isinstance(entry, Signal):
                    if taken:
                        break  # it waits until what is before it is acknowledged
                    yield self._signal_command(peer, state, entry)
                else:
                    taken.append(entry)
                    room -= 1
                del state.queue[entry]
            yield from self._routes(peer, state, taken)

    def _next_alone(self) -> tuple[Command, ...]:
        while self._alone:
            peer, entry = self._alone.pop(0)
            state = self._peers[peer]
            if entry in state.queue:
                del state.queue[entry]
                if isinstance(entry, Signal):
                    return (self._signal_command(peer, state, entry),)
                return tuple(self._routes(peer, state, [entry]))
        return ()

    @staticmethod
    def _signal_command(peer: PeerKey, state: _Peer, signal: Signal) -> Command:
        words = "ipv4 unicast" if signal.family is Family.IPV4 else "ipv6 unicast"
        return Command(f"{state.selector} announce {signal.word} {words}", peer, None, (signal,))

    @staticmethod
    def _routes(peer: PeerKey, state: _Peer, prefixes: list[Prefix]) -> Iterator[Command]:
        """Give the commands that tell what is wanted of `prefixes`; those with equal attributes share one."""
        groups: dict[tuple[Family, Attributes], list[Prefix]] = {}
        for prefix in prefixes:
            attributes = state.wanted.get(prefix)
            if attributes is None:
                yield Command(f"{state.selector} withdraw route {prefix}", peer, None, (prefix,))
            else:
                groups.setdefault((prefix.family, attributes), []).append(prefix)
        for (_, attributes), group in groups.items():
            line = f"{state.selector} announce attributes {words_of(attributes)} nlri {' '.join(map(str, group))}"
            yield Command(line, peer, attributes, tuple(group))

    def _land(self) -> None:
        commands, self._flying = self._flying, ()
        self._flying_entries = set()
        failed = self._errors > 0
        alone = len(commands) == 1 and len(commands[0].entries) == 1
        for command in commands:
            state = self._peers.get(command.peer)
            if state is None or state is not self._flying_peers[command.peer]:
                continue
            for entry in command.entries:
                if failed and not alone:
                    state.queue.setdefault(entry)
                    self._alone.append((command.peer, entry))
                elif failed:
                    if entry not in state.queue:
                        self.refused[command.peer, entry] = command.line
                elif isinstance(entry, Prefix):
                    self._told(state, entry, command.attributes)

    @staticmethod
    def _told(state: _Peer, prefix: Prefix, attributes: Attributes | None) -> None:
        if attributes is None:
            state.told.pop(prefix, None)
        else:
            state.told[prefix] = attributes
        if state.wanted.get(prefix) == attributes:
            state.queue.pop(prefix, None)
        else:
            state.queue.setdefault(prefix)


def words_of(attributes: Attributes) -> str:
    """Return attributes as ExaBGP reads them. An empty AS_PATH is left out: ExaBGP has its own."""
    words = [f"next-hop {attributes.next_hop}", f"origin {attributes.origin.name.lower()}"]
    path = attributes.as_path
    if path.length:
        segments = f"[ {' '.join(map(str, path.sequence))} ]" if path.sequence else ""
        if path.aggregated:
            segments += f" ( {' '.join(map(str, sorted(path.aggregated)))} )"
        words.append(f"as-path {segments.strip()}")
    if attributes.med is not None:
        words.append(f"med {attributes.med}")
    if attributes.local_pref is not None:
        words.append(f"local-preference {attributes.local_pref}")
    if attributes.atomic_aggregate:
        words.append("atomic-aggregate")
    if attributes.communities:
        words.append(f"community [ {' '.join(f'{high}:{low}' for high, low in attributes.communities)} ]")
    if attributes.large_communities:
        words.append(f"large-community [ {' '.join(f'{a}:{b}:{c}' for a, b, c in attributes.large_communities)} ]")
    if attributes.originator_id is not None:
        words.append(f"originator-id {attributes.originator_id}")
    if attributes.cluster_list:
        words.append(f"cluster-list [ {' '.join(map(str, attributes.cluster_list))} ]")
    return " ".join(words)
