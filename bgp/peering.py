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

from bgp.config import BgpConfig, NextHopMode, Node, Peering, RelativeAsn
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


def plan(config: BgpConfig, node: Node, local_addresses: Mapping[PeerKey, IPAddress]) -> Plan:
    """Return what `node` should do. `local_addresses` has the kernel's source address towards each peer."""
    return _Planner(config, node, local_addresses).plan()


def router_id(node: Node) -> IPv4Address:
    """Return the BGP Identifier (RFC 6286): as configured, the IPv4 address, or a number made of the name."""
    if node.router_id is not None:
        return node.router_id
    address = node.address(Family.IPV4)
    if isinstance(address, IPv4Address):
        return address
    return IPv4Address(hashlib.sha256(node.name.encode()).digest()[:4] or 1)


class _Planner:
    def __init__(self, config: BgpConfig, node: Node, local_addresses: Mapping[PeerKey, IPAddress]) -> None:
        self._config = config
        self._node = node
        self._local_addresses = local_addresses
        self._ownership = settle(config.nodes.values())
        self._router_id = router_id(node)
        self._own_prefixes = self._ownership.pod_cidrs_of(node.name)
        self._others = self._ownership.pod_cidrs_of_others(node.name)
        self._sessions: dict[PeerKey, PlannedSession] = {}
        self._complaints: list[Complaint] = []

    def plan(self) -> Plan:
        for conflict in self._ownership.conflicts:
            self._complain(
                "Node", conflict.loser, conflict.field, str(conflict), "It is neither announced nor believed."
            )
        # BGPPeers before the mesh: what somebody wrote beats what follows by itself.
        for peering in sorted(self._config.peerings, key=lambda peering: (peering.created, peering.name)):
            if peering.address is not None:
                if self._node.name in peering.nodes:
                    self._peer_by_address(peering, peering.address)
            else:
                self._peer_by_nodes(peering)
        if self._config.mesh_enabled:
            self._mesh()
        return Plan(self._node, self._ownership, self._sessions, tuple(self._complaints))

    # Where sessions come from

    def _mesh(self) -> None:
        mesh = Peering("", frozenset(), password=self._config.mesh_password)
        for other in self._config.nodes.values():
            if other.name != self._node.name:
                self._peer_with_node(mesh, other, f"mesh/{other.name}", is_explicit=False)

    def _peer_by_nodes(self, peering: Peering) -> None:
        """A peering between two choices of nodes is one of both sides, whichever was written first."""
        others: set[str] = set()
        if self._node.name in peering.nodes:
            others |= peering.peer_nodes
        if self._node.name in peering.peer_nodes:
            others |= peering.nodes
        for name in sorted(others - {self._node.name}):
            if (other := self._config.nodes.get(name)) is not None:
                self._peer_with_node(peering, other, peering.label, is_explicit=True)

    def _peer_with_node(self, peering: Peering, other: Node, origin: str, *, is_explicit: bool) -> None:
        """One session for each family in which both have an address, carrying that family."""
        families = peering.families or (self._node.families | other.families) or frozenset(Family)
        for family in sorted(families):
            local, remote = self._node.address(family), other.address(family)
            if local is None or remote is None or self._ownership.addresses.get(remote) != other.name:
                continue
            if remote in self._sessions:
                if is_explicit:
                    self._complain_taken(peering, "spec.peer.nodeSelector", remote)
                continue
            rules = self._rules(peering, None if other.is_transit else other.name)
            asn = peering.asn if isinstance(peering.asn, int) else other.asn
            self._add(
                peering,
                remote,
                origin=origin,
                local=local,
                asn=asn,
                families=frozenset({family}),
                rules=rules,
                ttl=NODE_TTL,
                peer_node=other.name,
            )

    def _peer_by_address(self, peering: Peering, address: IPAddress) -> None:
        if address in self._sessions:
            self._complain_taken(peering, "spec.peer.address", address)
            return
        if address in self._node.addresses:
            # A peering for every node may well name one of them.
            return
        local = peering.source_address or self._local_addresses.get(address)
        if local is None:
            self._complain(
                "BGPPeer",
                peering.name,
                "spec.peer.address",
                f"this node has no route to {address}",
                "It is tried again.",
            )
            return
        if family_of(local) is not family_of(address):
            self._complain(
                "BGPPeer",
                peering.name,
                "spec.sourceAddress",
                f"{local} and the peer's {address} are of different families",
                "The session is left out.",
            )
            return
        families = peering.families or self._node.families or frozenset({family_of(address)})
        if peering.asn is RelativeAsn.EXTERNAL:
            self._complain(
                "BGPPeer",
                peering.name,
                "spec.peerASN",
                "External names no AS; a peer by address needs its number",
                "The session is left out.",
            )
            return
        asn = peering.asn if isinstance(peering.asn, int) else self._node.asn
        ttl = 1 if asn != self._node.asn else None
        self._add(
            peering,
            address,
            origin=peering.label,
            local=local,
            asn=asn,
            families=families,
            rules=self._rules(peering, None),
            ttl=ttl,
            peer_node=None,
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
        rules: ImportRules,
        ttl: int | None,
        peer_node: str | None,
    ) -> None:
        next_hops = self._own_next_hops(local)
        password, hindrance = self._password(peering, origin)
        if peering.shutdown is not None:
            hindrance = "administratively down" + (f": {peering.shutdown}" if peering.shutdown else "")
        if not families & next_hops.keys():
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
            families=families & next_hops.keys() or families,
            hold_time_s=timers.hold_time_s,
            keepalive_time_s=timers.keepalive_time_s,
            connect_retry_time_s=timers.connect_retry_time_s,
            peer_port=peering.port or (self._config.listen_port if peer_node else 179),
            listen_port=self._config.listen_port,
            password=password,
            graceful_restart_time_s=self._config.graceful_restart_time_s,
            ttl=ttl,
            minimum_ttl=minimum_ttl,
            is_passive=peering.is_passive,
            origin=origin,
        )
        self._sessions[address] = PlannedSession(session, rules, peering.next_hop, next_hops, hindrance, peer_node)

    def _own_next_hops(self, local: IPAddress) -> dict[Family, IPAddress]:
        """Return the session's own address for its family, the node's address for the other."""
        hops = {family: address for family in Family if (address := self._node.address(family)) is not None}
        hops[family_of(local)] = local
        return hops

    def _rules(self, peering: Peering, peer_node: str | None) -> ImportRules:
        config = self._config
        if peer_node is not None:
            accept = ranges_within(self._ownership.pod_cidrs_of(peer_node))
        else:
            cluster = config.pod_cidrs if config.pod_cidrs is not None else tuple(self._ownership.pod_cidrs)
            accept = ranges_within((*cluster, *config.service_cidrs)) + config.accept + peering.accept
        return ImportRules(
            own_asn=self._node.asn,
            own_router_id=self._router_id,
            own_addresses=frozenset(self._node.addresses),
            own_prefixes=self._own_prefixes,
            accept=accept,
            owners=self._others,
            peer_node=peer_node,
            allow_own_asn=peering.allow_own_asn,
            max_prefixes=peering.max_prefixes or config.max_prefixes,
        )

    def _password(self, peering: Peering, origin: str) -> tuple[Secret | None, str]:
        """Return the password, or why the session must wait for it. Never an empty password."""
        key = peering.password
        if key is None:
            return None, ""
        secret = self._config.secrets.get(key)
        if secret is not None and secret.reveal():
            return secret, ""
        if key.name not in self._config.secret_names:
            reason = f"Secret {key.name} does not exist"
        elif secret is None:
            reason = f'Secret {key.name} has no key "{key.key}"'
        else:
            reason = f'Secret {key.name} has an empty key "{key.key}"'
        kind, _, name = origin.partition("/")
        if kind == "BGPPeer":
            self._complain(kind, name, "spec.passwordSecretRef", reason, "The session stays down.")
        else:
            self._complain(
                "BGPConfiguration", "default", "spec.nodeMesh.passwordSecretRef", reason, "The mesh stays down."
            )
        return None, reason

    def _complain_taken(self, peering: Peering, field: str, address: IPAddress) -> None:
        winner = self._sessions[address].session.origin
        reason = f"{address} is peered with by {winner} already, which is older or first by name"
        self._complain("BGPPeer", peering.name, field, reason, "This one is left out.")

    def _complain(self, kind: str, name: str, field: str, reason: str, consequence: str) -> None:
        complaint = Complaint(kind, name, field, reason, consequence)
        if complaint not in self._complaints:
            self._complaints.append(complaint)
