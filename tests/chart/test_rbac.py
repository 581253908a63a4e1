"""An agent with the rights of the chart, and no others: enough for all it does, and none too many."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agent.fleet.kubernetes import AGENT_LABELS
from tests.chart.rendering import NAMESPACE, hooks, objects
from tests.kubernetes import assets
from tests.kubernetes.cluster import ApiError, Cluster
from tests.kubernetes.node import TORTIE, WHY_NOT, AgentNode, until

pytestmark = [pytest.mark.kubernetes, pytest.mark.kernel, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

ACCOUNT = "tortie-agent"
USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
KINDS = {"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}
RIGHTS = [item for item in objects() if item["kind"] in KINDS]
RIGHTS_OF_A_TEST = [item for item in hooks() if item["kind"] in KINDS]
OURS = {"apiVersion": "tortie.dev/v1alpha1"}
STATUS = OURS | {"kind": "NodeRoutingStatus", "metadata": {"name": "n1"}}
POLICY_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "clusternetworkpolicies.policy.networking.k8s.io",
        "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
    },
    "spec": {
        "group": "policy.networking.k8s.io",
        "names": {"kind": "ClusterNetworkPolicy", "plural": "clusternetworkpolicies"},
        "scope": "Cluster",
        "versions": [
            {
                "name": "v1alpha2",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
"""Stands for the real one: an agent follows the kind where it is served."""

WORK = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}},
    {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "db-in", "namespace": "shop"},
        "spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "api"}}}]}]},
    },
    {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "bgp", "namespace": NAMESPACE},
        "data": {"tor": "YWJj"},
    },
    OURS
    | {
        "kind": "BGPConfiguration",
        "metadata": {"name": "default"},
        "spec": {"nodeMesh": {"passwordSecretRef": {"name": "bgp", "key": "tor"}}},
    },
    # Two that set the same thing: one of them is not in force, and an Event says so
    *(
        OURS | {"kind": "BGPNodeProfile", "metadata": {"name": name}, "spec": {"localASN": asn}}
        for name, asn in (("a", 65001), ("b", 65002))
    ),
]


class Right(NamedTuple):
    """One thing that may be done, anywhere or in one namespace."""

    verb: str
    group: str
    resource: str
    namespace: str


def granted(rights: list[dict[str, Any]]) -> set[Right]:
    roles = (item for item in rights if item["kind"] in {"ClusterRole", "Role"})
    return {
        Right(verb, group, resource, role["metadata"].get("namespace", ""))
        for role in roles
        for rule in role["rules"]
        for verb, group, resource in product(rule["verbs"], rule["apiGroups"], rule["resources"])
    }


def used(cluster: Cluster) -> set[Right]:
    """Return the rights that the agent's requests needed, by namespace only where the right is of a namespace.

    Where the server streams lists an agent never asks for one, but another server may not; and what server-side
    apply makes new is a patch that needs the right to create.
    """
    asked = {
        Right(call.verb, call.group, call.resource, NAMESPACE if call.resource == "secrets" else "")
        for call in cluster.calls(USER)
    }
    lists = {right._replace(verb="list") for right in asked if right.verb == "watch"}
    made = {
        right._replace(verb="create")
        for right in asked
        if right.verb == "patch" and right.resource == "noderoutingstatuses"
    }
    return asked | lists | made


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of our own: its audit log is ours alone."""
    if reason := assets.missing(*assets.SERVER):
        pytest.skip(reason)
    with Cluster.started(tmp_path / "cluster") as running:
        running.install_crds()
        running.define(POLICY_CRD)
        running.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        yield running


def refusals(cluster: Cluster) -> set[str]:
    """Return the requests of the agent that were not allowed."""
    events = map(json.loads, cluster.audit_log.read_text().splitlines())
    return {
        f"{event['verb']} {event['requestURI']}"
        for event in events
        if event["user"]["username"] == USER and event.get("responseStatus", {}).get("code") == 403
    }


def conditions(cluster: Cluster) -> dict[str, str]:
    try:
        found = cluster.get(STATUS).get("status", {}).get("conditions", ())
    except ApiError:
        return {}
    return {each["type"]: each["status"] for each in found}


