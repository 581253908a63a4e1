"""The kinds there are, and how a document becomes an object of one. A new kind is one line in `KINDS`.

In: a manifest as plain dicts and lists. Out: the object, or `Invalid` with every finding. Datastores hand
documents in and objects on; only `decode` knows what an object is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, Protocol, cast

from pydantic import ValidationError

from agent.namespace import OWN_NAMESPACE
from agent.objects.bgp_configuration import BGPConfiguration
from agent.objects.bgp_node_profile import BGPNodeProfile
from agent.objects.bgp_peer import BGPPeer
from agent.objects.model import Key, Object
from agent.objects.network_configuration import NetworkConfiguration
from agent.objects.node import Node
from agent.objects.node_routing_status import NodeRoutingStatus
from agent.objects.policy_objects import reader
from agent.objects.problem import Finding, Invalid, show
from agent.objects.secret import Secret
from agent.objects.wording import findings

GROUP: Final = "tortie.dev"
GROUP_VERSION: Final = f"{GROUP}/v1alpha1"
DEFAULT_NAMESPACE: Final = "default"
"""Where an object of Kubernetes' own namespaced kinds is that names no namespace."""

SINGLETON: Final = "default"


class Keyed(Protocol):
    """What a datastore needs to know of an object."""

    @property
    def key(self) -> Key:
        """What names the object for good."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object. `decode` takes a document and raises `Invalid`."""

    name: str
    plural: str  # in the API's paths
    group_version: str
    decode: Callable[[dict[str, Any]], Keyed]
    namespace: str = ""  # of an object that names none; empty: the kind is cluster-scoped
    is_singleton: bool = False  # there is one, named default
    is_written_by_agents: bool = False  # nothing to read
    model: type[Object] | None = None  # None: `policy` reads it, and Kubernetes' own reference describes it

    @property
    def is_ours(self) -> bool:
        """Whether the kind is of our group."""
        return self.group_version == GROUP_VERSION


def from_model(
    model: type[Object],
    plural: str,
    *,
    group_version: str = GROUP_VERSION,
    namespace: str = "",
    is_singleton: bool = False,
    is_written_by_agents: bool = False,
) -> Kind:
    """Return the kind a pydantic model describes."""

    def decode(document: dict[str, Any]) -> Object:
        content = {name: value for name, value in document.items() if name not in {"apiVersion", "kind"}}
        try:
            return model.model_validate(content, by_alias=True, by_name=False)
        except ValidationError as error:
            raise Invalid(findings(error, model, confidential=model is Secret)) from None

    return Kind(model.kind, plural, group_version, decode, namespace, is_singleton, is_written_by_agents, model)


KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        from_model(NetworkConfiguration, "networkconfigurations", is_singleton=True),
        from_model(BGPConfiguration, "bgpconfigurations", is_singleton=True),
        from_model(BGPNodeProfile, "bgpnodeprofiles"),
        from_model(BGPPeer, "bgppeers"),
        from_model(NodeRoutingStatus, "noderoutingstatuses", is_written_by_agents=True),
        from_model(Node, "nodes", group_version="v1"),
        from_model(Secret, "secrets", group_version="v1", namespace=OWN_NAMESPACE),
        Kind("Pod", "pods", "v1", reader("Pod"), DEFAULT_NAMESPACE),
        Kind("Namespace", "namespaces", "v1", reader("Namespace")),
        Kind("NetworkPolicy", "networkpolicies", "networking.k8s.io/v1", reader("NetworkPolicy"), DEFAULT_NAMESPACE),
        Kind(
            "ClusterNetworkPolicy",
            "clusternetworkpolicies",
            "policy.networking.k8s.io/v1alpha2",
            reader("ClusterNetworkPolicy"),
        ),
    )
}


def kind_of(document: Mapping[str, Any]) -> Kind | None:
    """Return the kind of a document, or None for one of Kubernetes' own that is not read. Raises Invalid."""
    name, group_version = document.get("kind"), document.get("apiVersion")
    if not isinstance(name, str) or not name:
        raise Invalid([Finding(("kind",), "is required" if name is None else f"{show(name)} is not a kind")])
    kind = KINDS.get(name)
    if not isinstance(group_version, str) or not group_version:
        wanted = f": a {name} is of {kind.group_version}" if kind else ""
        raise Invalid([Finding(("apiVersion",), f"is required{wanted}")])
    if kind and kind.group_version == group_version:
        return kind
    group = group_version.rpartition("/")[0]
    if kind and group == kind.group_version.rpartition("/")[0]:
        wanted = f"{group_version!r} is not {kind.group_version}, the version of {name} that is read"
        raise Invalid([Finding(("apiVersion",), wanted, group_version)])
    if "." not in group or group.endswith(".k8s.io"):
        return None
    if kind and not kind.is_ours:
        return None
    ours = [other.name for other in KINDS.values() if other.is_ours]
    if kind:
        raise Invalid([Finding(("apiVersion",), f"{group_version!r} has no kind {name}: it is of {GROUP_VERSION}")])
    close = get_close_matches(name, ours, n=1)
    guess = f"; did you mean {close[0]}?" if close else f": {', '.join(ours)}"
    raise Invalid([Finding(("kind",), f"{show(name)} is not a kind that is read{guess}", name)])


def key_of(kind: Kind, document: Mapping[str, Any]) -> Key:
    """Return what names the object a document describes, whatever else is wrong with it. Raises Invalid."""
    metadata = document.get("metadata")
    if not isinstance(metadata, Mapping):
        raise Invalid(
            [Finding(("metadata",), "is required" if metadata is None else f"{show(metadata)} is not a mapping")]
        )
    name, namespace = metadata.get("name"), metadata.get("namespace")
    if not isinstance(name, str) or not name:
        raise Invalid([Finding(("metadata", "name"), "is required" if name is None else f"{show(name)} is not a name")])
    if namespace is not None and not isinstance(namespace, str):
        raise Invalid([Finding(("metadata", "namespace"), f"{show(namespace)} is not a namespace")])
    if namespace and not kind.namespace:
        raise Invalid([Finding(("metadata", "namespace"), f"a {kind.name} has no namespace: leave it out", namespace)])
    return Key(kind.name, namespace or kind.namespace, name)


def decode(kind: Kind, key: Key, document: dict[str, Any]) -> Keyed:
    """Return the object of a document. Raises Invalid."""
    if kind.is_singleton and key.name != SINGLETON:
        wanted = f"{show(key.name)} is not {SINGLETON!r}: there is one {kind.name}, and that is its name"
        raise Invalid([Finding(("metadata", "name"), wanted, key.name)])
    if key.namespace:
        document = document | {"metadata": cast("dict[str, Any]", document["metadata"]) | {"namespace": key.namespace}}
    return kind.decode(document)


def manifest(item: Object) -> dict[str, Any]:
    """Return an object as it stands in a manifest; passwords as `***`."""
    metadata = item.metadata.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    content = item.model_dump(mode="json", by_alias=True, exclude={"metadata"}, exclude_none=True)
    return {"apiVersion": KINDS[item.kind].group_version, "kind": item.kind, "metadata": metadata} | content
