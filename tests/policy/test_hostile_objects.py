"""Objects that somebody made up, or broke: each is read or refused with reasons, and what is read can be compiled."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.clusterpolicy import decode_cluster_network_policy
from policy.compiler import Engine, Update
from policy.fields import FieldError, RefusedError
from policy.networkpolicy import decode_network_policy
from policy.nft import render
from policy.nftwalk import Table
from policy.objects import decode_namespace, decode_node, decode_pod
from tests.policy.scenarios import SHOP

Decode = Callable[[Mapping[str, Any]], Update]

NETWORK_POLICY = {
    "metadata": {"name": "p", "namespace": "shop"},
    "spec": {
        "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["db", "front"]}]},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}], "ports": [{"port": "pg"}]},
            {"ports": [{"port": 1, "endPort": 9, "protocol": "UDP"}]},
        ],
        "egress": [{"to": [{"namespaceSelector": {"matchLabels": {"team": "ops"}}, "podSelector": {}}]}],
    },
}
CLUSTER_POLICY = {
    "metadata": {"name": "p"},
    "spec": {
        "tier": "Admin",
        "priority": 5,
        "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "db"}}}},
        "ingress": [{"name": "r", "action": "Deny", "from": [{"namespaces": {}}]}],
        "egress": [
            {
                "action": "Accept",
                "to": [{"networks": ["10.0.0.0/8"]}, {"nodes": {}}, {"domainNames": ["*.example.com"]}],
                "protocols": [{"tcp": {"destinationPort": {"range": {"start": 1, "end": 5}}}}],
            }
        ],
    },
}
POD = {
    "metadata": {"name": "x", "namespace": "shop", "labels": {"app": "db"}},
    "spec": {"nodeName": "n1", "containers": [{"ports": [{"name": "pg", "containerPort": 5432}]}]},
    "status": {"phase": "Running", "podIPs": [{"ip": "10.42.1.50"}, {"ip": "fd42:0:0:1::50"}]},
}
NODE = {
    "metadata": {"name": "n1", "labels": {"rack": "a"}},
    "spec": {"podCIDRs": ["10.42.1.0/24"]},
    "status": {"addresses": [{"type": "InternalIP", "address": "172.16.0.1"}]},
}
NAMESPACE = {"metadata": {"name": "shop", "labels": {"team": "web"}}}

SUBJECTS: dict[str, tuple[Decode, dict[str, Any]]] = {
    "NetworkPolicy": (decode_network_policy, NETWORK_POLICY),
    "ClusterNetworkPolicy": (decode_cluster_network_policy, CLUSTER_POLICY),
    "Pod": (decode_pod, POD),
    "Node": (decode_node, NODE),
    "Namespace": (decode_namespace, NAMESPACE),
}

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=80)
    | st.sampled_from(
        [
            "",
            "a" * 300,
            "10.0.0.0/33",
            "::/0",
            "0.0.0.0/0",
            '"; drop',
            "{ }",
            "In",
            "TCP",
            "Pass",
            "\x00",
            "ï",
            "10.42.1.9",
        ]
    )
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["matchLabels", "key", "operator", "values", "cidr", "except", "port", "from", "to", "pods", "tcp"]
            )
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to everything inside a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, each in items for found in places(each, (*path, key)))]


def read(decode: Decode, raw: Mapping[str, Any]) -> Update | tuple[FieldError, ...]:
    """Return what an object means, or why it is refused."""
    try:
        return decode(raw)
    except RefusedError as refused:
        return refused.errors


@pytest.mark.no_cover  # many times the ways of the tests beside it: to trace each costs as much again
@pytest.mark.parametrize("kind", SUBJECTS)
@given(data=st.data())
@settings(max_examples=250, deadline=None)
def test_a_broken_object_is_read_or_refused_and_what_is_read_compiles(kind: str, data: st.DataObject) -> None:
    decode, good = SUBJECTS[kind]
    broken = copy.deepcopy(good)
    for _ in range(data.draw(st.integers(1, 3))):
        inside = [place for place in places(broken) if place]
        if not inside:
            break
        *path, last = data.draw(st.sampled_from(inside))
        parent: Any = broken
        for step in path:
            parent = parent[step]
        if data.draw(st.booleans()) or not isinstance(parent, dict):
            parent[last] = data.draw(JSON)
        else:
            del parent[last]
    value = read(decode, broken)
    if isinstance(value, tuple):
        assert value
        assert all(error.field and error.reason for error in value)
        return
    engine = Engine("n1")
    for each in (*SHOP, value):
        engine.apply(each)
    engine.flush()
    Table().load(render(engine.ruleset))


@pytest.mark.parametrize("kind", SUBJECTS)
@pytest.mark.parametrize("value", [None, True, 0, 1.5, "", "x", [], {}, [[]], [{}], {"x": []}], ids=repr)
def test_a_value_of_another_type_anywhere_is_read_or_refused(kind: str, value: object) -> None:
    decode, good = SUBJECTS[kind]
    for *path, last in filter(None, places(good)):
        broken = copy.deepcopy(good)
        parent: Any = broken
        for step in path:
            parent = parent[step]
        parent[last] = value
        assert read(decode, broken) != ()


@pytest.mark.no_cover  # many times the ways of the tests beside it: to trace each costs as much again
@pytest.mark.parametrize("kind", SUBJECTS)
@given(raw=st.dictionaries(st.sampled_from(["metadata", "spec", "status"]), JSON))
@settings(max_examples=150, deadline=None)
def test_whatever_stands_where_an_object_should_be_is_read_or_refused(kind: str, raw: dict[str, Any]) -> None:
    assert read(SUBJECTS[kind][0], raw) != ()
