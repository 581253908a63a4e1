"""What other plugins leave, on a real kernel and a file system made up."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from felix.foreign import PLUGINS, Leftover, leftovers
from inet.prefix import Family
from tests.felix.netns import Node

pytestmark = pytest.mark.kernel


@pytest.mark.usefixtures("node")
async def test_a_node_that_never_had_one_has_nothing(tmp_path: Path) -> None:
    assert await leftovers(root=tmp_path) == []


async def test_a_link_is_known_by_its_name_and_told_with_the_command_that_removes_it(
    node: Node, tmp_path: Path
) -> None:
    node.ip("link add cali123 type veth peer name other")
    assert await leftovers(root=tmp_path) == [Leftover("calico", "device", "cali123", "ip link del cali123")]
    assert await leftovers("flannel", tmp_path) == []
    node.ip("link del cali123")
    assert await leftovers(root=tmp_path) == []


async def test_routes_are_known_by_their_protocol(node: Node, family: Family, tmp_path: Path) -> None:
    prefix, version = ("10.7.0.0/24", "-4") if family is Family.IPV4 else ("fd07::/64", "-6")
    node.ip(f"{version} route add {prefix} dev a0 proto 80")
    (found,) = await leftovers(root=tmp_path)
    assert (found.plugin, found.kind, found.name) == ("calico", "route", f"{prefix} proto 80")
    node.ip(found.command.removeprefix("ip "))
    assert await leftovers(root=tmp_path) == []


@pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft (nftables)")
@pytest.mark.usefixtures("node")
def test_tables_go_by_the_command_that_is_told(tmp_path: Path) -> None:
    subprocess.run(["nft", "add table ip6 flannel-ipv6"], check=True)
    (found,) = asyncio.run(leftovers(root=tmp_path))
    assert found == Leftover("flannel", "table", "ip6 flannel-ipv6", "nft delete table ip6 flannel-ipv6")
    subprocess.run(found.command.split(), check=True)
    assert asyncio.run(leftovers(root=tmp_path)) == []


@pytest.mark.usefixtures("node")
async def test_files_and_directories_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "etc/cni/net.d").mkdir(parents=True)
    (tmp_path / "etc/cni/net.d/10-calico.conflist").touch()
    (tmp_path / "var/lib/calico").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/flannel").touch()  # a file, where flannel has a directory
    found = await leftovers(root=tmp_path)
    assert {each.name for each in found} == {
        str(tmp_path / "etc/cni/net.d/10-calico.conflist"),
        str(tmp_path / "var/lib/calico"),
    }
    assert {each.plugin for each in found} == {"calico"}


async def test_what_flannel_inside_k3s_left_is_flannels(node: Node, tmp_path: Path) -> None:
    conflist = tmp_path / "var/lib/rancher/k3s/agent/etc/cni/net.d/10-flannel.conflist"
    conflist.parent.mkdir(parents=True)
    conflist.touch()
    node.ip("link add cni0 type bridge")
    assert await leftovers(root=tmp_path) == [
        Leftover("flannel", "device", "cni0", "ip link del cni0"),
        Leftover("flannel", "file", str(conflist), f"rm -r {conflist}"),
    ]


@pytest.mark.parametrize("name", PLUGINS)
def test_no_plugin_is_known_by_what_every_node_has(name: str) -> None:
    plugin = PLUGINS[name]
    for patterns in (plugin.devices, plugin.tables, plugin.chains):
        assert not {"*", "eth*", "KUBE-*"} & set(patterns)
    assert 97 not in plugin.protocols
