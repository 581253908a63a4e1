from __future__ import annotations

from pathlib import Path

from agent.check import check_manifests

NODE = """---
apiVersion: v1
kind: Node
metadata: {{name: {name}}}
spec: {{podCIDRs: [{cidr}]}}
status: {{addresses: [{{type: InternalIP, address: {address}}}]}}
"""
PEER = """---
apiVersion: tortie.dev/v1alpha1
kind: BGPPeer
metadata: {name: tor}
spec: {peer: {address: 172.16.0.254}, peerASN: 65100, passwordSecretRef: {name: bgp, key: tor}}
"""


def said(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "all.yaml").write_text(text)
    return list(map(str, check_manifests(tmp_path)))


def test_what_contradicts_itself_between_objects_is_found(tmp_path: Path) -> None:
    text = NODE.format(name="n1", cidr="10.42.0.0/24", address="172.16.0.1") + NODE.format(
        name="n2", cidr="10.42.0.128/25", address="172.16.0.2"
    )
    (problem,) = said(tmp_path, text)
    assert problem.startswith("Node n2: spec.podCIDRs: 10.42.0.128/25 overlaps 10.42.0.0/24 of Node n1")


def test_a_password_that_is_nowhere_is_found_once_for_all_nodes(tmp_path: Path) -> None:
    nodes = "".join(
        NODE.format(name=f"n{number}", cidr=f"10.42.{number}.0/24", address=f"172.16.0.{number}") for number in (1, 2)
    )
    (problem,) = said(tmp_path, nodes + PEER)
    assert problem == "BGPPeer tor: spec.passwordSecretRef: Secret bgp does not exist. The session stays down."


def test_a_route_to_a_peer_is_the_nodes_own_affair(tmp_path: Path) -> None:
    peer = PEER.replace(", passwordSecretRef: {name: bgp, key: tor}", "")
    assert said(tmp_path, NODE.format(name="n1", cidr="10.42.0.0/24", address="172.16.0.1") + peer) == []
