"""Objects become the plain configuration that `bgp` decides by: defaults filled in, selectors resolved.

A pure function of the objects in force. Where two objects set the same thing for one node the older wins, then
the name; the loser is complained about.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeVar

from agent.namespace import OWN_NAMESPACE
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
from agent.objects.kinds import Keyed
from agent.objects.model import Key
from agent.objects.network_configuration import NetworkConfigurationSpec
from agent.objects.problem import Problem
from agent.objects.session_settings import PrefixRange as PrefixRangeModel
from agent.objects.session_settings import SecretKeyRef
from agent.objects.session_settings import Timers as TimersModel
from bgp import config
from bgp.import_rules import PrefixRange
from bgp.peering import Complaint
from inet.prefix import Family, Prefix
from policy.selector import Operator, Requirement, Selector

T = TypeVar("T", bound=Object)
V = TypeVar("V")

_NONE: Final[frozenset[Selector]] = frozenset()
_READABLE: Final[Mapping[Key, str]] = {}


def translate(
    objects: Iterable[Keyed], namespace: str = OWN_NAMESPACE
) -> tuple[config.BgpConfig, tuple[Complaint, ...]]:
    """Return the configuration of the whole cluster, and what could not be done as written.

    `namespace` is the agent's own, where Secrets are.
    """
    translator = Translator(namespace)
    translator.take({each.key: each for each in objects})
    return translator.config()


class Translator:
    """`translate` for objects that change: what it costs that a few Nodes did does not grow with all the others.

    What everything but Nodes says is one value (`_Settings`), and what this makes of a Node is another (`_Part`). A
    change of a Node replaces its part; a change of anything else replaces all of them.
    """

    def __init__(self, namespace: str = OWN_NAMESPACE) -> None:
        self._namespace = namespace
        self._nodes: dict[str, Node] = {}
        self._others: dict[Key, Keyed] = {}
        self._unreadable_secrets: Mapping[str, str] = {}
        self._settings: _Settings | None = None  # None: they are others now
        self._parts: dict[str, _Part] = {}
        self._stale: set[str] = set()  # Nodes whose part may be another
        self._chosen: dict[Selector, frozenset[str]] = {}  # Nodes, by each selector that BGPPeers choose by
        self._complaints: dict[str, tuple[Complaint, ...]] = {}  # by the Node that gives rise to them
        self._config = config.BgpConfig()

    def take(
        self, changed: Mapping[Key, Keyed], deleted: Iterable[Key] = (), unreadable: Mapping[Key, str] = _READABLE
    ) -> bool:
        """Take over what changed, and what there is that is not shown; whether anything of it is known here, or was."""
        secrets = {key.name: why for key, why in unreadable.items() if key.kind == Secret.kind}
        known = secrets != self._unreadable_secrets
        if known:
            self._unreadable_secrets, self._settings = secrets, None
        for key, item in changed.items():
            if isinstance(item, Node):
                self._nodes[item.name] = item
                self._stale.add(item.name)
            elif isinstance(item, Object):
                self._others[key] = item
                self._settings = None
            else:
                continue
            known = True
        for key in deleted:
            if key.kind == Node.kind and self._nodes.pop(key.name, None) is not None:
                self._stale.add(key.name)
            elif key.kind != Node.kind and self._others.pop(key, None) is not None:
                self._settings = None
            else:
                continue
            known = True
        return known

    def config(self) -> tuple[config.BgpConfig, tuple[Complaint, ...]]:
        """Return what `translate` would; the same object as before where nothing in it is another."""
        is_new = self._settings is None
        if self._settings is None:
            self._settings = _Settings(self._others.values(), self._namespace, self._unreadable_secrets)
            self._parts, self._complaints = {}, {}
            self._chosen = dict.fromkeys(self._settings.selectors, frozenset())
            self._stale = set(self._nodes)
        changes: dict[str, tuple[_Part | None, _Part | None]] = {}
        for name in self._stale:
            before, node = self._parts.pop(name, None), self._nodes.get(name)
            after = self._settings.part(node) if node else None
            if after is not None:
                self._parts[name] = after
            if before != after:
                changes[name] = (before, after)
        self._stale.clear()
        if is_new:
            self._config = self._settings.config({}, {}, self._chosen)
        if is_new or changes:
            self._exchange(self._settings, changes)
        complaints = dict.fromkeys(each for some in self._complaints.values() for each in some)
        return self._config, tuple(sorted(complaints, key=lambda each: (each.name, each.field, each.reason)))

    def _exchange(self, settings: _Settings, changes: Mapping[str, tuple[_Part | None, _Part | None]]) -> None:
        """Put parts in the place of others: frozen values are made anew, of what is the same and what is not."""
        nodes, overrides = dict(self._config.nodes), dict(self._config.encapsulation_overrides)
        chosen: dict[Selector, set[str]] = {}
        for name, (before, after) in changes.items():
            for selector in (before.chosen_by if before else _NONE) ^ (after.chosen_by if after else _NONE):
                chosen.setdefault(selector, set(self._chosen[selector])).symmetric_difference_update({name})
            for family in before.encapsulation if before else ():
                del overrides[name, family]
            self._complaints.pop(name, None)
            if after is None:
                del nodes[name]
                continue
            if nodes.get(name) != after.node:
                nodes[name] = after.node
            overrides |= {(name, family): wish for family, wish in after.encapsulation.items()}
            if after.complaints:
                self._complaints[name] = after.complaints
        self._chosen |= {selector: frozenset(names) for selector, names in chosen.items()}
        made = settings.config(nodes, overrides, self._chosen)
        if made != self._config:
            self._config = made


class _Part(NamedTuple):
    """What a Node comes to."""

    node: config.Node
    encapsulation: Mapping[Family, config.Encapsulation]  # where it is not the default
    chosen_by: frozenset[Selector]  # of those in BGPPeers
    complaints: tuple[Complaint, ...]


class _Settings:
    """What everything but Nodes says."""

    def __init__(self, objects: Collection[Keyed], namespace: str, unreadable_secrets: Mapping[str, str]) -> None:
        def of(kind: type[T]) -> list[T]:
            return sorted((each for each in objects if isinstance(each, kind)), key=lambda each: each.seniority)

        network = next(iter(of(NetworkConfiguration)), None)
        said = next(iter(of(BGPConfiguration)), None)
        bgp = (said or BGPConfiguration.model_validate({"metadata": {"name": "default"}})).spec
        secrets = [secret for secret in of(Secret) if secret.metadata.namespace == namespace]
        self._peers = [
            (peer, selector_of(peer.spec.node_selector), selector_of(target) if target is not None else None)
            for peer in of(BGPPeer)
            for target in (peer.spec.peer.node_selector,)
        ]
        self.selectors = frozenset(each for _, *both in self._peers for each in both if each is not None)
        self._profiles = [(profile, selector_of(profile.spec.node_selector)) for profile in of(BGPNodeProfile)]
        self._default_asn = bgp.local_asn
        self._overrides = list(_overrides(network.spec)) if network else []
        self._fields: dict[str, Any] = {
            "mesh_enabled": bgp.node_mesh.enabled,
            "mesh_password": _secret_key(bgp.node_mesh.password_secret_ref),
            "timers": _timers(bgp.timers),
            "listen_port": bgp.listen_port,
            "graceful_restart_time_s": bgp.graceful_restart.restart_time_seconds
            if bgp.graceful_restart.enabled
            else None,
            "max_paths": bgp.max_paths,
            "resilient_multipath": bgp.resilient_multipath,
            "accept": _ranges(bgp.import_.accept),
            "max_prefixes": bgp.import_.max_prefixes,
            "secrets": {
                config.SecretKey(secret.name, key): password
                for secret in secrets
                for key, password in secret.passwords.items()
            },
            "secret_names": frozenset(secret.name for secret in secrets),
            "unreadable_secrets": unreadable_secrets,
            **(_ways(network.spec) if network else {}),
        }

    def part(self, node: Node) -> _Part:
        """Return what a Node comes to."""
        labels = node.metadata.labels
        complaints: list[Complaint] = []
        profiles = [profile for profile, selector in self._profiles if selector.matches(labels)]
        encapsulation: dict[Family, config.Encapsulation] = {}
        for pools, selector, settings in self._overrides:
            if selector.matches(labels):
                inside = {cidr.family for pool in pools for cidr in node.pod_cidrs if pool.contains(cidr)}
                for family in inside if pools else Family:
                    encapsulation.setdefault(family, settings)
        return _Part(
            _node(node, profiles, self._default_asn, complaints),
            encapsulation,
            frozenset(selector for selector in self.selectors if selector.matches(labels)),
            tuple(complaints),
        )

    def config(
        self,
        nodes: Mapping[str, config.Node],
        overrides: Mapping[tuple[str, Family], config.Encapsulation],
        chosen: Mapping[Selector, frozenset[str]],
    ) -> config.BgpConfig:
        """Return the configuration for nodes; `chosen` are those that each selector matches."""
        return config.BgpConfig(
            nodes=nodes,
            encapsulation_overrides=overrides,
            peerings=tuple(
                _peering(peer, chosen[selector], chosen[target] if target is not None else frozenset())
                for peer, selector, target in self._peers
            ),
            **self._fields,
        )


def _overrides(
    spec: NetworkConfigurationSpec,
) -> Iterator[tuple[tuple[Prefix, ...], Selector, config.Encapsulation]]:
    """Yield which pod CIDRs (none: all) of which nodes have another encapsulation."""
    wish = spec.encapsulation
    for rank, override in enumerate(wish.overrides):
        tunnel = config.TunnelType(override.type or wish.type)
        settings = config.Encapsulation(config.EncapsulationMode(override.mode), tunnel, rank)
        yield override.pod_cidrs, selector_of(override.node_selector), settings


def _ways(spec: NetworkConfigurationSpec) -> dict[str, Any]:
    """Return the fields of `BgpConfig` that NetworkConfiguration alone says."""
    wish = spec.encapsulation
    return {
        "pod_cidrs": spec.pod_cidrs or None,
        "service_cidrs": spec.service_cidrs,
        "node_routes": config.NodeRoutes(spec.node_routes),
        "encapsulation": config.Encapsulation(
            config.EncapsulationMode(wish.mode), config.TunnelType(wish.type), len(wish.overrides)
        ),
        "vxlan_vni": wish.vni,
        "vxlan_port": wish.port,
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


def _peering(peer: BGPPeer, nodes: frozenset[str], peer_nodes: frozenset[str]) -> config.Peering:
    spec = peer.spec
    return config.Peering(
        name=peer.name,
        nodes=nodes,
        address=spec.peer.address,
        peer_nodes=peer_nodes,
        asn=spec.peer_asn if isinstance(spec.peer_asn, int | None) else config.RelativeAsn(spec.peer_asn),
        port=spec.port if spec.peer.node_selector is None else None,
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


def _timers(timers: TimersModel) -> config.Timers:
    return config.Timers(timers.hold_time_seconds, timers.keepalive_time_seconds, timers.connect_retry_time_seconds)


def _ranges(ranges: Iterable[PrefixRangeModel]) -> tuple[PrefixRange, ...]:
    return tuple(PrefixRange(each.cidr, each.min_length, each.max_length) for each in ranges)


def _secret_key(reference: SecretKeyRef | None) -> config.SecretKey | None:
    return config.SecretKey(reference.name, reference.key) if reference else None


def _when(timestamp: datetime | None) -> str:
    return timestamp.isoformat() if timestamp else ""
