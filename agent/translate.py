"""Objects become the plain configuration that `bgp` decides by: defaults filled in, selectors resolved.

A pure function of the objects in force. Where two objects set the same thing for one node the older wins, then
the name; the loser is complained about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from agent.objects import (
    BGPConfiguration,
    BGPNodeProfile,
    BGPPeer,
    LabelSelector,
    NetworkConfiguration,
    Node,
    Object,
    Secret,
)
from agent.objects.kinds import OWN_NAMESPACE, Keyed
from agent.objects.network_configuration import NetworkConfigurationSpec
from agent.objects.problem import Problem
from agent.objects.session_settings import PrefixRange as PrefixRangeModel
from agent.objects.session_settings import SecretKeyRef
from agent.objects.session_settings import Timers as TimersModel
from bgp import config
from bgp.import_rules import PrefixRange
from bgp.peering import Complaint
from inet.prefix import Family
from policy.selector import Operator, Requirement, Selector

T = TypeVar("T", bound=Object)
V = TypeVar("V")


def translate(
    objects: Iterable[Keyed], namespace: str = OWN_NAMESPACE
) -> tuple[config.BgpConfig, tuple[Complaint, ...]]:
    """Return the configuration of the whole cluster, and what could not be done as written.

    `namespace` is the agent's own, where Secrets are.
    """
    every = list(objects)

    def of(kind: type[T]) -> list[T]:
        return sorted((each for each in every if isinstance(each, kind)), key=lambda each: each.seniority)

    network = next(iter(of(NetworkConfiguration)), None)
    bgp = next(iter(of(BGPConfiguration)), None) or BGPConfiguration.model_validate({"metadata": {"name": "default"}})
    complaints: list[Complaint] = []
    nodes = _nodes(of(Node), of(BGPNodeProfile), bgp.spec.local_asn, complaints)
    labels = {node.name: node.metadata.labels for node in of(Node)}
    secrets = [secret for secret in of(Secret) if secret.metadata.namespace == namespace]
    spec = bgp.spec
    return config.BgpConfig(
        nodes=nodes,
        peerings=tuple(_peering(peer, labels) for peer in of(BGPPeer)),
        mesh_enabled=spec.node_mesh.enabled,
        mesh_password=_secret_key(spec.node_mesh.password_secret_ref),
        timers=_timers(spec.timers),
        listen_port=spec.listen_port,
        graceful_restart_time_s=spec.graceful_restart.restart_time_seconds if spec.graceful_restart.enabled else None,
        max_paths=spec.max_paths,
        resilient_multipath=spec.resilient_multipath,
        accept=_ranges(spec.import_.accept),
        max_prefixes=spec.import_.max_prefixes,
        pod_cidrs=(network.spec.pod_cidrs or None) if network else None,
        service_cidrs=network.spec.service_cidrs if network else (),
        secrets={
            config.SecretKey(secret.name, key): password
            for secret in secrets
            for key, password in secret.passwords.items()
        },
        secret_names=frozenset(secret.name for secret in secrets),
        **(_ways(network.spec, of(Node)) if network else {}),
    ), tuple(complaints)


def _ways(spec: NetworkConfigurationSpec, nodes: Sequence[Node]) -> dict[str, Any]:
    """Return the fields of `BgpConfig` that are about the ways between nodes."""
    wish = spec.encapsulation
    overrides: dict[tuple[str, Family], config.Encapsulation] = {}
    for rank, override in enumerate(wish.overrides):
        selector = selector_of(override.node_selector)
        settings = config.Encapsulation(
            config.EncapsulationMode(override.mode), config.TunnelType(override.type or wish.type), rank
        )
        for node in (node for node in nodes if selector.matches(node.metadata.labels)):
            inside = {cidr.family for pool in override.pod_cidrs for cidr in node.pod_cidrs if pool.contains(cidr)}
            for family in inside if override.pod_cidrs else Family:
                overrides.setdefault((node.name, family), settings)
    by_default = config.Encapsulation(
        config.EncapsulationMode(wish.mode), config.TunnelType(wish.type), len(wish.overrides)
    )
    return {
        "node_routes": config.NodeRoutes(spec.node_routes),
        "encapsulation": by_default,
        "encapsulation_overrides": overrides,
        "vxlan_vni": wish.vni,
        "vxlan_port": wish.port,
    }


def _nodes(
    nodes: Sequence[Node], profiles: Sequence[BGPNodeProfile], default_asn: int, complaints: list[Complaint]
) -> dict[str, config.Node]:
    selectors = [(profile, selector_of(profile.spec.node_selector)) for profile in profiles]
    return {
        node.name: _node(
            node,
            [profile for profile, selector in selectors if selector.matches(node.metadata.labels)],
            default_asn,
            complaints,
        )
        for node in nodes
    }


def _node(node: Node, profiles: Sequence[BGPNodeProfile], default_asn: int, complaints: list[Complaint]) -> config.Node:
    """Lay the profiles that select a node over each other; of two that say the same thing the first wins."""
    asn = _first(profiles, "localASN", [profile.spec.local_asn for profile in profiles], complaints)
    router_id = _first(profiles, "routerID", [profile.spec.router_id for profile in profiles], complaints)
    sources = _first(
        profiles, "sourceAddresses", [profile.spec.source_addresses or None for profile in profiles], complaints
    )
    versions = {address.version for address in sources or ()}
    rest = tuple(address for address in node.internal_addresses if address.version not in versions)
    return config.Node(
        name=node.name,
        addresses=(*(sources or ()), *rest),
        pod_cidrs=node.pod_cidrs,
        asn=asn or default_asn,
        router_id=router_id,
        is_transit=any(profile.spec.transit for profile in profiles),
        drain_wait_s=node.drain_wait_s,
        created=_when(node.metadata.creation_timestamp),
    )


def _first(
    profiles: Sequence[BGPNodeProfile], field: str, values: Sequence[V | None], complaints: list[Complaint]
) -> V | None:
    said = [(profile, value) for profile, value in zip(profiles, values, strict=True) if value is not None]
    if not said:
        return None
    winner, value = said[0]
    for profile, other in said[1:]:
        reason = f"BGPNodeProfile {winner.name}, which is older or first by name, sets it for some of the same nodes"
        complaint = Complaint(
            "BGPNodeProfile", profile.name, f"spec.{field}", reason, "On those the other one's value is in force."
        )
        if other != value and complaint not in complaints:
            complaints.append(complaint)
    return value


def _peering(peer: BGPPeer, labels: Mapping[str, Mapping[str, str]]) -> config.Peering:
    spec = peer.spec
    target = spec.peer.node_selector
    return config.Peering(
        name=peer.name,
        nodes=_select(spec.node_selector, labels),
        address=spec.peer.address,
        peer_nodes=_select(target, labels) if target is not None else frozenset(),
        asn=spec.peer_asn if isinstance(spec.peer_asn, int | None) else config.RelativeAsn(spec.peer_asn),
        port=spec.port if target is None else None,
        password=_secret_key(spec.password_secret_ref),
        timers=_timers(spec.timers) if spec.timers else None,
        ttl_security_hops=spec.ttl_security.hops if spec.ttl_security else None,
        multihop_ttl=spec.multihop.ttl if spec.multihop else None,
        source_address=spec.source_address,
        families=frozenset(spec.families) if spec.families else None,
        next_hop=config.NextHopMode(spec.next_hop),
        allow_own_asn=spec.allow_own_asn,
        accept=_ranges(spec.import_.accept),
        max_prefixes=spec.import_.max_prefixes,
        shutdown=spec.shutdown.message if spec.shutdown else None,
        created=_when(peer.metadata.creation_timestamp),
    )


def problem_of(complaint: Complaint) -> Problem:
    """Return a complaint of `bgp` as people are shown problems."""
    return Problem(
        kind=complaint.kind,
        name=complaint.name,
        field=complaint.field,
        message=complaint.reason,
        consequence=complaint.consequence,
    )


def selector_of(selector: LabelSelector) -> Selector:
    """Return the selector as `policy` evaluates it."""
    return Selector(
        [
            *(Requirement(key, Operator.IN, (value,)) for key, value in selector.match_labels.items()),
            *(Requirement(each.key, Operator(each.operator), each.values) for each in selector.match_expressions),
        ]
    )


def _select(selector: LabelSelector, labels: Mapping[str, Mapping[str, str]]) -> frozenset[str]:
    wanted = selector_of(selector)
    return frozenset(name for name, its in labels.items() if wanted.matches(its))


def _timers(timers: TimersModel) -> config.Timers:
    return config.Timers(timers.hold_time_seconds, timers.keepalive_time_seconds, timers.connect_retry_time_seconds)


def _ranges(ranges: Iterable[PrefixRangeModel]) -> tuple[PrefixRange, ...]:
    return tuple(PrefixRange(each.cidr, each.min_length, each.max_length) for each in ranges)


def _secret_key(reference: SecretKeyRef | None) -> config.SecretKey | None:
    return config.SecretKey(reference.name, reference.key) if reference else None


def _when(timestamp: datetime | None) -> str:
    return timestamp.isoformat() if timestamp else ""
