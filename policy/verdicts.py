"""Case files: clusters, policies and probes as data, and what this code says to each probe.

A case is a cluster (namespaces, pods, nodes, policies) and probes between pods, nodes and addresses, each with the
verdict it should get; `Case.read` takes one as decoded from JSON. Every node of the case gets an engine of its own,
and a probe is asked at its source's node and at its destination's. Cases of one sequence are states of one cluster:
`Cluster` walks from one to the next by updates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from inet.prefix import Family
from policy.cidr import pack_address
from policy.clusterpolicy import decode_cluster_network_policy
from policy.compiler import Deleted, Engine
from policy.evaluator import Packet, evaluate
from policy.ir import Outcome
from policy.networkpolicy import decode_network_policy
from policy.nft import render, render_change, render_elements
from policy.nftwalk import Table, Traffic
from policy.objects import PROTOCOLS, Namespace, Node, Pod, decode_namespace, decode_node, decode_pod
from policy.policies import Policy

ENGINES: Final = ("ir", "nft")
DEFAULT_NODE: Final = "node"

_Object: TypeAlias = Pod | Namespace | Node | Policy
_ADDRESS_V4: Final = re.compile(r"\d+(?:\.\d+){3}(?:/\d+)?")
_V6_PREFIX: Final = "fd00:10::"


class Probe(NamedTuple):
    """A connection to try. `expect` is allow or deny, or empty where nobody says."""

    source: str  # ns/pod, node:NAME or ip:ADDRESS
    destination: str
    port: int
    protocol: str
    expect: str = ""


class Place(NamedTuple):
    """Where one end of a probe is."""

    address: bytes  # packed
    node: str  # empty: outside the cluster
    is_pod: bool  # with an interface of its own


class Result(NamedTuple):
    """What a probe got: allow or deny."""

    probe: Probe
    got: str

    @property
    def is_expected(self) -> bool:
        """Whether it got what it should, or nobody says what it should."""
        return self.probe.expect in {"", self.got}


@dataclass(frozen=True, slots=True)
class Case:
    """One cluster and its probes."""

    name: str
    sequence: str  # empty: a case by itself
    step: int
    objects: Mapping[tuple[str, str], _Object]  # by kind and key
    places: Mapping[str, Place]
    probes: tuple[Probe, ...]

    @classmethod
    def read(cls, raw: Mapping[str, Any], family: Family = Family.IPV4, *, spread_over: int = 1) -> Case:
        """Read a case. Pods that name no node are dealt out to `spread_over` of them.

        For IPv6 every IPv4 address and block is moved into one IPv6 prefix. Raises RefusedError for an object that the
        API server would refuse, KeyError for a case without what it needs.
        """
        if family is Family.IPV6:
            raw = _as_ipv6(raw)
        nodes = [f"{DEFAULT_NODE}-{number}" for number in range(1, spread_over + 1)]
        pods = [{"node": nodes[at % spread_over], **pod} for at, pod in enumerate(raw["pods"])]
        given = {node["name"]: node for node in raw.get("nodes") or ()}
        for pod in pods:
            node = given.setdefault(pod["node"], {"name": pod["node"], "ip": None})
            if pod.get("hostNetwork") and not node["ip"]:
                given[pod["node"]] = {**node, "ip": pod["ip"]}
        objects: list[_Object] = [_namespace(each) for each in raw.get("namespaces") or ()]
        described = {each.name for each in objects if isinstance(each, Namespace)}
        objects += [_namespace({"name": name}) for name in sorted({pod["ns"] for pod in pods} - described)]
        objects += [_node(each) for each in given.values()]
        objects += [_pod(each) for each in pods]
        objects += [decode_network_policy(each) for each in raw.get("policies") or ()]
        objects += [decode_cluster_network_policy(each) for each in raw.get("clusterPolicies") or ()]
        places = {
            f"{pod['ns']}/{pod['name']}": Place(pack_address(pod["ip"]), pod["node"], not pod.get("hostNetwork"))
            for pod in pods
        }
        places |= {
            f"node:{name}": Place(pack_address(node["ip"]), name, is_pod=False)
            for name, node in given.items()
            if node["ip"]
        }
        return cls(
            name=raw.get("name", ""),
            sequence=raw.get("sequence") or "",
            step=raw.get("step") or 0,
            objects={_key(each): each for each in objects},
            places=places,
            probes=tuple(_probes(raw, [f"{pod['ns']}/{pod['name']}" for pod in pods])),
        )

    def place(self, end: str) -> Place:
        """Return where an end of a probe is. Raises KeyError for a name the case does not have."""
        if end.startswith("ip:"):
            return Place(pack_address(end.removeprefix("ip:")), "", is_pod=False)
        return self.places[end]

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the nodes."""
        return tuple(each.name for each in self.objects.values() if isinstance(each, Node))


