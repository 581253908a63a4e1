"""Policies of the scenarios, as manifests."""

from __future__ import annotations

from typing import Any


def network_policy(name: str, app: str | None, namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    """Return a NetworkPolicy about the pods of an app, or of a whole namespace."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": {"matchLabels": {"app": app}} if app else {}, **spec},
    }


def cluster_policy(name: str, tier: str, **rules: Any) -> dict[str, Any]:
    """Return a ClusterNetworkPolicy about every pod."""
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"tier": tier, "priority": 10, "subject": {"namespaces": {}}, **rules},
    }


def from_app(app: str) -> dict[str, Any]:
    """Return an ingress rule: pods of an app in the same namespace."""
    return {"from": [{"podSelector": {"matchLabels": {"app": app}}}]}


DB_IN = network_policy("db-in", "db", ingress=[{**from_app("api"), "ports": [{"port": 5432}]}])
