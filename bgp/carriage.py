"""How packets reach another node's pods: as they are, or in a tunnel to that node.

Three small decisions, each a pure function. `settle_tunnels` says for each address of another node whether a tunnel
to it may be used, and of which type: both ends come to the same answer, since the stricter wish of the two counts.
`carry` says what becomes of one next hop, by whether it is on a link of this node:

    mode       on a link           behind a router
    Never      direct              direct: the kernel's own route leads there
    Fallback   direct              tunnel, where the next hop is a node: its routers may know nothing of pods
    Always     tunnel, where the next hop is a node

A next hop that is no node is a router that says it carries the prefix, and is taken at its word; with *Fallback* the
decision process prefers it to any tunnel (`bgp.decision`), so the tunnel is what is left when no router speaks up.
`NodePathPlanner` says which paths follow from Node objects alone.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from bgp.config import BgpConfig, Encapsulation, EncapsulationMode, Node, NodeRoutes, TunnelType
from bgp.decision import TUNNEL_COST
from bgp.ownership import Ownership
from inet.prefix import Family, IPAddress, Prefix, family_of

OVERHEAD: Final = {
    (TunnelType.VXLAN, Family.IPV4): 50,  # IPv4 20, UDP 8, VXLAN 8 (RFC 7348 section 5), Ethernet 14
    (TunnelType.VXLAN, Family.IPV6): 70,
    (TunnelType.IPIP, Family.IPV4): 20,  # RFC 2003
    (TunnelType.IPIP, Family.IPV6): 40,  # RFC 2473
}
"""Bytes that a tunnel puts before a packet. The outer family is always that of the pods."""

DIRECT_COST: Final = 0
ROUTED_COST: Final = 1
LAST_RESORT: Final = TUNNEL_COST
"""Interior cost of a tunnel that is used where there is nothing else."""
REQUIRED: Final = -1
"""Interior cost of a tunnel that has to be used, whatever else there is."""

_STRICTNESS: Final = {EncapsulationMode.NEVER: 0, EncapsulationMode.FALLBACK: 1, EncapsulationMode.ALWAYS: 2}


class Tunnel(NamedTuple):
    """A tunnel to another node that may be used, to one of its addresses."""

    node: str
    type: TunnelType
    mode: EncapsulationMode
    vni: int = 0  # of VXLAN


class How(enum.Enum):
    """How a next hop is reached."""

    DIRECT = "direct"
    TUNNEL = "tunnel"
    NOT = "dropped"


class Carriage(NamedTuple):
    """How a next hop is reached, what that costs (RFC 4271 section 9.1.2.1), and why, for people."""

    how: How
    cost: int | None
    why: str


@dataclass(frozen=True, slots=True)
class NodePaths:
    """What Node objects say: the next hop of each pod CIDR of others, and why some have none."""

    next_hops: Mapping[Prefix, IPAddress] = field(default_factory=dict)
    left_out: Mapping[Prefix, str] = field(default_factory=dict)


def settle_tunnels(config: BgpConfig, node: Node, ownership: Ownership) -> dict[IPAddress, Tunnel]:
    """Return the tunnels that `node` may use, by the address of the other end.

    An address that two Nodes claim is the older one's (`bgp.ownership`).
    """
    found: dict[IPAddress, Tunnel] = {}
    for name in config.nodes:
        found |= tunnels_to(name, config, node, ownership)
    return found


def tunnels_to(name: str, config: BgpConfig, node: Node, ownership: Ownership) -> dict[IPAddress, Tunnel]:
    """Return what `settle_tunnels` says of one node, which need not exist."""
    found: dict[IPAddress, Tunnel] = {}
    other = config.nodes.get(name)
    if other is None or name == node.name:
        return found
    for family in Family:
        wish = _stricter(config.encapsulation_of(node.name, family), config.encapsulation_of(name, family))
        if wish.mode is EncapsulationMode.NEVER:
            continue
        address = other.address(family)
        if address is not None and ownership.addresses.get(address) == name and address not in node.addresses:
            vni = config.vxlan_vni if wish.type is TunnelType.VXLAN else 0
            found[address] = Tunnel(name, wish.type, wish.mode, vni)
    return found


def _stricter(one: Encapsulation, other: Encapsulation) -> Encapsulation:
    """Return the stricter wish; of two that are as strict the one that stands first in the object."""
    return min(one, other, key=lambda wish: (-_STRICTNESS[wish.mode], wish.rank))


def carry(tunnel: Tunnel | None, *, is_reachable: bool, is_on_link: bool) -> Carriage:
    """Say how a next hop is reached; `tunnel` is the one that may be used to it, if it is a node's address."""
    if tunnel is not None and tunnel.mode is EncapsulationMode.ALWAYS:
        return Carriage(How.TUNNEL, REQUIRED, f"encapsulation is Always towards Node {tunnel.node}")
    if is_reachable and is_on_link:
        return Carriage(How.DIRECT, DIRECT_COST, "on a link of this node")
    if tunnel is not None:
        return Carriage(How.TUNNEL, LAST_RESORT, f"Node {tunnel.node} is behind a router, and none announces it")
    if is_reachable:
        return Carriage(How.DIRECT, ROUTED_COST, "behind a router that carries it")
    return Carriage(How.NOT, None, "no way to it")


