"""The routers' daemons, behind one face: how each is configured, started, asked and told.

A `Speaker` is what to run, a value that `plan` makes. `Daemon` is one that runs (or will): BIRD, FRR and GoBGP
answer the same questions in the same words, so that a test is written once and parametrised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

from agent.lab.topology import Announcement, DaemonName
from inet.prefix import Family, IPAddress, Prefix


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A session as a speaker is configured for it."""

    name: str  # unique in the speaker, a symbol for BIRD: n1_eth0_ipv4
    machine: str
    interface: str
    local: IPAddress
    address: IPAddress
    asn: int | None  # None: any AS but our own
    families: tuple[Family, ...]
    next_hops: Mapping[Family, IPAddress]  # our own address on the link, for every family of the session


@dataclass(frozen=True, slots=True)
class Speaker:
    """A daemon's whole configuration, whatever its language."""

    machine: str
    daemon: DaemonName
    asn: int
    router_id: IPv4Address
    neighbours: tuple[Neighbour, ...]
    announce: tuple[Announcement, ...] = ()
    password: str | None = None
    passive: bool = False
    hold_time_s: int = 9
    restart_time_s: int | None = 120  # None: no graceful restart
    next_hop_self: bool = True
    is_node: bool = False  # no transit; takes its own AS once in a path: nodes of a rack share theirs
    session: str = ""
    config: str = ""


@dataclass(frozen=True, slots=True)
class Program:
    """A process of a daemon. It is up when it listens on the unix socket `ready`, where it has one.

    One that `greets` listens before it has read its configuration, and says a line to whoever calls when it has.
    """

    name: str
    argv: tuple[str, ...]
    ready: Path | None
    greets: bool = False


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session as its speaker sees it. `received` and `sent` count prefixes; a session that is down has none."""

    peer: IPAddress
    state: str  # Idle, Connect, Active, OpenSent, OpenConfirm, Established
    peer_asn: int | None
    received: Mapping[Family, int]
    sent: Mapping[Family, int]
    last_error: str

    @property
    def is_established(self) -> bool:
        """Whether routes are exchanged."""
        return self.state == "Established"


@dataclass(frozen=True, slots=True)
class RouteView:
    """A path as a speaker has it in its RIB. An own prefix has no `peer` and no next hop."""

    prefix: Prefix
    peer: IPAddress | None
    next_hop: IPAddress | None
    as_path: tuple[int, ...]
    best: bool
    med: int | None = None
    local_pref: int | None = None
    communities: tuple[str, ...] = ()


class Daemon(Protocol):
    """A router's daemon in its namespace. The coroutines need it running; they raise DaemonError."""

    def render(self, announced: Sequence[Announcement], /) -> Mapping[str, str]:
        """Return its configuration files: name → text."""

    def programs(self, *, recover: bool) -> Sequence[Program]:
        """Return its processes in the order of their start. `recover`: as after a crash, by graceful restart."""

    async def started(self, announced: Sequence[Announcement], /) -> None:
        """Do what can only be done once it runs."""

    async def announce(self, new: Announcement, /) -> None:
        """Originate a prefix, which its files name already."""

    async def withdraw(self, prefix: Prefix, /) -> None:
        """Cease to originate a prefix, which its files no longer name."""

    async def disable(self, neighbour: Neighbour) -> None:
        """Shut a session down by administration."""

    async def enable(self, neighbour: Neighbour) -> None:
        """Undo `disable`."""

    async def sessions(self) -> Mapping[IPAddress, SessionView]:
        """Return every session by its peer's address."""

    async def routes(self) -> Sequence[RouteView]:
        """Return every path of both families."""

    async def ask(self, *words: str) -> str:
        """Say something to its own client (birdc, vtysh -c, gobgp) and return the answer."""


class DaemonError(Exception):
    """A daemon did not do what it was told; the text is its own."""
