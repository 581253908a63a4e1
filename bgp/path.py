"""Paths and their attributes (RFC 4271 section 5), as the decision process wants them.

`Attributes` are what one UPDATE says about all of its prefixes: frozen, hashable, shared by every path that
came with them. A `Path` is one peer's word about one prefix.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, TypeAlias

from inet.prefix import IPAddress

PeerKey: TypeAlias = IPAddress
"""A session is named by its peer's address; a link-local one carries its interface as scope id."""


class Origin(enum.IntEnum):
    """ORIGIN, in order of preference (RFC 4271 section 5.1.1)."""

    IGP = 0
    EGP = 1
    INCOMPLETE = 2


@dataclass(frozen=True, slots=True)
class AsPath:
    """AS_PATH (RFC 4271 section 5.1.2): `sequence` then, rarely, an unordered `aggregated` AS_SET.

    Confederation segments (RFC 5065) are not expected from the peers a node has and are dropped on input.
    """

    sequence: tuple[int, ...] = ()
    aggregated: frozenset[int] = frozenset()

    @property
    def length(self) -> int:
        """Hops; an AS_SET counts as one, however many it holds (RFC 4271 section 9.1.2.2 a)."""
        return len(self.sequence) + bool(self.aggregated)

    @property
    def neighbour(self) -> int | None:
        """The AS it was heard from, or None for a path born inside our own AS (RFC 4271 section 9.1.2.2 c)."""
        return self.sequence[0] if self.sequence else None

    @property
    def origin(self) -> int | None:
        """The AS where the path begins: the last of the sequence."""
        return self.sequence[-1] if self.sequence else None

    def count(self, asn: int) -> int:
        """How often an AS stands in the path (loop check, RFC 4271 section 9.1.2)."""
        return self.sequence.count(asn) + (asn in self.aggregated)

    def prepend(self, asn: int, times: int = 1) -> AsPath:
        """Return the path as it leaves `asn` (RFC 4271 section 5.1.2)."""
        return AsPath((asn,) * times + self.sequence, self.aggregated)

    def __str__(self) -> str:
        text = " ".join(map(str, self.sequence))
        if self.aggregated:
            text += " {" + ",".join(map(str, sorted(self.aggregated))) + "}"
        return text.strip()


@dataclass(frozen=True, slots=True)
class Attributes:
    """Path attributes of one UPDATE. `local_pref` is None where the peer sent none (eBGP)."""

    next_hop: IPAddress
    as_path: AsPath = AsPath()
    origin: Origin = Origin.IGP
    med: int | None = None
    local_pref: int | None = None
    communities: tuple[tuple[int, int], ...] = ()
    large_communities: tuple[tuple[int, int, int], ...] = ()
    originator_id: IPv4Address | None = None
    cluster_list: tuple[IPv4Address, ...] = ()
    atomic_aggregate: bool = False
    next_hop_interface: str | None = None  # of a link-local next hop: the session's interface


@dataclass(frozen=True, slots=True)
class Source:
    """The peer a path was heard from, as far as the decision process asks."""

    peer: PeerKey
    asn: int
    is_internal: bool
    router_id: IPv4Address  # BGP Identifier of its OPEN

    @property
    def order(self) -> tuple[int, int, str]:
        """A total order over peers: family, address, interface of a link-local one (RFC 4271 section 9.1.2.2 g)."""
        scope = self.peer.scope_id if isinstance(self.peer, IPv6Address) else None
        return (self.peer.version, int(self.peer), scope or "")


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Path:
    """One peer's word, shared by all prefixes it sent with the same attributes; compared by identity."""

    source: Source
    attributes: Attributes
    local_pref: int  # in force: as received over iBGP, by policy over eBGP (RFC 4271 section 5.1.5)

    @property
    def next_hop(self) -> NextHopKey:
        """What has to be resolved for this path to be usable."""
        return NextHopKey(self.attributes.next_hop, self.attributes.next_hop_interface)


class NextHopKey(NamedTuple):
    """A BGP next hop; a link-local one needs the interface it was heard on."""

    address: IPAddress
    interface: str | None = None

    def __str__(self) -> str:
        return f"{self.address}%{self.interface}" if self.interface else str(self.address)
