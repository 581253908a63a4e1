"""Pods, namespaces and policies: read by `policy`, carried by the datastore like every other object.

There may be hundreds of thousands of them, so they are the flat values that `policy` computes with, in a shell that
has the key; what `policy` refuses is told like what a pydantic model refuses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from agent.objects.model import Key
from agent.objects.node import Node
from agent.objects.problem import Finding, Invalid, Path, Problem
from inet.prefix import parse_address
from policy import objects as policy_objects
from policy.cidr import parse_block
from policy.clusterpolicy import decode_cluster_network_policy
from policy.compiler import Deleted, Update
from policy.fields import RefusedError
from policy.networkpolicy import decode_network_policy
from policy.objects import NAMESPACE_NAME_LABEL, Namespace, Pod, decode_namespace, decode_pod
from policy.policies import Policy

Value: TypeAlias = Pod | Namespace | Policy

READERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Value]]] = {
    "Pod": decode_pod,
    "Namespace": decode_namespace,
    "NetworkPolicy": decode_network_policy,
    "ClusterNetworkPolicy": decode_cluster_network_policy,
}

_STEP: Final = re.compile(r"\[(\d+)\]|([^.\[\]]+)")
_ADDRESS_TYPES: Final = frozenset({"InternalIP", "ExternalIP"})


@dataclass(frozen=True, slots=True)
class PolicyObject:
    """An object that `policy` reads."""

    key: Key
    value: Value


def reader(kind: str) -> Callable[[dict[str, Any]], PolicyObject]:
    """Return what makes an object of a document of a kind; it raises Invalid."""
    decode = READERS[kind]

    def read(document: dict[str, Any]) -> PolicyObject:
        try:
            value = decode(document)
        except RefusedError as refused:
            raise invalid_of(refused) from None
        metadata = document["metadata"]
        return PolicyObject(Key(kind, metadata.get("namespace") or "", metadata["name"]), value)

    return read


def invalid_of(refused: RefusedError) -> Invalid:
    """Return what `policy` refuses as what a datastore is told."""
    return Invalid([Finding(steps(error.field), error.reason) for error in refused.errors])


def steps(field: str) -> Path:
    """Return `spec.ingress[0].from` as the steps it takes through a document."""
    return tuple(int(number) if number else name for number, name in _STEP.findall(field))


def update_of(item: object) -> Update | None:
    """Return what an object means to `policy`; None for objects that mean nothing to it."""
    if isinstance(item, PolicyObject):
        return item.value
    return _node(item) if isinstance(item, Node) else None


def deletion_of(key: Key) -> Deleted | None:
    """Return what the end of an object means to `policy`; None for objects that mean nothing to it."""
    return Deleted(*key) if key.kind in READERS or key.kind == Node.kind else None


def implied_namespaces(keys: Iterable[Key]) -> dict[Key, PolicyObject]:
    """Return the namespaces that pods are in and nobody describes, as an API server makes them: with their name."""
    known = set(keys)
    names = {key.namespace for key in known if key.kind == "Pod"}
    wanted = {Key("Namespace", "", name): Namespace(name, {NAMESPACE_NAME_LABEL: name}) for name in sorted(names)}
    return {key: PolicyObject(key, value) for key, value in wanted.items() if key not in known}


def _node(node: Node) -> policy_objects.Node:
    packed: dict[bytes, None] = {}
    for entry in node.status.addresses:
        if entry.type in _ADDRESS_TYPES:
            try:
                packed[parse_address(str(entry.address)).packed] = None
            except ValueError:
                continue  # a host name
    blocks = tuple(parse_block(str(cidr)) for cidr in node.pod_cidrs)
    return policy_objects.Node(node.name, dict(node.metadata.labels), tuple(packed), blocks)


def notices(items: Iterable[object]) -> list[Problem]:
    """Return what valid policies ask for that is not enforced, with what is done instead."""
    policies = ((item.key, item.value) for item in items if isinstance(item, PolicyObject))
    return [
        Problem(kind=key.kind, namespace=key.namespace, name=key.name, field=notice.field, message=notice.text)
        for key, policy in policies
        if isinstance(policy, Policy)
        for notice in policy.notices
    ]
