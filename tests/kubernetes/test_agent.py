"""The agent on a real API server: what it takes from there, and what it writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.cluster import ApiError, Cluster
from tests.kubernetes.node import WHY_NOT, AgentNode, until

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.kernel,
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT),
]


@pytest.fixture
def node(cluster: Cluster, tmp_path: Path) -> Iterator[AgentNode]:
    with AgentNode.built(cluster, tmp_path) as node:
        yield node
        cluster.delete(node.manifest(), status_of("n1"))


def status_of(name: str) -> dict[str, Any]:
    return {"apiVersion": "tortie.dev/v1alpha1", "kind": "NodeRoutingStatus", "metadata": {"name": name}}


def written(node: AgentNode) -> dict[str, Any]:
    try:
        return node.cluster.get(status_of(node.name)).get("status", {})
    except ApiError:
        return {}


def conditions(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["type"]: each for each in status.get("conditions", ())}


def test_it_programs_the_pod_cidrs_of_its_node_and_reports_so(node: AgentNode) -> None:
    node.cluster.apply(node.manifest())
    node.start()

    node.until_in_force()
    assert "blackhole 10.42.9.0/24" in node.routes()
    assert "blackhole fd42:0:0:9::/64" in node.routes()

    until(lambda: conditions(written(node)).get("Ready", {}).get("status") == "True", lambda: written(node))
    status = written(node)
    assert status["localASN"] == 64512
    assert status["routes"]["installed"] == 2
    assert conditions(status)["ObjectsAccepted"]["status"] == "True"

    def unavailable() -> list[str]:
        found = node.cluster.get(node.manifest())["status"].get("conditions", ())
        return [each["status"] for each in found if each["type"] == "NetworkUnavailable"]

    until(lambda: unavailable() == ["False"], unavailable)
