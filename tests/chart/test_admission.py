"""An agent's token is good for its own node and for no other."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chart.rendering import NAMESPACE, objects
from tests.kubernetes.cluster import Cluster

pytestmark = pytest.mark.kubernetes

ACCOUNT = "tortie-agent"
KINDS = {
    "ClusterRole",
    "ClusterRoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}
DEADLINE_S = 60.0


def node(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}


def status_of(name: str) -> dict[str, Any]:
    return {"apiVersion": "tortie.dev/v1alpha1", "kind": "NodeRoutingStatus", "metadata": {"name": name}}


@pytest.fixture
def installed(cluster: Cluster) -> Iterator[Cluster]:
    made = [item for item in objects() if item["kind"] in KINDS]
    nodes = [node("own"), node("other")]
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    cluster.token(NAMESPACE, ACCOUNT)  # makes the account
    try:
        cluster.apply(*made, *nodes)
        yield cluster
    finally:
        cluster.delete(pod_on("own"), *made, *nodes, status_of("own"), status_of("other"))


def pod_on(node_name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"agent-{node_name}", "namespace": NAMESPACE},
        "spec": {
            "nodeName": node_name,
            "serviceAccountName": ACCOUNT,
            "containers": [{"name": "agent", "image": "localhost/tortie"}],
        },
    }


def token_of_a_pod_on(cluster: Cluster, node_name: str) -> str:
    """Return a token as a kubelet asks for it: bound to a pod, which is bound to a node."""
    pod = pod_on(node_name)
    cluster.apply(pod)
    bound = {"kind": "Pod", "apiVersion": "v1", "name": f"agent-{node_name}"}
    bound["uid"] = cluster.get(pod)["metadata"]["uid"]
    asked = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3600, "boundObjectRef": bound},
    }
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{ACCOUNT}/token"
    return str(cluster.request("POST", path, asked)["status"]["token"])


def patch(cluster: Cluster, token: str, path: str, body: dict[str, Any], content_type: str) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": content_type}
    status, answer = cluster._exchange("PATCH", path, json.dumps(body), headers)
    return status, answer.decode()


def report(cluster: Cluster, token: str, name: str, part: str = "") -> tuple[int, str]:
    path = f"/apis/tortie.dev/v1alpha1/noderoutingstatuses/{name}{part}?fieldManager=agent&force=true"
    content = {"status": {"localASN": 64512}} if part else {}
    return patch(cluster, token, path, status_of(name) | content, "application/apply-patch+yaml")


def set_condition(cluster: Cluster, token: str, name: str) -> tuple[int, str]:
    condition = {"type": "NetworkUnavailable", "status": "False", "reason": "Test", "message": "a test"}
    body = {"status": {"conditions": [condition]}}
    return patch(cluster, token, f"/api/v1/nodes/{name}/status", body, "application/strategic-merge-patch+json")


def test_an_agent_reports_of_its_own_node_alone(installed: Cluster) -> None:
    token = token_of_a_pod_on(installed, "own")
    deadline = time.monotonic() + DEADLINE_S
    while "an agent reports of its own node alone" not in report(installed, token, "other")[1]:
        assert time.monotonic() < deadline, "the policy never came into force"
        time.sleep(0.2)  # between two looks

    assert report(installed, token, "own")[0] in {200, 201}
    assert report(installed, token, "own", "/status")[0] == 200
    assert set_condition(installed, token, "own")[0] == 200
    assert report(installed, token, "other", "/status")[0] == 403
    assert set_condition(installed, token, "other")[0] == 403
    anywhere = installed.token(NAMESPACE, ACCOUNT)  # of no pod, and so of no node
    assert report(installed, anywhere, "own")[0] == 403
