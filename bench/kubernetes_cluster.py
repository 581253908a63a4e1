"""A cluster to measure on: pods of a usual size spread over nodes and namespaces, and policies that speak of them."""

from __future__ import annotations

import itertools
from typing import Any, Final

from tests.kubernetes.cluster import Cluster

PODS_A_NODE: Final = 110
SPACES: Final = 50


def node_name(number: int) -> str:
    """Return the name of a node; the first is the one that is measured."""
    return f"node-{number}"


def address(number: int) -> str:
    """Return the address of a pod."""
    return f"10.{64 + (number >> 16)}.{(number >> 8) & 255}.{number & 255}"


def pod(number: int) -> dict[str, Any]:
    """Return a pod as a Deployment makes them, 4 KB in JSON: every 20 pods are replicas of each other."""
    app, space = f"app-{number // 20}", f"team-{number % SPACES}"
    env = [{"name": f"SETTING_{each}", "value": f"a value of some length, number {each}"} for each in range(16)]
    mounts = [{"name": f"volume-{each}", "mountPath": f"/var/lib/{app}/{each}"} for each in range(4)]
    volumes: list[dict[str, Any]] = [{"name": f"volume-{each}", "emptyDir": {}} for each in range(4)]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{app}-{number:06d}",
            "namespace": space,
            "labels": {
                "app": app,
                "tier": ("web", "api", "db")[number % 3],
                "pod-template-hash": f"{number // 20:08x}",
            },
            "annotations": {"checksum/config": "0" * 64, "prometheus.io/scrape": "true"},
        },
        "spec": {
            "nodeName": node_name(number // PODS_A_NODE),
            "volumes": volumes,
            "containers": [
                {
                    "name": "main",
                    "image": "registry.example/team/app:1.2.3",
                    "ports": [{"name": "http", "containerPort": 8080}],
                    "env": env,
                    "volumeMounts": mounts,
                }
            ],
        },
    }


def policy(number: int) -> dict[str, Any]:
    """Return a policy of a namespace: from a tier of all namespaces to one of its own."""
    peer = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"tier": "web"}}}
    ingress = [{"from": [peer], "ports": [{"port": 8000 + number}]}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"policy-{number}", "namespace": f"team-{number % SPACES}"},
        "spec": {"podSelector": {"matchLabels": {"tier": "db"}}, "policyTypes": ["Ingress"], "ingress": ingress},
    }


def populate(cluster: Cluster, pods: int, policies: int) -> None:
    """Fill a cluster: nodes with pod CIDRs, namespaces, policies, pods that run and have addresses.

    Pods but for one are put into etcd: the API server, which is started anew, would take minutes for them.
    """
    for number in range(SPACES):
        name = f"team-{number}"
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    for number in range(1 + pods // PODS_A_NODE):
        first = number * 256
        cidrs = [f"10.{128 + (first >> 16)}.{(first >> 8) & 255}.0/24", f"fd42:0:0:{number:x}::/64"]
        cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": node_name(number)},
                "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
                # Only the measured node is reachable: no sessions, which are not what is measured here.
                "status": {"addresses": [{"type": "InternalIP", "address": "172.16.9.1"}] if number == 0 else []},
            }
        )
    cluster.apply(*map(policy, range(policies)))
    made, ip = pod(0), address(0)
    cluster.request("POST", f"/api/v1/namespaces/{made['metadata']['namespace']}/pods", made)
    model = relabel(cluster, 0, "status", {"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}})
    del model["metadata"]["managedFields"], model["metadata"]["resourceVersion"]
    cluster.store(_replica(model, number) for number in range(1, pods))
    cluster.stop("kube-apiserver")
    cluster.start_api()
    cluster.install_crds()  # which waits until they are served again


def _replica(model: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a pod as the server would have it, made of one that it has."""
    made, ip = pod(number), address(number)
    metadata = model["metadata"] | made["metadata"] | {"uid": f"{number:08x}-0000-4000-8000-000000000000"}
    spec = model["spec"] | {"nodeName": made["spec"]["nodeName"]}
    return model | {
        "metadata": metadata,
        "spec": spec,
        "status": model["status"] | {"podIP": ip, "podIPs": [{"ip": ip}]},
    }


def relabel(cluster: Cluster, number: int, subresource: str, patch: dict[str, Any]) -> dict[str, Any]:
    """Change a pod, or a part of it, and return it."""
    metadata = pod(number)["metadata"]
    place = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
    path = "/".join(itertools.chain([place], [subresource] if subresource else []))
    return cluster.request("PATCH", path, patch, content_type="application/merge-patch+json")
