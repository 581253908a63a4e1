"""What a kubelet tells of its node, on a real kernel."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from felix.kubelet import host_uses_iptables

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(shutil.which("iptables-nft") is None, reason="needs iptables-nft (iptables)"),
    pytest.mark.usefixtures("node"),
]


def test_a_node_without_the_hint_says_nothing_of_its_iptables() -> None:
    assert not host_uses_iptables(), "no table"
    subprocess.run(["iptables-nft", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY"], check=True)
    assert not host_uses_iptables(), "no such chain in it"
    subprocess.run(["iptables-nft", "-t", "nat", "-N", "KUBE-IPTABLES-HINT"], check=True)
    assert not host_uses_iptables(), "not the kubelet's: in another table"


def test_a_kubelet_that_found_iptables_says_so() -> None:
    subprocess.run(["iptables-nft", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT"], check=True)
    assert host_uses_iptables()
