"""What is ours on a node is found and removed, and what only looks like it stays."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from felix import traces
from felix.traces import Trace
from inet.prefix import Family
from tests.felix.netns import Node

pytestmark = pytest.mark.kernel

GROUP = 97
PREFIX = {Family.IPV4: "10.77.1.0/24", Family.IPV6: "fd77:1::/64"}
OTHER = {Family.IPV4: "10.77.2.0/24", Family.IPV6: "fd77:2::/64"}
VERSION = {Family.IPV4: "", Family.IPV6: "-6 "}


def call(*words: str) -> str:
    """Run a command, for words that have spaces."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


async def found() -> list[Trace]:
    return (await traces.find(GROUP)).list()


async def removed() -> list[traces.Remainder]:
    return await traces.remove(await traces.find(GROUP))


@pytest.mark.usefixtures("node")
async def test_on_a_clean_node_there_is_nothing() -> None:
    assert await found() == []
    assert await removed() == []


async def test_routes_of_our_protocol_are_ours_in_any_table(node: Node, family: Family) -> None:
    for words in (f"{PREFIX[family]} dev a0 proto 97 metric 5", f"{OTHER[family]} dev a0 proto 12"):
        node.ip(f"{VERSION[family]}route add {words}")
    node.ip(f"{VERSION[family]}route add {OTHER[family]} dev a0 proto 97 table 100 metric 6")
    names = {trace.name for trace in await found()}
    assert {name.split(" proto")[0] for name in names} == {f"{PREFIX[family]} metric 5", f"{OTHER[family]} metric 6"}
    assert any(name.endswith(" table 100") for name in names)
    assert await removed() == []
    assert await found() == []
    assert OTHER[family] in node.ip(f"{VERSION[family]}route show proto 12")


async def test_nexthop_objects_are_ours_by_protocol_and_number(node: Node) -> None:
    node.ip(f"nexthop add id {0x61000001} via 10.0.0.2 dev a0 proto 97")
    node.ip("nexthop add id 7 via 10.0.0.2 dev a0 proto 97")
    node.ip(f"nexthop add id {0x61000002} via 10.0.0.2 dev a0 proto 12")
    assert await found() == [Trace("nexthop", f"id {0x61000001}")]
    assert await removed() == []
    assert node.ip("nexthop show").count("id ") == 2


async def test_a_tunnel_is_ours_by_its_alias_not_by_its_name(node: Node) -> None:
    for name, alias in (("tortie-vxlan", "somebody's"), ("renamed", "tortie vxlan IPv4 7")):
        port = 4789 if name == "renamed" else 4790
        node.ip(f"link add {name} type vxlan external dstport {port}")
        call("ip", "link", "set", name, "alias", alias)
    assert await found() == [Trace("device", "renamed (vxlan)")]
    assert await removed() == []
    assert "tortie-vxlan" in node.ip("link show")
    assert "renamed" not in node.ip("link show")


async def test_a_pods_link_loses_our_mark_and_stays(node: Node) -> None:
    node.ip("link set a0 group 97")
    call("ip", "link", "set", "a0", "alias", "tortie x/a")
    node.ip("link set a1 group 96")
    assert await found() == [Trace("mark of a pod's link", "a0 group 97")]
    assert await removed() == []
    shown = node.ip("link show a0")
    assert "group default" in shown
    assert "tortie x/a" not in shown
    assert "group 96" in node.ip("link show a1")


@pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft (nftables)")
@pytest.mark.usefixtures("node")
async def test_the_table_is_ours_by_its_name_and_family() -> None:
    for family in ("inet", "ip"):
        call("nft", f"add table {family} tortie")
    assert await found() == [Trace("table", "inet tortie")]
    assert await removed() == []
    shown = call("nft", "list", "tables")
    assert shown.split() == ["table", "ip", "tortie"]


async def test_what_went_by_itself_meanwhile_is_no_failure(node: Node) -> None:
    node.ip(f"route add {PREFIX[Family.IPV4]} dev a0 proto 97 metric 5")
    there = await traces.find(GROUP)
    node.ip(f"route del {PREFIX[Family.IPV4]} proto 97")
    assert await traces.remove(there) == []
