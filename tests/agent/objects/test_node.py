from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import ip_address

import pytest

from agent.objects import Node
from inet.prefix import Prefix
from tests.agent.objects.manifests import accepted, refusals

HEAD = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n"


def test_a_node_of_the_api_server_is_read_and_the_rest_of_it_skipped() -> None:
    node = accepted(
        Node,
        """
apiVersion: v1
kind: Node
metadata:
  name: n1
  uid: 5d2c7c2e-1111-4444-8888-aaaaaaaaaaaa
  labels: {rack: a, kubernetes.io/hostname: n1, node-role.kubernetes.io/control-plane: ""}
  annotations: {volumes.kubernetes.io/controller-managed-attach-detach: "true"}
  creationTimestamp: 2026-11-21T12:00:00Z
  managedFields: [{manager: kubelet}]
  somethingNew: 1
spec:
  podCIDR: 10.42.0.0/24
  podCIDRs: [10.42.0.0/24, "fd42::/64"]
  taints: [{key: x, effect: NoSchedule}]
status:
  capacity: {cpu: "4"}
  addresses:
  - {type: Hostname, address: n1}
  - {type: InternalIP, address: 172.16.1.11}
  - {type: ExternalIP, address: not even an address}
  - {type: InternalIP, address: "fd00::11"}
  nodeInfo: {kernelVersion: 6.1}
""",
    )

    assert node.pod_cidrs == (Prefix.parse("10.42.0.0/24"), Prefix.parse("fd42::/64"))
    assert node.internal_addresses == (ip_address("172.16.1.11"), ip_address("fd00::11"))
    assert node.metadata.labels["rack"] == "a"
    assert node.metadata.creation_timestamp == datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert node.metadata.deletion_timestamp is None


@pytest.mark.parametrize("cidr", ["10.42.0.0/24", "fd42::/64"])
def test_the_older_field_of_one_pod_cidr_is_read_too(cidr: str) -> None:
    assert accepted(Node, HEAD + f"spec: {{podCIDR: '{cidr}'}}").pod_cidrs == (Prefix.parse(cidr),)


def test_a_node_that_has_been_given_nothing_yet_is_a_node() -> None:
    node = accepted(Node, HEAD)

    assert (node.pod_cidrs, node.internal_addresses) == ((), ())


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (
            "spec: {podCIDRs: [10.42.0.0/33]}",
            "spec.podCIDRs[0]: '10.42.0.0/33': the length must be a number from 0 to 32",
        ),
        (
            "status: {addresses: [{type: Hostname, address: n1}, {type: InternalIP, address: n1}]}",
            "status.addresses[1].address: 'n1' is not an IPv4 or IPv6 address",
        ),
        ("status: {addresses: [{type: InternalIP}]}", "status.addresses[0].address: is required"),
        ("status: {addresses: 172.16.1.11}", "status.addresses: '172.16.1.11' is not a list"),
    ],
)
def test_what_is_read_is_checked(content: str, wanted: str) -> None:
    assert refusals(HEAD + content) == [wanted]
