"""What the operator asked for, as plain values: checked, defaults filled in, selectors already resolved.

The agent makes these from Kubernetes objects or manifests; `bgp.peering` and `bgp.advertisement` read them. All
are frozen, so that two configurations can be compared and an unchanged session recognised.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from bgp.import_rules import PrefixRange
from bgp.speaker import Secret
from inet.prefix import Family, IPAddress, Prefix, family_of


class NextHopMode(enum.Enum):
    """Which NEXT_HOP is sent (RFC 4271 section 5.1.3)."""

    AUTO = "Auto"  # ourselves over eBGP and for what we originate; as learned over iBGP
    SELF = "Self"
    UNCHANGED = "Unchanged"


class RelativeAsn(enum.Enum):
    """A peer's AS said by comparison with our own."""

    INTERNAL = "Internal"
    EXTERNAL = "External"


class NodeRoutes(enum.Enum):
    """How a node learns the way to the pods of the others."""

    BGP = "BGP"
    DIRECT = "Direct"


class EncapsulationMode(enum.Enum):
    """When packets to another node's pods travel in a tunnel."""

    NEVER = "Never"
    FALLBACK = "Fallback"
    ALWAYS = "Always"


class TunnelType(enum.Enum):
    """What a tunnel is made of."""

    VXLAN = "VXLAN"
    IPIP = "IPIP"


@dataclass(frozen=True, slots=True)
class Encapsulation:
    """What is wished for the packets to and from a node. Of two wishes as strict the lower `rank` counts."""

    mode: EncapsulationMode = EncapsulationMode.NEVER
    type: TunnelType = TunnelType.VXLAN
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    """A node, as its Node object and the profiles that select it make it."""

    name: str
    addresses: tuple[IPAddress, ...]  # InternalIPs
    pod_cidrs: tuple[Prefix, ...]
    asn: int
    router_id: IPv4Address | None = None  # None: the first IPv4 address
    is_transit: bool = False  # passes on what it learns
    drain_wait_s: float | None = None  # to be drained, and how long to wait before withdrawing; None: in service
    created: str = ""  # creationTimestamp, RFC 3339; "" sorts first

    def address(self, family: Family) -> IPAddress | None:
        """Return the node's address of a family."""
        return next((address for address in self.addresses if family_of(address) is family), None)

    @property
    def families(self) -> frozenset[Family]:
        """Families the node has pod CIDRs of."""
        return frozenset(prefix.family for prefix in self.pod_cidrs)


@dataclass(frozen=True, slots=True)
class Timers:
    """Session timers in seconds (RFC 4271 section 10)."""

    hold_time_s: int = 90
    keepalive_time_s: int = 30
    connect_retry_time_s: int = 10


@dataclass(frozen=True, slots=True)
class SecretKey:
    """Where a password is."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class Peering:
    """One BGPPeer object."""

    name: str
    nodes: frozenset[str]  # nodes that have this peering
    address: IPAddress | None = None  # either this,
    peer_nodes: frozenset[str] = frozenset()  # or these
    asn: int | RelativeAsn | None = None  # None: internal by address, the node's own AS by node
    port: int | None = None
    password: SecretKey | None = None
    timers: Timers | None = None
    ttl_security_hops: int | None = None
    multihop_ttl: int | None = None
    source_address: IPAddress | None = None
    families: frozenset[Family] | None = None  # None: those the node has
    next_hop: NextHopMode = NextHopMode.AUTO
    allow_own_asn: int = 0
    accept: tuple[PrefixRange, ...] = ()
    max_prefixes: int | None = None
    shutdown: str | None = None  # a message: administratively down
    created: str = ""

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"BGPPeer/{self.name}"


@dataclass(frozen=True, slots=True)
class BgpConfig:
    """Everything that decides a node's sessions and announcements."""

    nodes: Mapping[str, Node] = field(default_factory=dict)
    peerings: tuple[Peering, ...] = ()
    mesh_enabled: bool = True
    mesh_password: SecretKey | None = None
    timers: Timers = Timers()
    listen_port: int = 179
    graceful_restart_time_s: int | None = 120
    max_paths: int = 64
    resilient_multipath: bool = False  # whether flows stay on their path when another one comes back
    accept: tuple[PrefixRange, ...] = ()
    max_prefixes: int = 10000
    pod_cidrs: tuple[Prefix, ...] | None = None  # None: what the nodes' pod CIDRs add up to
    service_cidrs: tuple[Prefix, ...] = ()
    secrets: Mapping[SecretKey, Secret] = field(default_factory=dict)
    secret_names: frozenset[str] = frozenset()  # Secrets that exist, for a better message
    unreadable_secrets: Mapping[str, str] = field(default_factory=dict)  # by name, why they are not shown to us
    node_routes: NodeRoutes = NodeRoutes.BGP
    encapsulation: Encapsulation = Encapsulation()
    encapsulation_overrides: Mapping[tuple[str, Family], Encapsulation] = field(default_factory=dict)  # by node
    vxlan_vni: int = 4096
    vxlan_port: int = 4789

    def encapsulation_of(self, node: str, family: Family) -> Encapsulation:
        """Return what is wished for a node's packets of a family."""
        return self.encapsulation_overrides.get((node, family), self.encapsulation)
