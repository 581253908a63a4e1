from __future__ import annotations

from typing import Any

import yaml

from agent.lab.manifests import node_manifests, pod_manifests
from agent.lab.plan import plan
from agent.lab.topology import parse
from agent.objects.kinds import KINDS

TOPOLOGY: dict[str, Any] = {
    "name": "t",
    "nodes": {
        "n1": {
            "labels": {"rack": "a"},
            "podCIDRs": ["10.42.0.0/24", "fd42::/64"],
            "pods": ["a1", {"name": "a2", "namespace": "shop", "labels": {"tier": "db"}}],
        },
        "n2": {"podCIDRs": ["10.42.1.0/24"], "pods": ["b1"]},
        "n3": {},
    },
    "links": [["n1", "n2"], ["n2", "n3"]],
}


def documents(text: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in yaml.safe_load_all(text)}


def nodes(**changes: Any) -> dict[str, dict[str, Any]]:
    return documents(node_manifests(plan(parse(TOPOLOGY | changes))))


def pods(**changes: Any) -> dict[str, dict[str, Any]]:
    return documents(pod_manifests(plan(parse(TOPOLOGY | changes))))


def test_a_node_object_says_what_a_kubelet_and_a_controller_would() -> None:
    assert nodes()["n1"] == {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n1", "rack": "a"}},
        "spec": {"podCIDRs": ["10.42.0.0/24", "fd42::/64"]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": "172.31.0.0"},
                {"type": "InternalIP", "address": "fd31::1"},
                {"type": "Hostname", "address": "n1"},
            ]
        },
    }


def test_every_node_is_there_with_or_without_pods() -> None:
    assert list(nodes()) == ["n1", "n2", "n3"]
    assert nodes()["n3"]["spec"] == {"podCIDRs": []}


def test_a_label_of_the_file_wins() -> None:
    changed = nodes(nodes={"n1": {"labels": {"kubernetes.io/hostname": "other"}}, "n2": {}}, links=[["n1", "n2"]])
    assert changed["n1"]["metadata"]["labels"] == {"kubernetes.io/hostname": "other"}


def test_a_pod_object_says_where_it_runs_and_which_addresses_it_has() -> None:
    found = pods()
    assert list(found) == ["a1", "a2", "b1"]
    assert found["a1"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a1", "namespace": "default", "labels": {"app": "a1"}},
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.42.0.2"}, {"ip": "fd42::2"}]},
    }
    assert found["a2"]["metadata"] == {"name": "a2", "namespace": "shop", "labels": {"tier": "db"}}
    assert found["b1"]["spec"] == {"nodeName": "n2"}
    assert [each["ip"] for each in found["b1"]["status"]["podIPs"]] == ["10.42.1.2"]


def test_a_lab_of_one_family_has_objects_of_that_alone() -> None:
    addresses = [each["address"] for each in nodes(families=["IPv6"])["n1"]["status"]["addresses"]]
    assert addresses == ["fd31::1", "n1"]
    assert [each["ip"] for each in pods(families=["IPv6"])["a1"]["status"]["podIPs"]] == ["fd42::2"]


def test_the_agent_reads_them_without_complaint() -> None:
    for name, document in (nodes() | pods()).items():
        decoded = KINDS[document["kind"]].decode(document)
        assert decoded.key.name == name


def test_nothing_is_an_empty_file() -> None:
    assert pods(nodes={"n1": {}, "n2": {}}, links=[["n1", "n2"]]) == {}
    assert nodes(nodes={}, links=[]) == {}
