"""The CustomResourceDefinitions of Tortie's own kinds, made from their models: what `charts/tortie/crds` holds.

Each is fit for `kubectl apply --server-side` as it stands. It also says that it belongs to the Helm release
`tortie` in `tortie-system`, and is to be kept when that is uninstalled: the chart renders the same files again on
an upgrade (charts/tortie/templates/crds.yaml), which Helm by itself never does with what is under `crds/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from agent.namespace import OWN_NAMESPACE
from agent.objects.kinds import GROUP, GROUP_VERSION, KINDS, SINGLETON, Kind
from agent.objects.schema import structural
from agent.objects.server_checks import RULES, Check, rules

RELEASE = "tortie"
NOT_OF_A_STATUS = frozenset({RULES, "default", "format", "maxLength", "maximum", "minLength", "minimum", "pattern"})
READY = ".status.conditions[?(@.type=='Ready')]"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`; one that is not `always` shown needs `-o wide`."""

    name: str
    path: str
    type: str = "string"
    always: bool = True

    def to_json(self) -> dict[str, str | int]:
        """Return the column as it stands in a CustomResourceDefinition."""
        said: dict[str, str | int] = {"name": self.name, "type": self.type, "jsonPath": self.path}
        return said if self.always else said | {"priority": 1}


AGE = Column("Age", ".metadata.creationTimestamp", "date")


@dataclass(frozen=True, slots=True)
class Shown:
    """How `kubectl` names and shows a kind."""

    short_names: tuple[str, ...]
    columns: tuple[Column, ...]


SHOWN: Mapping[str, Shown] = {
    "NetworkConfiguration": Shown(
        ("netconf",),
        (
            Column("Pod CIDRs", ".spec.podCIDRs"),
            Column("Service CIDRs", ".spec.serviceCIDRs"),
            Column("Node Routes", ".spec.nodeRoutes"),
            Column("Encapsulation", ".spec.encapsulation.mode"),
            Column("Outgoing NAT", ".spec.outgoingNAT.enabled", "boolean"),
            Column("MTU", ".spec.mtu", always=False),
        ),
    ),
    "BGPConfiguration": Shown(
        ("bgpconf",),
        (
            Column("AS", ".spec.localASN", "integer"),
            Column("Mesh", ".spec.nodeMesh.enabled", "boolean"),
            Column("Graceful Restart", ".spec.gracefulRestart.enabled", "boolean"),
            Column("Hold Time", ".spec.timers.holdTimeSeconds", "integer", always=False),
            Column("Listen Port", ".spec.listenPort", "integer", always=False),
            Column("Max Paths", ".spec.maxPaths", "integer", always=False),
        ),
    ),
    "BGPNodeProfile": Shown(
        ("bgpprofile",),
        (
            Column("AS", ".spec.localASN", "integer"),
            Column("Router ID", ".spec.routerID"),
            Column("Transit", ".spec.transit", "boolean", always=False),
            Column("Nodes", ".spec.nodeSelector", always=False),
        ),
    ),
    "BGPPeer": Shown(
        (),
        (
            Column("Peer Address", ".spec.peer.address"),
            Column("Peer AS", ".spec.peerASN"),
            Column("Shutdown", ".spec.shutdown"),
            Column("Nodes", ".spec.nodeSelector", always=False),
            Column("Peer Nodes", ".spec.peer.nodeSelector", always=False),
        ),
    ),
    "NodeRoutingStatus": Shown(
        ("nrs",),
        (
            Column("Ready", f"{READY}.status"),
            Column("AS", ".status.localASN", "integer"),
            Column("Router ID", ".status.routerID"),
            Column("Established", ".status.establishedSessions", "integer"),
            Column("Sessions", ".status.wantedSessions", "integer"),
            Column("Routes", ".status.routes.installed", "integer"),
            Column("Drain", ".status.drain.state"),
            Column("Heartbeat", ".status.lastHeartbeatTime", "date"),
            Column("Message", f"{READY}.message"),
            Column("Reason", f"{READY}.reason", always=False),
            Column("Refused Routes", ".status.routes.refused", "integer", always=False),
        ),
    ),
}