def test_an_agent_does_all_its_work_with_the_rights_of_the_chart_and_uses_every_one(
    own: Cluster, tmp_path: Path
) -> None:
    own.apply(*RIGHTS, *WORK)
    token = own.token(NAMESPACE, ACCOUNT)
    with AgentNode.built(own, tmp_path) as node:
        own.apply(node.manifest())
        node.start(token, POD_NAMESPACE=NAMESPACE)
        node.until_in_force()
        until(lambda: conditions(own).get("Ready") == "True", lambda: f"{node.status()} {refusals(own)}")
        until(lambda: granted(RIGHTS) <= used(own), lambda: f"granted and not used: {granted(RIGHTS) - used(own)}")

    assert refusals(own) == set()
    assert used(own) <= granted(RIGHTS), "asked for without a right"


def test_a_test_of_the_release_asks_with_rights_of_its_own_and_uses_every_one(own: Cluster) -> None:
    own.apply(*RIGHTS_OF_A_TEST)
    (account,) = (item["metadata"]["name"] for item in hooks() if item["kind"] == "ServiceAccount")
    (container,) = hooks()[-1]["spec"]["containers"]
    kubeconfig = own.kubeconfig(token=own.token(NAMESPACE, account), name=account)
    there = {"KUBECONFIG": str(kubeconfig), "TORTIE_NAMESPACE": NAMESPACE}

    def test() -> subprocess.CompletedProcess[str]:
        command = [TORTIE, *container["args"]]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | there)

    own.apply(node("n1"))
    done = test()
    assert (done.returncode, done.stderr) == (2, f"tortie: n1: no agent pod is there in namespace {NAMESPACE}\n")
    asked = {Right(call.verb, call.group, call.resource, call.namespace)
             for call in own.calls(f"system:serviceaccount:{NAMESPACE}:{account}")}  # fmt: skip
    assert asked == granted(RIGHTS_OF_A_TEST)

    own.apply(agent_pod("n1"), STATUS | {"status": {"conditions": [condition("False")]}})
    done = test()
    assert (done.returncode, done.stderr) == (1, "")
    assert "SessionsDown: waits for tor-1" in done.stdout
    own.apply(STATUS | {"status": {"conditions": [condition("True")]}})
    assert test().returncode == 0


def node(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}


def agent_pod(node_name: str) -> dict[str, Any]:
    labels = dict(each.split("=") for each in AGENT_LABELS.split(","))
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "agent", "namespace": NAMESPACE, "labels": labels},
        "spec": {"nodeName": node_name, "containers": [{"name": "agent", "image": "none"}]},
        "status": {"phase": "Running"},
    }


def condition(status: str) -> dict[str, str]:
    said = {"reason": "SessionsDown", "message": "waits for tor-1", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    return {"type": "Ready", "status": status, **said}


def test_an_agent_may_not_do_what_it_has_no_business_with(own: Cluster) -> None:
    own.apply(*RIGHTS)
    own.token(NAMESPACE, ACCOUNT)
    for words in (
        "get secrets -n default",
        "list secrets -n kube-system",
        "delete nodes",
        "patch nodes",
        "create pods",
        "delete bgppeers.tortie.dev",
        "patch bgppeers.tortie.dev",
        "delete noderoutingstatuses.tortie.dev",
        "get configmaps -n kube-system",
        "create clusterroles",
        "impersonate users",
        "create pods --subresource=exec",
    ):
        review = own.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", access_review(words.split()))
        assert not review["status"]["allowed"], words


def access_review(words: list[str]) -> dict[str, Any]:
    resource, _, group = words[1].partition(".")
    said = {"verb": words[0], "resource": resource, "group": group}
    if "-n" in words:
        said["namespace"] = words[words.index("-n") + 1]
    if words[-1].startswith("--subresource="):
        said["subresource"] = words[-1].partition("=")[2]
    spec = {"user": USER, "groups": ["system:serviceaccounts"], "resourceAttributes": said}
    return {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
