"""The control plane the other tests run against is a real one."""

from __future__ import annotations

import pytest

from tests.kubernetes.cluster import ApiError, Cluster

pytestmark = pytest.mark.kubernetes


def test_objects_come_back_as_applied_with_their_status(cluster: Cluster) -> None:
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "harness", "labels": {"rack": "a"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.16.1.11"}]},
    }
    cluster.apply(node)
    try:
        found = cluster.get(node)
        assert found["metadata"]["labels"]["rack"] == "a"
        assert found["status"]["addresses"] == node["status"]["addresses"]
        assert "harness" in cluster.kubectl("get", "nodes")
    finally:
        cluster.delete(node)
    with pytest.raises(ApiError) as refused:
        cluster.get(node)
    assert refused.value.status == 404