class Cluster:
    """The engines of a cluster's nodes, and beside each the table that the rendered transactions add up to."""

    def __init__(self) -> None:
        self.engines: dict[str, Engine] = {}
        self.tables: dict[str, Table] = {}
        self._case = Case("", "", 0, {}, {}, ())

    def move_to(self, case: Case) -> None:
        """Go from the case before to this one by the updates that differ."""
        for name in case.nodes:
            if name not in self.engines:
                self.engines[name] = Engine(name)
                self.tables[name] = Table()
                self._update(name, self._case.objects.values())
        gone = [_deletion(each) for key, each in self._case.objects.items() if key not in case.objects]
        new = [each for key, each in case.objects.items() if self._case.objects.get(key) != each]
        for name in self.engines:
            self._update(name, [*gone, *new])
        self._case = case

    def _update(self, name: str, updates: Iterable[_Object | Deleted]) -> None:
        engine = self.engines[name]
        is_first = not self.tables[name].chains
        for update in updates:
            engine.apply(update)
        delta = engine.flush()
        if is_first:
            self.tables[name].load(render(engine.ruleset))
            return
        change = render_change(delta)
        self.tables[name].load(change.structure)
        self.tables[name].load(render_elements(change.elements) + change.removal)

    def ask(self, probe: Probe, engine: str) -> str:
        """Return allow or deny, from the IR (`ir`) or from the text (`nft`)."""
        source, destination = self._case.place(probe.source), self._case.place(probe.destination)
        packet = Packet(source.address, destination.address, PROTOCOLS[probe.protocol], probe.port)
        allows = self._allows_by_ir if engine == "ir" else self._allows_by_nft
        nodes = dict.fromkeys(place.node for place in (source, destination) if place.node in self.engines)
        return "allow" if all(allows(name, packet, source, destination) for name in nodes) else "deny"

    def _allows_by_ir(self, name: str, packet: Packet, _source: Place, _destination: Place) -> bool:
        return evaluate(self.engines[name].ruleset, packet).outcome is Outcome.ALLOW

    def _allows_by_nft(self, name: str, packet: Packet, source: Place, destination: Place) -> bool:
        traffic = Traffic(
            *packet,
            is_from_node=source.node == name and not source.is_pod,
            is_from_pod=source.node == name and source.is_pod,
            is_to_pod=destination.node == name and destination.is_pod,
            is_to_node=destination.node == name and not destination.is_pod,
        )
        return self.tables[name].walk(traffic).verdict == "accept"


def run(cases: Iterable[Case], engine: str) -> Iterator[tuple[Case, list[Result]]]:
    """Yield each case with its results. Cases of one sequence that follow each other are walked by updates."""
    cluster = Cluster()
    sequence = ""
    for case in cases:
        if not case.sequence or case.sequence != sequence:
            cluster = Cluster()
        sequence = case.sequence
        cluster.move_to(case)
        yield case, [Result(probe, cluster.ask(probe, engine)) for probe in case.probes]


def _key(value: _Object) -> tuple[str, str]:
    match value:
        case Pod():
            return "Pod", value.key
        case Policy():
            return value.ref.kind, value.ref.key
        case Namespace() | Node():
            return type(value).__name__, value.name


def _deletion(value: _Object) -> Deleted:
    match value:
        case Pod():
            return Deleted("Pod", value.namespace, value.name)
        case Policy():
            return Deleted(*value.ref)
        case Namespace() | Node():
            return Deleted(type(value).__name__, "", value.name)


def _namespace(raw: Mapping[str, Any]) -> Namespace:
    return decode_namespace({"metadata": {"name": raw["name"], "labels": raw.get("labels") or {}}})


def _node(raw: Mapping[str, Any]) -> Node:
    addresses = [{"type": "InternalIP", "address": raw["ip"]}] if raw["ip"] else []
    return decode_node(
        {"metadata": {"name": raw["name"], "labels": raw.get("labels") or {}}, "status": {"addresses": addresses}}
    )


def _pod(raw: Mapping[str, Any]) -> Pod:
    ports = [
        {"name": port.get("name") or None, "containerPort": port["port"], "protocol": port["protocol"]}
        for port in raw.get("ports") or ()
    ]
    return decode_pod(
        {
            "metadata": {"namespace": raw["ns"], "name": raw["name"], "labels": raw.get("labels") or {}},
            "spec": {
                "nodeName": raw["node"],
                "hostNetwork": bool(raw.get("hostNetwork")),
                "containers": [{"ports": ports}],
            },
            "status": {"phase": "Running", "podIPs": [{"ip": raw["ip"]}]},
        }
    )


def _probes(raw: Mapping[str, Any], pods: Sequence[str]) -> Iterator[Probe]:
    for each in raw.get("probes") or ():
        yield Probe(each["from"], each["to"], each["port"], each["protocol"], each.get("expect") or "")
    for matrix in raw.get("matrices") or ():
        order = matrix.get("order") or pods
        for source, row in zip(order, matrix["rows"], strict=True):
            for destination, cell in zip(order, row, strict=True):
                if cell != "-":
                    expect = {".": "allow", "X": "deny"}[cell]
                    yield Probe(source, destination, matrix["port"], matrix["protocol"], expect)


def _as_ipv6(raw: Any) -> Any:
    """Return JSON data with every IPv4 address and block moved into one IPv6 prefix."""
    if isinstance(raw, dict):
        return {key: _as_ipv6(value) for key, value in raw.items()}
    if isinstance(raw, list):
        return [_as_ipv6(each) for each in raw]
    if not isinstance(raw, str):
        return raw
    if raw.startswith("ip:"):
        return f"ip:{_as_ipv6(raw.removeprefix('ip:'))}"
    if not _ADDRESS_V4.fullmatch(raw):
        return raw
    address, slash, length = raw.partition("/")
    if not slash:
        return f"{_V6_PREFIX}{address}"
    return "::/0" if length == "0" else f"{_V6_PREFIX}{address}/{96 + int(length)}"
