"""The objects a scenario writes into its manifests, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from agent.namespace import OWN_NAMESPACE

Manifest: TypeAlias = Mapping[str, Any]

_OWN_GROUP = "tortie.dev/v1alpha1"


def bgp_configuration(**spec: Any) -> Manifest:
    """Return the BGPConfiguration; sessions come back within seconds.

    An ExaBGP that has not answered for a third of the hold time is given up: a busy machine may keep it waiting.
    """
    timers = {"holdTimeSeconds": 30, "connectRetryTimeSeconds": 1}
    return _own("BGPConfiguration", "default", {"timers": timers, **spec})


def bgp_node_profile(name: str, **spec: Any) -> Manifest:
    """Return a BGPNodeProfile."""
    return _own("BGPNodeProfile", name, spec)


def bgp_peer(name: str, peer: Mapping[str, Any], **spec: Any) -> Manifest:
    """Return a BGPPeer."""
    return _own("BGPPeer", name, {"peer": peer, **spec})


def network_configuration(**spec: Any) -> Manifest:
    """Return the NetworkConfiguration."""
    return _own("NetworkConfiguration", "default", spec)


def secret(name: str, **keys: str) -> Manifest:
    """Return a Secret of Tortie's own namespace."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": OWN_NAMESPACE},
        "stringData": keys,
    }


def only(*nodes: str) -> Mapping[str, Any]:
    """Return the selector of these nodes."""
    return {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": list(nodes)}]}


def _own(kind: str, name: str, spec: Mapping[str, Any]) -> Manifest:
    return {"apiVersion": _OWN_GROUP, "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}
