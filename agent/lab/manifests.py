"""Node and Pod objects of a plan, as Kubernetes would have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from agent.lab.plan import Plan


def node_manifests(plan: Plan) -> str:
    """Return one YAML document for each node."""
    return yaml.safe_dump_all(_nodes(plan), sort_keys=False)


def _nodes(plan: Plan) -> Iterator[dict[str, Any]]:
    for name, node in plan.nodes.items():
        yield {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **node.labels}},
            "spec": {"podCIDRs": [str(cidr) for cidr in node.pod_cidrs]},
            "status": {
                "addresses": [
                    *({"type": "InternalIP", "address": str(it)} for it in plan.internal_addresses[name]),
                    {"type": "Hostname", "address": name},
                ]
            },
        }


def pod_manifests(plan: Plan) -> str:
    """Return one YAML document for each pod. Their namespaces are for the user to describe, if they have labels."""
    return yaml.safe_dump_all(_pods(plan), sort_keys=False)


def _pods(plan: Plan) -> Iterator[dict[str, Any]]:
    for node_name, node in plan.nodes.items():
        for pod in node.pods:
            labels = pod.labels or {"app": pod.name}
            yield {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": pod.name, "namespace": pod.namespace, "labels": dict(labels)},
                "spec": {"nodeName": node_name},
                "status": {"phase": "Running", "podIPs": [{"ip": str(address)} for address in plan.hosts[pod.name]]},
            }
