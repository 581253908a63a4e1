"""Tunnel devices in a namespace: made, mended whatever is done to them, and removed; others' are left alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from socket import if_nametoindex

import pytest

from felix import offload
from felix.tunnelmessages import Device, Kind
from felix.tunnels import DEVICES, KernelTunnels
from inet.prefix import Family, parse_address
from tests.felix.netns import Node

MAC = bytes.fromhex("020000000001")
FAR = {
    parse_address("172.16.0.2").packed: bytes.fromhex("020000000002"),
    parse_address("fd16::2").packed: bytes.fromhex("020000000002"),
}
VXLAN = Device(
    Kind.VXLAN,
    ((Family.IPV4, 1450), (Family.IPV6, 1430)),
    port=4789,
    mac=MAC,
    addresses=(parse_address("10.42.1.0").packed, parse_address("fd42:0:0:1::").packed),
)
NAME = DEVICES[Kind.VXLAN]


@pytest.fixture
def tunnels(node: Node) -> Iterator[KernelTunnels]:  # noqa: ARG001 - inside its namespace
    tunnels = KernelTunnels()
    yield tunnels
    tunnels.close()


def links(node: Node) -> str:
    return node.ip("-d link show")


def neighbours(node: Node) -> set[str]:
    return {line.split()[0] for line in node.ip(f"neigh show dev {NAME} nud permanent").splitlines()}


def assert_whole(node: Node, tunnels: KernelTunnels) -> None:
    """The device is as wanted, and so are its far ends."""
    assert tunnels.problems == {}
    shown = node.ip(f"-d link show {NAME}")
    assert tunnels.interface(Kind.VXLAN) == if_nametoindex(NAME)
    for words in ("vxlan external", "dstport 4789", "nolearning", "UP", "mtu 1450", "02:00:00:00:00:01"):
        assert words in shown
    addresses = node.ip(f"addr show {NAME}")
    assert "10.42.1.0/32" in addresses
    assert "fd42:0:0:1::/128" in addresses
    assert Path(f"/proc/sys/net/ipv6/conf/{NAME}/mtu").read_text().strip() == "1430"
    assert neighbours(node) == {"172.16.0.2", "fd16::2"}


@pytest.mark.kernel
async def test_a_device_is_made_as_wanted(node: Node, tunnels: KernelTunnels) -> None:
    await tunnels.want([VXLAN], FAR)
    assert_whole(node, tunnels)
    assert tunnels.repaired == 0


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("everywhere", "new_links", "expected"), [("0", "0", "0"), ("1", "0", "2"), ("0", "1", "2"), ("2", "0", "0")]
)
async def test_sources_are_checked_loosely_where_somebody_has_them_checked(
    tunnels: KernelTunnels, everywhere: str, new_links: str, expected: str
) -> None:
    settings = Path("/proc/sys/net/ipv4/conf")
    (settings / "all/rp_filter").write_text(everywhere)
    (settings / "default/rp_filter").write_text(new_links)
    await tunnels.want([VXLAN], FAR)
    assert (settings / NAME / "rp_filter").read_text().strip() == expected


@pytest.mark.kernel
async def test_what_is_right_after_a_restart_is_not_touched(node: Node, tunnels: KernelTunnels) -> None:
    await tunnels.want([VXLAN], FAR)
    before = node.ip(f"-d link show {NAME}")
    again = KernelTunnels()
    process_mark = if_nametoindex(NAME)
    await again.want([VXLAN], FAR)
    assert_whole(node, again)
    assert if_nametoindex(NAME) == process_mark
    assert node.ip(f"-d link show {NAME}") == before
    assert again.repaired == 0
    again.close()


HANDS = {
    "deleted": [f"link del {NAME}"],
    "renamed": [f"link set {NAME} down", f"link set {NAME} name mine", "link set mine up"],
    "set down": [f"link set {NAME} down"],
    "set down and up": [f"link set {NAME} down", f"link set {NAME} up"],
    "given another VNI": [f"link del {NAME}", f"link add {NAME} type vxlan id 77 dstport 4789 remote 172.16.0.9"],
    "given another port": [f"link del {NAME}", f"link add {NAME} type vxlan external dstport 8472"],
    "given another MTU": [f"link set {NAME} mtu 1300"],
    "given another hardware address": [f"link set {NAME} address 02:00:00:00:00:99"],
    "robbed of its addresses": [f"addr flush dev {NAME}"],
    "robbed of its far ends": [f"neigh flush dev {NAME} nud permanent"],
}


@pytest.mark.kernel
@pytest.mark.parametrize("commands", HANDS.values(), ids=HANDS.keys())
async def test_what_is_done_by_hand_is_put_right(node: Node, tunnels: KernelTunnels, commands: list[str]) -> None:
    await tunnels.want([VXLAN], FAR)
    for command in commands:
        node.ip(command)
    await tunnels.mend(thorough=True)
    assert_whole(node, tunnels)
    assert "mine" not in links(node)


@pytest.mark.kernel
async def test_a_renamed_device_keeps_its_ifindex_so_that_routes_live(node: Node, tunnels: KernelTunnels) -> None:
    await tunnels.want([VXLAN], FAR)
    before = tunnels.interface(Kind.VXLAN)
    node.ip(f"link set {NAME} down")
    node.ip(f"link set {NAME} name mine")
    await tunnels.mend()
    assert tunnels.interface(Kind.VXLAN) == before
    assert tunnels.repaired == 1


@pytest.mark.kernel
async def test_a_foreign_link_of_our_name_is_left_alone_and_said(node: Node, tunnels: KernelTunnels) -> None:
    node.ip(f"link add {NAME} type bridge")
    await tunnels.want([VXLAN], FAR)
    assert tunnels.interface(Kind.VXLAN) is None
    assert tunnels.problems[Kind.VXLAN] == (
        f"there is a link {NAME} of kind bridge that is not Tortie's: rename or remove it"
    )
    await tunnels.want([], {})
    assert "bridge" in node.ip(f"-d link show {NAME}")
    node.ip(f"link del {NAME}")
    await tunnels.want([VXLAN], FAR)
    assert_whole(node, tunnels)


@pytest.mark.kernel
async def test_a_foreign_device_with_our_port_is_left_alone_and_named(node: Node, tunnels: KernelTunnels) -> None:
    node.ip("link add flannel.1 type vxlan id 1 dstport 4789 dev a0 nolearning")
    node.ip("link set flannel.1 up")
    await tunnels.want([VXLAN], FAR)
    assert tunnels.interface(Kind.VXLAN) is None
    assert tunnels.problems[Kind.VXLAN] == (
        f"{NAME} cannot have UDP port 4789: link flannel.1 (VNI 1) has it; remove it or set encapsulation.port"
    )
    assert "flannel.1" in links(node)
    node.ip("link del flannel.1")
    await tunnels.mend()
    assert_whole(node, tunnels)


@pytest.mark.kernel
async def test_another_port_is_another_device(node: Node, tunnels: KernelTunnels) -> None:
    await tunnels.want([VXLAN], FAR)
    await tunnels.want([replace(VXLAN, port=8472)], FAR)
    assert "dstport 8472" in node.ip(f"-d link show {NAME}")
    assert neighbours(node) == {"172.16.0.2", "fd16::2"}


@pytest.mark.kernel
async def test_a_device_that_is_not_wanted_any_more_goes(node: Node, tunnels: KernelTunnels) -> None:
    await tunnels.want([VXLAN], FAR)
    await tunnels.want([], {})
    assert NAME not in links(node)
    assert tunnels.interface(Kind.VXLAN) is None


@pytest.mark.kernel
async def test_a_device_of_a_former_life_goes_unless_it_is_another_s(node: Node, tunnels: KernelTunnels) -> None:
    await tunnels.want([VXLAN], FAR)
    node.ip(f"link add {DEVICES[Kind.IPIP]} type bridge")
    again = KernelTunnels()
    await again.mend()
    assert NAME not in links(node)
    assert DEVICES[Kind.IPIP] in links(node)
    again.close()


@pytest.mark.kernel
async def test_far_ends_come_and_go_one_by_one(node: Node, tunnels: KernelTunnels) -> None:
    await tunnels.want([VXLAN], FAR)
    third = parse_address("172.16.0.3").packed
    await tunnels.want([VXLAN], {third: MAC})
    assert neighbours(node) == {"172.16.0.3"}


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("kind", "module"), [(Kind.IPIP, "ipip"), (Kind.IP6TNL, "ip6_tunnel")], ids=["IPIP", "IPv6 in IPv6"]
)
async def test_a_kernel_without_ip_in_ip_is_said_and_vxlan_offered(
    node: Node, tunnels: KernelTunnels, kind: Kind, module: str
) -> None:
    await tunnels.want([Device(kind, ((Family.IPV4, 1480),))], {})
    if tunnels.interface(kind) is not None:
        assert f"{kind.value} external" in node.ip(f"-d link show {DEVICES[kind]}")
        pytest.skip(f"this kernel has {kind.value}")
    assert tunnels.problems[kind] == (
        f"this kernel cannot make {DEVICES[kind]}: load the module {module}, or set encapsulation.type to VXLAN"
    )


@pytest.mark.parametrize(
    ("release", "is_broken"),
    [
        ("4.19.0-27-amd64", True),
        ("5.4.0-90-generic", True),
        ("5.6.19", True),
        ("5.7.0-rc1", False),
        ("6.12.117", False),
        ("odd", False),
    ],
)
def test_kernels_with_the_checksum_fault_are_known_by_their_release(release: str, *, is_broken: bool) -> None:
    assert offload.is_checksum_broken(release) is is_broken


@pytest.mark.kernel
async def test_where_checksums_come_out_wrong_the_device_computes_none(
    tunnels: KernelTunnels, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tunnels.want([VXLAN], FAR)
    assert offload.has_transmit_checksum(NAME)
    found = os.uname()
    old = os.uname_result((found.sysname, found.nodename, "5.4.0-90-generic", found.version, found.machine))
    monkeypatch.setattr(os, "uname", lambda: old)
    await tunnels.mend()
    assert not offload.has_transmit_checksum(NAME)
