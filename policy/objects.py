"""Pods, namespaces and nodes: the few fields that policy looks at.

Raw objects come in as JSON or YAML gave them (`decode_pod` and its like, which check what the API server would) or
already typed from the API (`PodWire` is what to give msgspec's JSON decoder; its objects need no second check). Out
come flat frozen values that hold nothing of the object they came from.

Addresses are packed network-order bytes, 4 or 16: they hash fast, tell their family by their length, and go into a
netlink message as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from policy.cidr import Block, pack_address, parse_block
from policy.fields import (
    FieldError,
    RefusedError,
    check_label_key,
    check_label_value,
    expect_name,
    expect_port_number,
    invalid,
    port_name_problems,
    required,
    unsupported,
)

PROTOCOLS: Final = {"TCP": 6, "UDP": 17, "SCTP": 132}
"""IANA protocol number by the API's name."""

PROTOCOL_NAMES: Final = {number: name for name, number in PROTOCOLS.items()} | {1: "ICMP", 58: "ICMPv6"}
"""What people read; ICMP is in no rule, but packets have it."""

NAMESPACE_NAME_LABEL: Final = "kubernetes.io/metadata.name"
"""The label that the API server gives every namespace."""


class NamedPort(NamedTuple):
    """A container port that has a name."""

    name: str
    protocol: int  # IANA number
    port: int


class Pod(msgspec.Struct, frozen=True, gc=False):
    """A pod as policy sees it."""

    namespace: str
    name: str
    labels: dict[str, str]
    addresses: tuple[bytes, ...]  # packed, each 4 or 16 bytes
    ports: tuple[NamedPort, ...] = ()
    node: str = ""
    host_network: bool = False  # its traffic is its node's
    completed: bool = False  # Succeeded or Failed: its addresses may be another's by now
    terminating: bool = False
    uid: str = ""  # as its kubelet has it: tells a pod from the one before it under its name

    @property
    def key(self) -> str:
        """Namespace and name: unique among pods."""
        return f"{self.namespace}/{self.name}"


class Namespace(msgspec.Struct, frozen=True):
    """A namespace. Its labels hold its name, as the API server sees to."""

    name: str
    labels: dict[str, str]


class Node(msgspec.Struct, frozen=True):
    """A node: where it is, and which pod addresses are its own."""

    name: str
    labels: dict[str, str]
    addresses: tuple[bytes, ...] = ()  # packed
    pod_cidrs: tuple[Block, ...] = ()


# What the API sends, cut down to what is read.


class _Annotations(msgspec.Struct):
    mirror: str | None = msgspec.field(name="kubernetes.io/config.mirror", default=None)


class _Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    uid: str = ""
    annotations: _Annotations | None = None
    namespace: str | None = None
    labels: dict[str, str] | None = None
    deletion_timestamp: str | None = None
    resource_version: str | None = None  # for whoever watches


class _Port(msgspec.Struct, rename="camel"):
    container_port: int = 0
    name: str | None = None
    protocol: str | None = None


class _Container(msgspec.Struct, rename="camel"):
    ports: list[_Port] | None = None
    restart_policy: str | None = None


class _PodSpec(msgspec.Struct, rename="camel"):
    node_name: str | None = None
    host_network: bool | None = None
    containers: list[_Container] | None = None
    init_containers: list[_Container] | None = None


class _PodIP(msgspec.Struct):
    ip: str | None = None


class _PodStatus(msgspec.Struct):
    phase: str | None = None
    pod_ip: str | None = msgspec.field(name="podIP", default=None)
    pod_ips: list[_PodIP] | None = msgspec.field(name="podIPs", default=None)


class PodWire(msgspec.Struct):
    """A pod as the API sends it."""

    metadata: _Meta
    spec: _PodSpec | None = None
    status: _PodStatus | None = None


class NamespaceWire(msgspec.Struct):
    """A namespace as the API sends it."""

    metadata: _Meta


class _NodeSpec(msgspec.Struct):
    pod_cidr: str | None = msgspec.field(name="podCIDR", default=None)
    pod_cidrs: list[str] | None = msgspec.field(name="podCIDRs", default=None)


class _NodeAddress(msgspec.Struct):
    type: str
    address: str


class _NodeStatus(msgspec.Struct):
    addresses: list[_NodeAddress] | None = None


class NodeWire(msgspec.Struct):
    """A node as the API sends it."""

    metadata: _Meta
    spec: _NodeSpec | None = None
    status: _NodeStatus | None = None


