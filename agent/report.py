"""What the agent tells about itself, as JSON has it: the shapes behind every `-o json` and behind the tables.

Structs are written by the agent and read by the command line; both sides share these definitions. Field names
are camelCase on the wire. Times are RFC 3339 in UTC, durations seconds.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec


class FamilyCounts(msgspec.Struct, rename="camel", frozen=True):
    """Prefixes of one family of a session. `discarded` were more than the maximum."""

    family: str
    received: int
    accepted: int
    refused: int
    stale: int
    discarded: int
    announced: int


class PeerReport(msgspec.Struct, rename="camel", frozen=True):
    """One session."""

    node: str
    peer: str
    origin: str  # the object it comes from: BGPPeer/tor-1, mesh/n2
    local_asn: int = msgspec.field(name="localASN")
    peer_asn: int = msgspec.field(name="peerASN")
    state: str
    since: str
    uptime_seconds: float | None  # None while not established
    reason: str  # why it is not established; "" when it is
    last_error: str
    flaps: int
    router_id: str = msgspec.field(name="routerID")  # the peer's; "" while not established
    families: list[FamilyCounts]


class AvailableRoute(msgspec.Struct, rename="camel", frozen=True):
    """One path of a prefix, as one peer sent it."""

    prefix: str
    peer: str
    origin: str
    next_hop: str
    as_path: list[int]
    local_preference: int
    med: int | None
    communities: list[str]
    used: bool
    stale: bool
    note: str


class AdvertisedRoute(msgspec.Struct, rename="camel", frozen=True):
    """One prefix as it is announced to one peer."""

    prefix: str
    peer: str
    origin: str
    next_hop: str
    as_path: list[int]
    local_preference: int | None
    med: int | None
    communities: list[str]


class CarriedReport(msgspec.Struct, rename="camel", frozen=True):
    """How packets travel to a destination, and why so. What is about a tunnel is empty where there is none."""

    how: str  # direct, tunnel
    type: str = ""  # VXLAN, IPIP
    device: str = ""
    node: str = ""  # at the far end
    remote: str = ""  # its address: the outer destination
    vni: int | None = None
    why: str = ""


class TunnelReport(msgspec.Struct, rename="camel", frozen=True):
    """Tunnels between this node and others."""

    devices: list[str] = []
    peers: int = 0  # addresses from which packets in tunnels are taken
    destinations: int = 0  # pod CIDRs that are reached through a tunnel now
    overhead: dict[str, int] = {}  # family -> bytes that a tunnel adds at most
    repaired: int = 0  # how often a device was found changed by others
    problems: list[str] = []  # why a device is not there
    vnis: list[int] = []  # that packets in VXLAN may bear


class InstalledRoute(msgspec.Struct, rename="camel", frozen=True):
    """One route as it should be in the kernel, and whether it is."""

    prefix: str
    via: list[str]  # "172.16.1.1 eth0", or "blackhole"
    origin: str
    state: str  # in kernel, pending, refused: why, shadowed by static (metric 100)
    age_seconds: float | None
    carried: CarriedReport | None = None  # None: a blackhole


class RouteExplanation(msgspec.Struct, rename="camel", frozen=True):
    """Everything known of one prefix: every path with what became of it, the route, who is told."""

    prefix: str
    paths: list[AvailableRoute]
    route: InstalledRoute | None
    advertised_to: list[str]
    note: str  # what a person should know besides: no path at all, covered by another prefix


class ConditionReport(msgspec.Struct, rename="camel", frozen=True):
    """A condition as Kubernetes has them."""

    type: str
    status: str  # True, False
    reason: str
    message: str


class PolicyReport(msgspec.Struct, rename="camel", frozen=True):
    """Policy on one node."""

    wanted: bool  # there are pods or policies to enforce
    in_kernel: bool
    error: str  # why it is not in the kernel; "" when it is, or is not wanted
    policies: int  # in the cluster
    pods: int  # of this node, with policy in force
    unlinked: int  # addresses of such pods to which no link leads
    chains: int
    sets: int
    repaired: int  # how often the table was found changed by others
    connections_cut: int


class DropReport(msgspec.Struct, rename="camel", frozen=True):
    """Packets that were dropped, as far as they are alike. Names are namespace/pod, a node, or an address."""

    time: str
    node: str
    source: str
    source_address: str
    destination: str
    destination_address: str
    protocol: str
    port: int | None  # None: the protocol has none
    reason: str  # policy; or spoofed, foreign, unprogrammed, nobody: no policy's doing
    direction: str  # of what policy denies: egress, ingress or node
    policy: str  # the policies, where no rule of any matched
    rule: str
    interface: str  # the link it came by
    count: int


class DrainReport(msgspec.Struct, rename="camel", frozen=True):
    """Whether the node is being taken out of the way of traffic, or is out of it."""

    state: str = ""  # Draining: announced as the last choice; Drained: withdrawn; "": in service
    by: list[str] = []  # command, taint
    reason: str = ""
    since: str = ""
    withdraw_at: str = ""


class NetworkReport(msgspec.Struct, rename="camel", frozen=True):
    """What pods are carried with, on one node. Sizes are bytes."""

    mtu: int | None = None  # of pods; None: not known yet
    uplinks: dict[str, int] = {}  # name -> the largest packet it takes
    tunnel_overhead: int = 0
    tunnel_checksums: str = ""  # whether what is left to network cards arrives whole: works, broken, not known
    mtu_corrected: int = 0  # ends of pods' links that were given another MTU
    mtu_uncorrected: list[str] = []  # links of pods that need a restart
    nat_sources: list[str] = []  # pod CIDRs that outgoing NAT is for; none: it is off
    nat_opted_out: int = 0  # addresses of pods
    nat_learned: int = 0  # destinations exempt because they are learned
    sysctls_repaired: int = 0  # kernel settings that somebody changed, and that were put right
    sysctls_failed: dict[str, str] = {}  # name -> why it is not as it should be
    connections: int | None = None  # tracked by the kernel; None: nothing tracks them
    connections_limit: int | None = None
    connections_dropped: int = 0  # packets, because there was no room for another connection


class CniReport(msgspec.Struct, rename="camel", frozen=True):
    """What the container runtime has of us, on one node."""

    conflist: str = ""  # the file; empty: no runtime is served
    pods: int = 0  # interfaces of pods that it wired
    leaked: int = 0  # addresses freed that sandboxes which are gone had left taken
    hindrance: str = ""  # why no pod can be wired


class StatusReport(msgspec.Struct, rename="camel", frozen=True):
    """One node in short."""

    node: str
    version: str
    ready: bool
    local_asn: int | None = msgspec.field(name="localASN")
    router_id: str = msgspec.field(name="routerID")
    pod_cidrs: list[str] = msgspec.field(name="podCIDRs")
    sessions_established: int
    sessions_configured: int
    sessions_pending: int  # not yet taken over by the speaker as they are configured
    routes_installed: int
    routes_pending: int
    routes_refused: int
    kernel_writes: int  # changes of routes and groups given to the kernel
    kernel_refusals: int
    routes_repaired: int  # found missing or changed in the kernel, by whomever
    prefixes_known: int
    restarting: bool  # routes of before the restart are still untouched
    waiting_for: list[str]  # peers whose End-of-RIB is awaited
    speaker_running: bool
    speaker_restarts: int
    uptime_seconds: float
    policy: PolicyReport
    conditions: list[ConditionReport]
    problems: list[str]
    drain: DrainReport = DrainReport()
    tunnels: TunnelReport = TunnelReport()
    network: NetworkReport = NetworkReport()
    cni: CniReport = CniReport()


class PodTraffic(msgspec.Struct, rename="camel", frozen=True):
    """What a pod has sent and received since its link was made."""

    pod: str  # namespace/name
    time_seconds: float  # when it was counted, since 1970
    sent_packets: int
    sent_bytes: int
    received_packets: int
    received_bytes: int
    dropped: int  # packets from and to it that policy dropped, among the last thousand reports


class PodRate(msgspec.Struct, rename="camel", frozen=True):
    """What a pod sends and receives in a second."""

    pod: str
    sent_bits: float
    received_bits: float
    sent_packets: float
    received_packets: float
    dropped: int


class NodeSummary(msgspec.Struct, rename="camel", frozen=True):
    """One node in a line, as `tortie status --all-nodes` has it."""

    node: str
    ready: bool
    local_asn: int | None = msgspec.field(name="localASN")
    sessions_established: int
    sessions_configured: int
    routes_installed: int
    routes_refused: int
    drain: str  # Draining, Drained or ""
    note: str  # what is wrong, or worth knowing


def timestamp(seconds: float) -> str:
    """Return a wall-clock time as RFC 3339 has it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