class NodePathPlanner(NamedTuple):
    """What the paths of Node objects follow from, seen from `node`."""

    config: BgpConfig
    node: Node
    ownership: Ownership
    tunnels: Mapping[IPAddress, Tunnel]
    on_link: frozenset[IPAddress]  # addresses of other nodes, where routes to them are Direct

    def paths(self) -> NodePaths:
        """Return the paths that need no BGP: where nodes share a link and routes are Direct, or a tunnel is allowed."""
        return self.paths_after(NodePaths(), self.ownership.by_node)

    def paths_after(self, former: NodePaths, changed: Iterable[str], gone: Iterable[Prefix] = ()) -> NodePaths:
        """Return them after a change of some nodes, which need not exist any more; `gone` is what these had before."""
        next_hops, left_out = dict(former.next_hops), dict(former.left_out)
        for prefix in gone:
            next_hops.pop(prefix, None)
            left_out.pop(prefix, None)
        for name in changed:
            for prefix in self.ownership.pod_cidrs_of(name) if name != self.node.name else ():
                found = self._path_to(self.config.nodes[name], prefix)
                if isinstance(found, str):
                    left_out[prefix] = found
                elif found is not None:
                    next_hops[prefix] = found
        return NodePaths(next_hops, left_out)

    def _path_to(self, other: Node, prefix: Prefix) -> IPAddress | str | None:
        """Return the next hop to a pod CIDR of another node, or why there is none; None where it is left to BGP."""
        address, is_direct = other.address(prefix.family), self.config.node_routes is NodeRoutes.DIRECT
        if address is None or self.ownership.addresses.get(address) != other.name or address in self.node.addresses:
            return f"Node {other.name} has no address of family {prefix.family.label} of its own"
        if address in self.tunnels or (is_direct and address in self.on_link):
            return address
        if is_direct:
            return (
                f"Node {other.name}, {address}, is on no link of this node: with nodeRoutes Direct a router must "
                "announce its pod CIDRs, or encapsulation be Fallback"
            )
        return None


def overhead(tunnels: Mapping[IPAddress, Tunnel]) -> dict[Family, int]:
    """Return by how many bytes at most packets of each family may grow on the way to another node."""
    found = dict.fromkeys(Family, 0)
    for address, tunnel in tunnels.items():
        family = family_of(address)
        found[family] = max(found[family], OVERHEAD[tunnel.type, family])
    return found


@lru_cache(maxsize=1 << 14)
def hardware_address(node: str) -> bytes:
    """Return the hardware address of a node's end of VXLAN: the same after every restart, known to all by its name."""
    # Locally administered and unicast (IEEE 802 section 8.4).
    return b"\x02" + hashlib.sha256(b"tortie-vxlan " + node.encode()).digest()[:5]
