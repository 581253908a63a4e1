"""Which sessions a node should have, and by which rules each is believed.

A pure function of the configuration: nodes, mesh, BGPPeers in; `PlannedSession`s and the reasons for what could
not be planned out. What depends on the kernel (the local address towards a peer) comes in as a mapping.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from bgp.config import BgpConfig, NextHopMode, Node, NodeRoutes, Peering, RelativeAsn
from bgp.import_rules import ImportRules, ranges_within
from bgp.ownership import Ownership, settle
from bgp.path import PeerKey
from bgp.speaker import Secret, Session
from inet.prefix import Family, IPAddress, family_of

NODE_TTL: Final = 64
"""TTL between nodes: they may be several hops apart, whatever their AS."""


@dataclass(frozen=True, slots=True)
class PlannedSession:
    """One session: as the wire wants it, what is believed from it, and how we announce to it.

    `hindrance` says why the session must not run now (a missing password, an administrator's wish); then
    `session` is what it would be.
    """

    session: Session
    rules: ImportRules
    next_hop_mode: NextHopMode
    next_hops: Mapping[Family, IPAddress]  # ourselves, in each family
    hindrance: str = ""
    peer_node: str | None = None  # the name of the node on the other side


@dataclass(frozen=True, slots=True)
class Complaint:
    """Something in an object that could not be done: which object, which field, why, and what happens now."""

    kind: str
    name: str
    field: str
    reason: str
    consequence: str


@dataclass(frozen=True, slots=True)
class Plan:
    """All sessions of a node by peer address, and what was wrong on the way."""

    node: Node
    ownership: Ownership
    sessions: Mapping[PeerKey, PlannedSession]
    complaints: tuple[Complaint, ...]


def plan(
    config: BgpConfig, node: Node, local_addresses: Mapping[PeerKey, IPAddress], ownership: Ownership | None = None
) -> Plan:
    """Return what `node` should do. `local_addresses` has the kernel's source address towards each peer.

    `ownership` is what `settle` says of the nodes, for who knows it already.
    """
    return _Planner(config, node, local_addresses, ownership or settle(config.nodes.values())).plan()


def router_id(node: Node) -> IPv4Address:
    """Return the BGP Identifier (RFC 6286): as configured, the IPv4 address, or a number made of the name."""
    if node.router_id is not None:
        return node.router_id
    address = node.address(Family.IPV4)
    if isinstance(address, IPv4Address):
        return address
    # From 1.0.0.0 to 223.255.255.255: FRR ends a session whose identifier is of class D or E.
    number = int.from_bytes(hashlib.sha256(node.name.encode()).digest()[:8])
    return IPv4Address((1 << 24) + number % (223 << 24))


class _Planner:
    def __init__(
        self, config: BgpConfig, node: Node, local_addresses: Mapping[PeerKey, IPAddress], ownership: Ownership
    ) -> None:
        self._config = config
        self._node = node
        self._local_addresses = local_addresses
        self._ownership = ownership
        self._router_id = router_id(node)
        self._own_prefixes = self._ownership.pod_cidrs_of(node.name)
        sources = [each.source_address for each in config.peerings if each.source_address and node.name in each.nodes]
        self._own_addresses = frozenset((*node.addresses, *local_addresses.values(), *sources))
        self._cluster = ranges_within((*(config.pod_cidrs or ()), *config.service_cidrs)) + config.accept
        self._mesh = Peering("", frozenset(), password=config.mesh_password)
        self._sessions: dict[PeerKey, PlannedSession] = {}
        self._complaints: dict[Complaint, None] = {}

    def plan(self) -> Plan:
        for conflict in self._ownership.conflicts:
            self._complain(
                "Node", conflict.node, conflict.field, conflict.reason, "It is neither announced nor believed."
            )
        for prefix in self._own_prefixes:
            if self._node.address(prefix.family) is None:
                reason = f"no InternalIP of family {prefix.family.label}, but a pod CIDR {prefix}"
                effect = "Other nodes do not learn it. A kubelet takes both from --node-ip."
                self._complain("Node", self._node.name, "status.addresses", reason, effect)
        # BGPPeers before the mesh: what somebody wrote beats what follows by itself.
        for peering in sorted(self._config.peerings, key=lambda peering: (peering.created, peering.name)):
            if peering.address is not None:
                if self._node.name in peering.nodes:
                    self._peer_by_address(peering, peering.address)
            else:
                self._peer_by_nodes(peering)
        if self._config.mesh_enabled and self._config.node_routes is NodeRoutes.BGP:
            for other in self._config.nodes.values():
                if other.name != self._node.name:
                    self._peer_with_node(self._mesh, other)
        return Plan(self._node, self._ownership, self._sessions, tuple(self._complaints))

    # Where sessions come from

    def _peer_by_nodes(self, peering: Peering) -> None:
        """A peering between two choices of nodes is one of both sides, whichever was written first."""
        others: set[str] = set()
        if self._node.name in peering.nodes:
            others |= peering.peer_nodes
        if self._node.name in peering.peer_nodes:
            others |= peering.nodes
        for name in sorted(others - {self._node.name}):
            if (other := self._config.nodes.get(name)) is not None:
                self._peer_with_node(peering, other)

    def _peer_with_node(self, peering: Peering, other: Node) -> None:
        """One session for each family in which both have an address, carrying that family."""
        if self._node.name in peering.nodes:
            self._check_asn(peering, other)
        families = sorted(peering.families or (self._node.families | other.families) or Family)
        links = [(self._node.address(family), other.address(family), family) for family in families]
        if not any(local and remote for local, remote, _ in links):
            words = " or ".join(family.label for family in families)
            reason = f"no InternalIP of {words} where Node {self._node.name} has one"
            self._complain("Node", other.name, "status.addresses", reason, "There is no session between the two.")
        for local, remote, family in links:
            if local is None or remote is None or self._ownership.addresses.get(remote) != other.name:
                continue
            if remote in self._node.addresses:
                continue  # two Nodes with one address: the other one owns it
            if remote in self._sessions:
                if peering is not self._mesh:
                    self._complain_taken(peering, "spec.peer.nodeSelector", remote)
                continue
            self._add(
                peering,
                remote,
                origin=f"mesh/{other.name}" if peering is self._mesh else peering.label,
                local=local,
                asn=other.asn,
                families=frozenset({family}),
                ttl=NODE_TTL,
                peer_node=other,
            )

    def _check_asn(self, peering: Peering, other: Node) -> None:
        relation = RelativeAsn.INTERNAL if other.asn == self._node.asn else RelativeAsn.EXTERNAL
        if peering.asn in (None, other.asn, relation):
            return
        said = peering.asn.value if isinstance(peering.asn, RelativeAsn) else peering.asn
        reason = f"Node {other.name} has AS {other.asn} and this node AS {self._node.asn}: that is not {said}"
        self._complain("BGPPeer", peering.name, "spec.peerASN", reason, "The Node's own AS is used.")

    def _peer_by_address(self, peering: Peering, address: IPAddress) -> None:
        if address in self._sessions:
            self._complain_taken(peering, "spec.peer.address", address)
            return
        if address in self._node.addresses:
            # A peering for every node may well name one of them.
            return
        local = peering.source_address or self._local_addresses.get(address)
        if local is None:
            reason = f"this node has no route to {address}"
            self._complain("BGPPeer", peering.name, "spec.peer.address", reason, "It is tried again.")
            return
        if family_of(local) is not family_of(address):
            reason = f"{local} and the peer's {address} are of different families"
            self._complain("BGPPeer", peering.name, "spec.sourceAddress", reason, "The session is left out.")
            return
        if peering.asn is RelativeAsn.EXTERNAL:
            reason = "External names no AS; a peer by address needs its number"
            self._complain("BGPPeer", peering.name, "spec.peerASN", reason, "The session is left out.")
            return
        asn = peering.asn if isinstance(peering.asn, int) else self._node.asn
        self._add(
            peering,
            address,
            origin=peering.label,
            local=local,
            asn=asn,
            families=peering.families or self._node.families or frozenset({family_of(address)}),
            ttl=1 if asn != self._node.asn else None,
            # A node is believed as a node, whoever wrote its address down.
            peer_node=self._config.nodes.get(self._ownership.addresses.get(address, "")),
        )

    # What they are made of

    def _add(
        self,
        peering: Peering,
        address: IPAddress,
        *,
        origin: str,
        local: IPAddress,
        asn: int,
        families: frozenset[Family],
        ttl: int | None,
        peer_node: Node | None,
    ) -> None:
        next_hops = self._own_next_hops(local)
        password, hindrance = self._password(peering)
        if peering.shutdown is not None:
            hindrance = "administratively down" + (f": {peering.shutdown}" if peering.shutdown else "")
        carried = families & next_hops.keys()
        if not carried:
            hindrance = hindrance or "this node has no address to be a next hop with"
        timers = peering.timers or self._config.timers
        if peering.multihop_ttl is not None:
            ttl = peering.multihop_ttl
        minimum_ttl = None
        if peering.ttl_security_hops is not None:
            ttl, minimum_ttl = 255, 256 - peering.ttl_security_hops
        session = Session(
            peer=address,
            local_address=local,
            local_asn=self._node.asn,
            peer_asn=asn,
            router_id=self._router_id,
            families=carried or families,
            hold_time_s=timers.hold_time_s,
            keepalive_time_s=timers.keepalive_time_s,
            connect_retry_time_s=timers.connect_retry_time_s,
            peer_port=peering.port or (self._config.listen_port if peer_node else 179),
            listen_port=self._config.listen_port,
            password=password,
            graceful_restart_time_s=self._config.graceful_restart_time_s,
            ttl=ttl,
            minimum_ttl=minimum_ttl,
            origin=origin,
        )
        self._sessions[address] = PlannedSession(
            session,
            self._rules(peering, peer_node),
            peering.next_hop,
            next_hops,
            hindrance,
            peer_node.name if peer_node else None,
        )

    def _own_next_hops(self, local: IPAddress) -> dict[Family, IPAddress]:
        """Return the session's own address for its family, the node's address for the other."""
        hops = {family: address for family in Family if (address := self._node.address(family)) is not None}
        hops[family_of(local)] = local
        return hops

    def _rules(self, peering: Peering, peer_node: Node | None) -> ImportRules:
        """Believe a node for its own pod CIDRs, unless it is a transit node; anybody else for the whole cluster's."""
        if peer_node is None or peer_node.is_transit:
            accept, accepts_pod_cidrs, itself = self._cluster, self._config.pod_cidrs is None, None
        else:
            accept = ranges_within(self._ownership.pod_cidrs_of(peer_node.name))
            accepts_pod_cidrs, itself = False, peer_node.name
        return ImportRules(
            own_asn=self._node.asn,
            own_router_id=self._router_id,
            own_addresses=self._own_addresses,
            own_prefixes=self._own_prefixes,
            accept=accept + peering.accept,
            owners=self._ownership.pod_cidrs,
            accepts_pod_cidrs=accepts_pod_cidrs,
            peer_node=itself,
            allow_own_asn=peering.allow_own_asn,
            max_prefixes=peering.max_prefixes or self._config.max_prefixes,
        )

    def _password(self, peering: Peering) -> tuple[Secret | None, str]:
        """Return the password, or why the session must wait for it. Never an empty password."""
        key = peering.password
        if key is None:
            return None, ""
        secret = self._config.secrets.get(key)
        if secret is not None and secret.reveal():
            return secret, ""
        if why := self._config.unreadable_secrets.get(key.name):
            reason = f"Secret {key.name} cannot be read: {why}"
        elif key.name not in self._config.secret_names:
            reason = f"Secret {key.name} does not exist"
        elif secret is None:
            reason = f'Secret {key.name} has no key "{key.key}"'
        else:
            reason = f'Secret {key.name} has an empty key "{key.key}"'
        if peering is self._mesh:
            field = "spec.nodeMesh.passwordSecretRef"
            self._complain("BGPConfiguration", "default", field, reason, "The mesh stays down.")
        else:
            self._complain("BGPPeer", peering.name, "spec.passwordSecretRef", reason, "The session stays down.")
        return None, reason

    def _complain_taken(self, peering: Peering, field: str, address: IPAddress) -> None:
        winner = self._sessions[address].session.origin
        reason = f"{address} is peered with by {winner} already, which is older or first by name"
        self._complain("BGPPeer", peering.name, field, reason, "This one is left out.")

    def _complain(self, kind: str, name: str, field: str, reason: str, consequence: str) -> None:
        self._complaints[Complaint(kind, name, field, reason, consequence)] = None
