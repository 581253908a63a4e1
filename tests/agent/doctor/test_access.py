from __future__ import annotations

import pytest

from agent.doctor import Level, LookError
from agent.doctor.access import Right, gather_rights, judge_rights, review
from agent.kubernetes.access import Access
from agent.kubernetes.client import Client
from tests.agent.doctor.patients import patient
from tests.kubernetes.cluster import Cluster

LIST = Right("list", "pods", "", "whom policies select", granted=True)


def test_rights_that_are_granted_are_counted_and_one_that_is_missing_is_named() -> None:
    assert [each.level for each in judge_rights([LIST])] == [Level.OK]
    (finding,) = judge_rights(
        [LIST, LIST._replace(verb="watch", granted=False), LIST._replace(granted=False, why="whom policies select")]
    )
    assert finding.level is Level.FAIL
    assert finding.text == "the agent may not watch or list pods: whom policies select"


async def test_outside_of_a_pod_there_are_no_rights_to_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    facts = await gather_rights(patient())
    assert facts is None
    assert list(judge_rights(facts)) == []


@pytest.mark.kubernetes
async def test_a_real_api_server_says_what_an_account_may_do(cluster: Cluster) -> None:
    token = cluster.token("look-doctor", "agent")
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "look-doctor"},
        "rules": [{"apiGroups": [""], "resources": ["nodes", "nodes/status"], "verbs": ["*"]}],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "look-doctor"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "look-doctor"},
        "subjects": [{"kind": "ServiceAccount", "name": "agent", "namespace": "look-doctor"}],
    }
    cluster.apply(role, binding)
    client = Client(Access(cluster.kubeconfig(token, name="look-doctor")))
    try:
        granted = await review(client, "look-doctor")
        for _ in range(200):  # until the binding has arrived at the authorizer
            if any(each.granted for each in granted):
                break
            granted = await review(client, "look-doctor")
    finally:
        await client.close()
        cluster.delete(binding, role)
    assert {(each.resource, each.verb) for each in granted if each.granted} == {
        ("nodes", "list"),
        ("nodes", "watch"),
        ("nodes/status", "patch"),
    }
    texts = [each.text for each in judge_rights(granted)]
    assert "the agent may not list or watch secrets in namespace look-doctor: passwords of sessions, by name" in texts


async def test_an_api_server_that_does_not_answer_leaves_it_open(tmp_path: object) -> None:
    client = Client(Access(None))
    with pytest.raises(LookError, match="does not say what the agent may do"):
        await review(client, "x")
    await client.close()
    assert tmp_path
