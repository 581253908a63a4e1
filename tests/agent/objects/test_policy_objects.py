from __future__ import annotations

from typing import Any

import pytest

from agent.objects.kinds import KINDS, decode, key_of
from agent.objects.model import Key
from agent.objects.node import Node
from agent.objects.policy_objects import deletion_of, implied_namespaces, notices, update_of
from agent.objects.problem import Invalid
from policy import objects as policy_objects
from policy.cidr import address_text
from policy.compiler import Deleted
from policy.objects import Namespace


def read(kind: str, name: str, namespace: str = "", **content: Any) -> Any:
    document = {"metadata": {"name": name} | ({"namespace": namespace} if namespace else {}), **content}
    return decode(KINDS[kind], key_of(KINDS[kind], document), document)


def test_a_policy_and_a_pod_without_a_namespace_are_in_the_default_one() -> None:
    assert read("Pod", "a").key == Key("Pod", "default", "a")
    assert read("NetworkPolicy", "p").key == Key("NetworkPolicy", "default", "p")
    assert read("ClusterNetworkPolicy", "c", spec=admin()).key == Key("ClusterNetworkPolicy", "", "c")


def test_every_complaint_is_found_at_its_place_in_the_document() -> None:
    rule = {"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}], "ports": [{"port": 0}]}
    with pytest.raises(Invalid) as error:
        read("NetworkPolicy", "p", spec={"podSelector": {}, "ingress": [{}, rule]})
    assert [finding.path for finding in error.value.findings] == [
        ("spec", "ingress", 1, "ports", 0, "port"),
        ("spec", "ingress", 1, "from", 0, "ipBlock", "cidr"),
    ]


def test_a_pod_with_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(Invalid) as error:
        read("Pod", "a", status={"podIPs": [{"ip": "10.0.0.300"}]})
    assert error.value.findings[0].field == "status.podIPs[0]"


def test_a_node_means_its_addresses_pod_cidrs_and_labels_and_no_host_name() -> None:
    node = Node.model_validate(
        {
            "metadata": {"name": "n1", "labels": {"rack": "a"}},
            "spec": {"podCIDRs": ["10.42.0.0/24", "fd42::/64"]},
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": "172.16.1.11"},
                    {"type": "ExternalIP", "address": "2001:db8::1"},
                    {"type": "Hostname", "address": "n1"},
                ]
            },
        }
    )
    update = update_of(node)
    assert isinstance(update, policy_objects.Node)
    assert [address_text(each) for each in update.addresses] == ["172.16.1.11", "2001:db8::1"]
    assert [str(each) for each in update.pod_cidrs] == ["10.42.0.0/24", "fd42::/64"]
    assert update.labels == {"rack": "a"}


def test_objects_that_are_no_matter_of_policy_mean_nothing_to_it() -> None:
    assert update_of(read("BGPPeer", "p", spec={"peer": {"address": "10.0.0.1"}, "peerASN": 1})) is None
    assert deletion_of(Key("BGPPeer", "", "p")) is None
    assert deletion_of(Key("Pod", "x", "a")) == Deleted("Pod", "x", "a")
    assert deletion_of(Key("Node", "", "n1")) == Deleted("Node", "", "n1")


def test_a_namespace_that_only_pods_speak_of_has_its_name_as_a_label() -> None:
    described = Key("Namespace", "", "x")
    implied = implied_namespaces([described, Key("Pod", "x", "a"), Key("Pod", "y", "a"), Key("Secret", "z", "s")])
    assert [each.value for each in implied.values()] == [Namespace("y", {"kubernetes.io/metadata.name": "y"})]


def test_domain_names_are_said_not_to_be_enforced() -> None:
    rule = {"name": "web", "action": "Accept", "to": [{"domainNames": ["example.com"]}]}
    policy = read("ClusterNetworkPolicy", "web", spec=admin(egress=[rule]))
    (problem,) = notices([policy])
    assert (problem.kind, problem.name, problem.field) == ("ClusterNetworkPolicy", "web", "spec.egress[0]")
    assert "not enforced" in problem.message


def admin(**rules: Any) -> dict[str, Any]:
    return {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, **rules}
