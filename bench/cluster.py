"""Synthetic clusters: pods dealt over namespaces and nodes, and policies that select some of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from policy.objects import NAMESPACE_NAME_LABEL, NamedPort, Namespace, Pod

NODE: Final = "node-0"
HTTP: Final = (NamedPort("http", 6, 8080),)


class Shape(NamedTuple):
    """A synthetic cluster: pods dealt over namespaces and nodes, `replicas` of them alike in labels."""

    pods: int
    policies: int
    namespaces: int
    local_pods: int
    replicas: int = 10
    unique_labels: bool = False


def namespaces(shape: Shape) -> Iterator[Namespace]:
    for number in range(shape.namespaces):
        name = f"team-{number}"
        yield Namespace(
            name, {NAMESPACE_NAME_LABEL: name, "tenant": f"t{number % 50}", "env": ("prod", "dev")[number % 2]}
        )


def pod(shape: Shape, number: int, **labels: str) -> Pod:
    per_namespace = -(-shape.pods // shape.namespaces)
    space, within = divmod(number, per_namespace)
    app = within // shape.replicas
    every = shape.pods // shape.local_pods
    is_local = number % every == 0 and number // every < shape.local_pods
    own = {
        "app": f"app-{app}",
        "tier": ("web", "api", "db")[app % 3],
        "pod-template-hash": f"{(space * 7919 + app) & 0xFFFFFFFF:08x}",
        **({"statefulset.kubernetes.io/pod-name": f"app-{app}-{number}"} if shape.unique_labels else {}),
        **labels,
    }
    return Pod(
        namespace=f"team-{space}",
        name=f"app-{app}-{number:06d}",
        labels=own,
        addresses=((0x0A000000 + number).to_bytes(4), (0xFD << 120 | number).to_bytes(16)),
        ports=HTTP,
        node=NODE if is_local else f"node-{1 + number % 2499}",
    )


def raw_policy(shape: Shape, number: int) -> dict[str, Any]:
    space, nth = number % shape.namespaces, number // shape.namespaces
    peers: list[dict[str, Any]] = [{"podSelector": {"matchLabels": {"app": f"app-{(nth + 1) % 25}"}}}]
    match nth % 4:
        case 0:
            peers.append({"namespaceSelector": {"matchLabels": {"tenant": f"t{space % 50}"}}})
        case 1:
            peers.append(
                {"ipBlock": {"cidr": f"172.{16 + nth % 16}.0.0/16", "except": [f"172.{16 + nth % 16}.1.0/24"]}}
            )
        case 2:
            only = {"matchLabels": {NAMESPACE_NAME_LABEL: f"team-{(space + 1) % shape.namespaces}"}}
            peers.append({"namespaceSelector": only, "podSelector": {"matchLabels": {"tier": "web"}}})
    ports: list[dict[str, Any]] = [{"port": 8080 + nth}, {"port": 9000, "endPort": 9010}]
    if nth % 5 == 0:
        ports.append({"port": "http"})
    selected = {"matchExpressions": [{"key": "app", "operator": "In", "values": [f"app-{nth}", f"app-{nth + 5}"]}]}
    return {
        "metadata": {"namespace": f"team-{space}", "name": f"policy-{nth}"},
        "spec": {
            "podSelector": {} if nth == 0 else selected,
            "policyTypes": ["Ingress", "Egress"] if nth % 2 else ["Ingress"],
            "ingress": [{"from": peers, "ports": ports}],
            **({"egress": [{"to": peers}]} if nth % 2 else {}),
        },
    }
