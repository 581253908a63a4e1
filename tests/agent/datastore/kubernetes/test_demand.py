from __future__ import annotations

from typing import Any

import pytest

from agent.datastore.kubernetes.demand import needs_all_pods, secret_names
from agent.objects.kinds import KINDS, Keyed

API = {"podSelector": {"matchLabels": {"app": "api"}}}


def of(kind: str, name: str, spec: dict[str, Any]) -> Keyed:
    return KINDS[kind].decode(
        {"metadata": {"name": name, "namespace": "shop"} if kind == "NetworkPolicy" else {"name": name}, "spec": spec}
    )


def policy(**spec: Any) -> Keyed:
    return of("NetworkPolicy", "web", {"podSelector": {}, **spec})


@pytest.mark.parametrize(
    ("item", "wanted"),
    [
        pytest.param(policy(ingress=[]), False, id="deny-all"),
        pytest.param(policy(ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]), False, id="block"),
        pytest.param(policy(ingress=[{"from": [API]}]), True, id="from-pods"),
        pytest.param(policy(ingress=[{"from": [{"namespaceSelector": {}}]}]), True, id="from-namespaces"),
        pytest.param(policy(egress=[{"to": [API]}]), True, id="to-pods"),
        pytest.param(policy(ingress=[{"ports": [{"port": "http"}]}]), False, id="own-port-by-name"),
        pytest.param(policy(egress=[{"ports": [{"port": "http"}]}]), True, id="port-of-others-by-name"),
        pytest.param(policy(egress=[{"ports": [{"port": 80}]}]), False, id="port-of-others-by-number"),
        pytest.param(of("BGPNodeProfile", "rack", {"localASN": 65001}), False, id="no-policy"),
    ],
)
def test_pods_of_other_nodes_are_wanted_by_policies_that_speak_of_pods(item: Keyed, wanted: bool) -> None:
    assert needs_all_pods(item) == wanted


def test_the_secrets_that_peers_and_the_mesh_name_are_wanted() -> None:
    peer = {"peer": {"address": "172.16.1.1"}, "peerASN": 65100}
    items = [
        of("BGPConfiguration", "default", {"nodeMesh": {"passwordSecretRef": {"name": "mesh", "key": "a"}}}),
        of("BGPPeer", "tor-1", peer | {"passwordSecretRef": {"name": "tor", "key": "a"}}),
        of("BGPPeer", "tor-2", peer | {"passwordSecretRef": {"name": "tor", "key": "b"}}),
        of("BGPPeer", "tor-3", peer),
        policy(),
    ]
    assert secret_names(items) == {"mesh", "tor"}
    assert secret_names([]) == frozenset()