def pod_of(wire: PodWire) -> Pod:
    """Return the pod of an API object. Raises RefusedError for an address that is none."""
    spec = wire.spec or _PodSpec()
    status = wire.status or _PodStatus()
    texts = [each.ip for each in status.pod_ips or () if each.ip] or ([status.pod_ip] if status.pod_ip else [])
    # A sidecar (an init container that always restarts) serves ports like any other container (KEP-753).
    sidecars = [each for each in spec.init_containers or () if each.restart_policy == "Always"]
    ports = [
        NamedPort(port.name, PROTOCOLS[port.protocol or "TCP"], port.container_port)
        for container in (*(spec.containers or ()), *sidecars)
        for port in container.ports or ()
        if port.name and (port.protocol or "TCP") in PROTOCOLS
    ]
    # A static pod has two: its kubelet's, which runtimes and CNI plugins are told, and that of its mirror in the API.
    mirrored = wire.metadata.annotations.mirror if wire.metadata.annotations else None
    return Pod(
        namespace=wire.metadata.namespace or "default",
        name=wire.metadata.name,
        labels=wire.metadata.labels or {},
        addresses=_pack_all(texts, "status.podIPs"),
        ports=tuple(sorted(set(ports))),
        node=spec.node_name or "",
        host_network=bool(spec.host_network),
        completed=status.phase in {"Succeeded", "Failed"},
        terminating=wire.metadata.deletion_timestamp is not None,
        uid=mirrored or wire.metadata.uid,
    )


def namespace_of(wire: NamespaceWire) -> Namespace:
    """Return the namespace of an API object."""
    name = wire.metadata.name
    return Namespace(name, {**(wire.metadata.labels or {}), NAMESPACE_NAME_LABEL: name})


def node_of(wire: NodeWire) -> Node:
    """Return the node of an API object. Raises RefusedError for an address or CIDR that is none.

    Hostnames among the addresses are passed over: nobody resolves them here.
    """
    spec = wire.spec or _NodeSpec()
    status = wire.status or _NodeStatus()
    texts = [each.address for each in status.addresses or () if each.type in {"InternalIP", "ExternalIP"}]
    errors = []
    blocks = []
    for index, text in enumerate(spec.pod_cidrs or ([spec.pod_cidr] if spec.pod_cidr else [])):
        try:
            blocks.append(parse_block(text))
        except ValueError as error:
            errors.append(invalid(f"spec.podCIDRs[{index}]", text, str(error)))
    if errors:
        raise RefusedError(errors)
    return Node(wire.metadata.name, wire.metadata.labels or {}, _pack_all(texts, "status.addresses"), tuple(blocks))


def decode_pod(raw: Mapping[str, Any]) -> Pod:
    """Read a v1 Pod of a file. Raises RefusedError with what the API server would complain about."""
    wire = _convert(raw, PodWire)
    errors = _check_meta(wire.metadata)
    for index, container in enumerate((wire.spec and wire.spec.containers) or ()):
        for number, port in enumerate(container.ports or ()):
            path = f"spec.containers[{index}].ports[{number}]"
            errors += [invalid(f"{path}.name", port.name, text) for text in port_name_problems(port.name or "x")]
            expect_port_number(port.container_port, f"{path}.containerPort", errors)
            if (port.protocol or "TCP") not in PROTOCOLS:
                errors.append(unsupported(f"{path}.protocol", port.protocol, PROTOCOLS))
    return _finish(pod_of, wire, errors)


def decode_namespace(raw: Mapping[str, Any]) -> Namespace:
    """Read a v1 Namespace of a file. Raises RefusedError."""
    wire = _convert(raw, NamespaceWire)
    return _finish(namespace_of, wire, _check_meta(wire.metadata))


def decode_node(raw: Mapping[str, Any]) -> Node:
    """Read a v1 Node of a file. Raises RefusedError."""
    wire = _convert(raw, NodeWire)
    return _finish(node_of, wire, _check_meta(wire.metadata))


Wire = TypeVar("Wire")
Value = TypeVar("Value")


def _convert(raw: Mapping[str, Any], wire: type[Wire]) -> Wire:
    try:
        return msgspec.convert(raw, wire)
    except msgspec.ValidationError as error:
        detail, _, place = str(error).partition(" - at `$")
        raise RefusedError([FieldError(place.strip("`.") or "object", detail)]) from None


def _finish(build: Callable[[Wire], Value], wire: Wire, errors: list[FieldError]) -> Value:
    try:
        value = build(wire)
    except RefusedError as refused:
        raise RefusedError([*errors, *refused.errors]) from None
    if errors:
        raise RefusedError(errors)
    return value


def _check_meta(meta: _Meta) -> list[FieldError]:
    errors: list[FieldError] = []
    expect_name(meta.name, "metadata.name", errors)
    if meta.namespace == "":
        errors.append(required("metadata.namespace"))
    for key, value in (meta.labels or {}).items():
        errors += check_label_key(key, "metadata.labels") + check_label_value(value, "metadata.labels")
    return errors


def _pack_all(texts: list[str], field: str) -> tuple[bytes, ...]:
    packed: dict[bytes, None] = {}
    errors = []
    for index, text in enumerate(texts):
        try:
            packed[pack_address(text)] = None
        except ValueError as error:
            errors.append(invalid(f"{field}[{index}]", text, str(error)))
    if errors:
        raise RefusedError(errors)
    return tuple(packed)
