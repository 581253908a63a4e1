"""The cluster as a node tells of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.clusterreport import ClusterReport, NodeReport, cluster_report
from agent.surroundings import Surroundings
from tests.agent.objects_of_nodes import batch, node_object
from tests.agent.policy_world import manifest

SOMEWHERE = {"name": "far", "mode": "Always", "type": "IPIP", "nodeSelector": {"matchLabels": {"rack": "b"}}}


def report(**spec: Any) -> ClusterReport:
    around = Surroundings("n1")
    settings = manifest("NetworkConfiguration", "default", apiVersion="tortie.dev/v1alpha1", spec=spec)
    around.take(batch(node_object(2), node_object(1), settings))
    return cluster_report("n1", around)


def test_it_names_nodes_and_settings() -> None:
    assert report(podCIDRs=["10.42.0.0/16"], serviceCIDRs=["10.43.0.0/16"]) == ClusterReport(
        "n1",
        (
            NodeReport("n1", ("10.42.1.0/24", "fd42:0:0:1::/64"), ("192.168.0.1", "fd00::1")),
            NodeReport("n2", ("10.42.2.0/24", "fd42:0:0:2::/64"), ("192.168.0.2", "fd00::2")),
        ),
        ("10.42.0.0/16",),
        ("10.43.0.0/16",),
        (),
        outgoing_nat=True,
    )


@pytest.mark.parametrize(
    ("spec", "tunnels"),
    [
        ({}, ()),
        ({"encapsulation": {"mode": "Fallback", "type": "IPIP"}}, ("IPIP",)),
        ({"encapsulation": {"mode": "Never", "overrides": [SOMEWHERE]}}, ("IPIP",)),
    ],
    ids=["never", "fallback", "somewhere"],
)
def test_it_says_which_tunnels_there_may_be(spec: dict[str, Any], tunnels: tuple[str, ...]) -> None:
    assert report(**spec).tunnels == tunnels


def test_who_asks_the_agent_reads_what_it_wrote() -> None:
    told = report(outgoingNAT={"enabled": False})
    wire = msgspec.json.encode(told)
    assert b'"podCIDRs"' in wire
    assert b'"outgoingNAT":false' in wire
    assert msgspec.json.decode(wire, type=ClusterReport) == told
