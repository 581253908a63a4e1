from __future__ import annotations

from typing import Any

import msgspec
import pytest

from policy.cidr import pack_address, parse_block
from policy.fields import RefusedError
from policy.objects import (
    NamedPort,
    PodWire,
    decode_namespace,
    decode_node,
    decode_pod,
    pod_of,
)


def raw_pod(**changes: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": "shop",
            "name": "db-0",
            "labels": {"app": "db"},
            "uid": "1",
            **changes.pop("meta", {}),
        },
        "spec": {
            "nodeName": "n1",
            "containers": [
                {
                    "name": "db",
                    "image": "db:1",
                    "ports": [{"name": "pg", "containerPort": 5432}, {"containerPort": 9000, "protocol": "UDP"}],
                }
            ],
            **changes.pop("spec", {}),
        },
        "status": {
            "phase": "Running",
            "podIP": "10.42.1.9",
            "podIPs": [{"ip": "10.42.1.9"}, {"ip": "fd42::9"}],
            **changes.pop("status", {}),
        },
    }


def test_a_pod_is_read_down_to_what_policy_looks_at() -> None:
    pod = decode_pod(raw_pod())
    assert pod.key == "shop/db-0"
    assert pod.labels == {"app": "db"}
    assert pod.addresses == (pack_address("10.42.1.9"), pack_address("fd42::9"))
    assert pod.ports == (NamedPort("pg", 6, 5432),)
    assert pod.node == "n1"
    assert not any([pod.host_network, pod.completed, pod.terminating])


def test_what_the_api_sends_gives_the_same_pod() -> None:
    wire = msgspec.json.decode(msgspec.json.encode(raw_pod()), type=PodWire)
    assert pod_of(wire) == decode_pod(raw_pod())


@pytest.mark.parametrize(
    ("phase", "expected"), [("Running", False), ("Pending", False), ("Succeeded", True), ("Failed", True)]
)
def test_a_pod_that_has_ended_is_completed(phase: str, *, expected: bool) -> None:
    assert decode_pod(raw_pod(status={"phase": phase})).completed is expected


def test_a_pods_uid_is_the_one_its_kubelet_has() -> None:
    assert decode_pod(raw_pod()).uid == "1"
    mirror = {"annotations": {"kubernetes.io/config.mirror": "static-1", "kubernetes.io/config.source": "file"}}
    assert decode_pod(raw_pod(meta=mirror)).uid == "static-1"
    assert decode_pod(raw_pod(meta={"uid": "", "annotations": {}})).uid == ""


def test_a_pod_without_addresses_has_none() -> None:
    assert decode_pod(raw_pod(status={"podIP": None, "podIPs": []})).addresses == ()
    assert decode_pod({"metadata": {"name": "new"}}).key == "default/new"


def test_an_old_pod_has_one_address() -> None:
    assert decode_pod(raw_pod(status={"podIPs": None})).addresses == (pack_address("10.42.1.9"),)


def test_host_network_and_terminating_are_seen() -> None:
    assert decode_pod(raw_pod(spec={"hostNetwork": True})).host_network
    assert decode_pod(raw_pod(meta={"deletionTimestamp": "2026-11-21T12:00:00Z"})).terminating


def test_sidecars_serve_ports_and_other_init_containers_do_not() -> None:
    init = [
        {"ports": [{"name": "proxy", "containerPort": 15001}], "restartPolicy": "Always"},
        {"ports": [{"name": "setup", "containerPort": 1}]},
    ]
    assert [port.name for port in decode_pod(raw_pod(spec={"initContainers": init})).ports] == ["pg", "proxy"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (raw_pod(meta={"name": "DB"}), 'metadata.name: Invalid value: "DB": must be a lowercase RFC 1123 subdomain'),
        (raw_pod(meta={"name": None}), "metadata.name: Expected `str`, got `null`"),
        ({}, "object: Object missing required field `metadata`"),
        ({"metadata": {}}, "metadata.name: Required value"),
        (raw_pod(meta={"namespace": ""}), "metadata.namespace: Required value"),
        (raw_pod(meta={"labels": {"app": 1}}), "metadata.labels[...]: Expected `str`, got `int`"),
        (raw_pod(meta={"labels": {"app": "-"}}), 'metadata.labels: Invalid value: "-": a valid label must be'),
        (raw_pod(status={"podIPs": [{"ip": "10.0.0.256"}]}), 'status.podIPs[0]: Invalid value: "10.0.0.256"'),
        (
            raw_pod(spec={"containers": [{"ports": [{"name": "HTTP", "containerPort": 80}]}]}),
            'spec.containers[0].ports[0].name: Invalid value: "HTTP": must contain only alphanumeric',
        ),
        (
            raw_pod(spec={"containers": [{"ports": [{"containerPort": 0}]}]}),
            "spec.containers[0].ports[0].containerPort: Invalid value: 0: must be between 1 and 65535",
        ),
        (
            raw_pod(spec={"containers": [{"ports": [{"containerPort": 1, "protocol": "ICMP"}]}]}),
            'spec.containers[0].ports[0].protocol: Unsupported value: "ICMP": supported values: "TCP", "UDP", "SCTP"',
        ),
    ],
)
def test_a_bad_pod_is_refused_with_its_reason(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusedError) as refused:
        decode_pod(raw)
    assert message in str(refused.value)


def test_a_namespace_has_its_name_among_its_labels() -> None:
    namespace = decode_namespace({"metadata": {"name": "shop", "labels": {"team": "web"}}})
    assert namespace.labels == {"team": "web", "kubernetes.io/metadata.name": "shop"}
    forged = decode_namespace({"metadata": {"name": "shop", "labels": {"kubernetes.io/metadata.name": "bank"}}})
    assert forged.labels == {"kubernetes.io/metadata.name": "shop"}


def test_a_node_has_addresses_and_pod_ranges() -> None:
    node = decode_node(
        {
            "metadata": {"name": "n1", "labels": {"rack": "a"}},
            "spec": {"podCIDR": "10.42.0.0/24", "podCIDRs": ["10.42.0.0/24", "fd42::/64"]},
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": "172.16.0.1"},
                    {"type": "ExternalIP", "address": "2001:db8::1"},
                    {"type": "Hostname", "address": "n1"},
                ]
            },
        }
    )
    assert node.addresses == (pack_address("172.16.0.1"), pack_address("2001:db8::1"))
    assert node.pod_cidrs == (parse_block("10.42.0.0/24"), parse_block("fd42::/64"))
    assert decode_node({"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.42.0.0/24"}}).pod_cidrs == (
        parse_block("10.42.0.0/24"),
    )


def test_a_bad_range_of_a_node_is_refused() -> None:
    with pytest.raises(RefusedError, match=r'spec.podCIDRs\[0\]: Invalid value: "10.42.0.0"'):
        decode_node({"metadata": {"name": "n1"}, "spec": {"podCIDRs": ["10.42.0.0"]}})