def crds() -> dict[str, str]:
    """Return the text of each file by its name."""
    return {
        f"{GROUP}_{kind.plural}.yaml": yaml.dump(crd(kind), Dumper=Plain, sort_keys=False, width=110)
        for kind in KINDS.values()
        if kind.is_ours
    }


class Plain(yaml.SafeDumper):
    """Writes everything in place: no anchors."""

    def ignore_aliases(self, _data: Any) -> bool:
        """Say so of everything."""
        return True


def crd(kind: Kind) -> dict[str, Any]:
    shown = SHOWN[kind.name]
    assert kind.model is not None, f"{kind.name} has no model to describe"  # noqa: S101 - a mistake in KINDS
    names = {
        "kind": kind.name,
        "listKind": f"{kind.name}List",
        "plural": kind.plural,
        "singular": kind.name.lower(),
        "shortNames": list(shown.short_names),
        "categories": [RELEASE],
    }
    version = {
        "name": GROUP_VERSION.rpartition("/")[2],
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [column.to_json() for column in (*shown.columns, AGE)],
        "schema": {"openAPIV3Schema": schema(kind)},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{kind.plural}.{GROUP}",
            "labels": {"app.kubernetes.io/name": RELEASE, "app.kubernetes.io/managed-by": "Helm"},
            "annotations": {
                "helm.sh/resource-policy": "keep",
                "meta.helm.sh/release-name": RELEASE,
                "meta.helm.sh/release-namespace": OWN_NAMESPACE,
            },
        },
        "spec": {
            "group": GROUP,
            "names": {name: value for name, value in names.items() if value},
            "scope": "Cluster",
            "versions": [version | ({"subresources": {"status": {}}} if kind.is_written_by_agents else {})],
        },
    }


def schema(kind: Kind) -> dict[str, Any]:
    assert kind.model is not None, f"{kind.name} has no model to describe"  # noqa: S101 - a mistake in KINDS
    if kind.is_written_by_agents:
        return explained(as_reported(structural(kind.model)))
    whole = explained(structural(kind.model))
    if kind.is_singleton:
        only = Check(f"self.metadata.name == '{SINGLETON}'", f"there is one {kind.name}, and its name is {SINGLETON}")
        whole |= rules(only)
    return whole


def explained(schema: dict[str, Any]) -> dict[str, Any]:
    """Say range and default in the descriptions: `kubectl explain` shows neither keyword."""
    said = dict(schema)
    if facts := "; ".join(filter(None, (range_of(said), default_of(said)))):
        said["description"] = f"{said['description'].removesuffix('.')} ({facts})."
    if "properties" in said:
        said["properties"] = {name: explained(inner) for name, inner in said["properties"].items()}
    if "items" in said:
        said["items"] = explained(said["items"])
    return said


def range_of(schema: Mapping[str, Any]) -> str:
    return f"{schema['minimum']} to {schema['maximum']}" if "minimum" in schema else ""


def default_of(schema: Mapping[str, Any]) -> str:
    match schema.get("default"):
        case None | dict():
            return ""
        case bool() as switch:
            return f"default {str(switch).lower()}"
        case value:
            return f"default {value}"


def as_reported(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a status: a shape, and no rule that could keep an agent from saying what is so."""
    kept = {name: value for name, value in schema.items() if name not in NOT_OF_A_STATUS}
    if "properties" in kept:
        kept["properties"] = {name: as_reported(inner) for name, inner in kept["properties"].items()}
        if "conditions" in kept["properties"]:
            kept["properties"]["conditions"] |= {
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            }
    if "items" in kept:
        kept["items"] = as_reported(kept["items"])
    return kept
