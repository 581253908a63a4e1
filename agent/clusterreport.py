"""The cluster as a node's settings depend on it: nodes, and what NetworkConfiguration says, as JSON has it.

The agent tells it from the objects it follows; where no agent runs it is made from manifests in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:  # the command line reads these reports without what objects are made of
    from agent.surroundings import KnownNode, Surroundings


class NodeReport(msgspec.Struct, rename="camel", frozen=True):
    """A Node object, in short."""

    name: str
    pod_cidrs: tuple[str, ...] = msgspec.field(name="podCIDRs")
    addresses: tuple[str, ...]


class ClusterReport(msgspec.Struct, rename="camel", frozen=True):
    """What is configured, and which nodes there are. `node` is the one that tells."""

    node: str
    nodes: tuple[NodeReport, ...]
    pod_cidrs: tuple[str, ...] = msgspec.field(name="podCIDRs")  # as configured; none: what the nodes have
    service_cidrs: tuple[str, ...] = msgspec.field(name="serviceCIDRs")
    tunnels: tuple[str, ...]  # types of tunnels that may be used: VXLAN, IPIP
    outgoing_nat: bool = msgspec.field(name="outgoingNAT")


def cluster_report(node: str, around: Surroundings) -> ClusterReport:
    """Return what there is around a node."""
    said = around.network
    modes = [(said.encapsulation.mode, said.encapsulation.type)]
    modes += [(each.mode, each.type or said.encapsulation.type) for each in said.encapsulation.overrides]
    return ClusterReport(
        node=node,
        nodes=tuple(_nodes(around.nodes.values())),
        pod_cidrs=tuple(map(str, said.pod_cidrs)),
        service_cidrs=tuple(map(str, said.service_cidrs)),
        tunnels=tuple(dict.fromkeys(kind for mode, kind in modes if mode != "Never")),
        outgoing_nat=said.outgoing_nat.enabled,
    )


def _nodes(nodes: Iterable[KnownNode]) -> Iterable[NodeReport]:
    return (
        NodeReport(node.name, tuple(map(str, node.pod_cidrs)), tuple(map(str, node.internal_addresses)))
        for node in sorted(nodes, key=lambda node: node.name)
    )
