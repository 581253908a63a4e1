"""Tunnel devices in a namespace: made, mended whatever is done to them, and removed; others' are left alone."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from socket import if_nametoindex

import pytest

from felix import offload
from felix.farends import FarEnd
from felix.tunnelmessages import Device, DeviceId, Kind
from felix.tunnels import KernelTunnels
from inet.prefix import Family, parse_address
from tests.felix.netns import Node

MAC = bytes.fromhex("020000000001")
FAR_MAC = bytes.fromhex("020000000002")


def packed(address: str) -> bytes:
    return parse_address(address).packed


OWN = {Family.IPV4: packed("10.42.1.0"), Family.IPV6: packed("fd42:0:0:1::")}
LOCAL = {Family.IPV4: packed("172.16.0.1"), Family.IPV6: packed("fd16::1")}
FAR = {
    Family.IPV4: FarEnd(packed("172.16.0.2"), FAR_MAC, packed("172.16.0.2")),
    Family.IPV6: FarEnd(packed("fe80::2"), FAR_MAC, packed("fd16::2")),
}
OTHER = {Family.IPV4: packed("172.16.0.3"), Family.IPV6: packed("fd16::3")}
VXLAN = {
    family: Device(DeviceId(Kind.VXLAN, family, 4096), 1450, 4789, MAC, LOCAL[family], OWN[family]) for family in Family
}
INSIDE = {Family.IPV4: packed("10.42.2.9"), Family.IPV6: packed("fd42:0:0:2::9")}
NAMES = {family: VXLAN[family].id.name for family in Family}
NAME = NAMES[Family.IPV4]
each_family = pytest.mark.parametrize("family", Family, ids=lambda family: family.label)


@pytest.fixture
def tunnels(node: Node) -> Iterator[KernelTunnels]:  # noqa: ARG001 - inside its namespace
    tunnels = KernelTunnels()
    yield tunnels
    tunnels.close()


def links(node: Node) -> str:
    return node.ip("-d link show")


def text(address: bytes) -> str:
    return str(ip_address(address))


def neighbours(node: Node, family: Family) -> dict[str, str]:
    """Gateways, and their hardware addresses."""
    rows = [line.split() for line in node.ip(f"neigh show dev {NAMES[family]} nud permanent").splitlines()]
    return {row[0]: row[2] for row in rows}


def bridge(words: str) -> str:
    return subprocess.run(["bridge", *words.split()], capture_output=True, text=True, check=True).stdout


def entries(family: Family) -> dict[str, str]:
    """Hardware addresses, and where they are."""
    rows = [line.split() for line in bridge(f"fdb show dev {NAMES[family]}").splitlines()]
    return {row[0]: row[row.index("dst") + 1] for row in rows}


def assert_whole(node: Node, tunnels: KernelTunnels, family: Family) -> None:
    """The device is as wanted, and so is its far end."""
    device, name = VXLAN[family], NAMES[family]
    assert tunnels.problems == {}
    shown = node.ip(f"-d link show {name}")
    assert tunnels.interfaces == {device.id: if_nametoindex(name)}
    words = ("vxlan id 4096", f"local {text(LOCAL[family])}", "dstport 4789", "nolearning", "UP", "mtu 1450")
    for word in (*words, "02:00:00:00:00:01"):
        assert word in shown
    assert "external" not in shown
    assert f" {text(OWN[family])}/{family.bits} " in node.ip(f"addr show {name}")
    far = FAR[family]
    assert neighbours(node, family) == {text(far.gateway): far.mac.hex(":")}
    assert entries(family) == {far.mac.hex(":"): text(far.address)}


@pytest.mark.kernel
@each_family
async def test_a_device_is_made_as_wanted(node: Node, tunnels: KernelTunnels, family: Family) -> None:
    await tunnels.want([VXLAN[family]], {each: [end] for each, end in FAR.items()})
    assert_whole(node, tunnels, family)
    assert tunnels.repaired == 0


@pytest.mark.kernel
async def test_families_and_vnis_have_devices_side_by_side(node: Node, tunnels: KernelTunnels) -> None:
    another = {family: replace(VXLAN[family], id=DeviceId(Kind.VXLAN, family, 16_777_215)) for family in Family}
    await tunnels.want([*VXLAN.values(), *another.values()], {each: [end] for each, end in FAR.items()})
    assert tunnels.problems == {}
    assert {device.name for device in tunnels.interfaces} == {
        "tortie4-4096",
        "tortie6-4096",
        "tort4-16777215",
        "tort6-16777215",
    }
    await tunnels.want([*another.values()], {each: [end] for each, end in FAR.items()})
    assert set(await tunnels.present()) == {device.id for device in another.values()}
    await tunnels.want([VXLAN[Family.IPV4]], {each: [end] for each, end in FAR.items()})
    assert_whole(node, tunnels, Family.IPV4)


@pytest.mark.kernel
@each_family
async def test_packets_bear_the_source_that_is_wanted_from_then_on(
    node: Node, tunnels: KernelTunnels, family: Family
) -> None:
    """What a flow of packets goes by is remembered with its far end, the source too."""
    for local in (LOCAL[family], OTHER[family]):
        node.ip(f"addr add {text(local)}/24 dev a0")
    node.ip(f"neigh add {text(FAR[family].address)} lladdr 02:00:00:00:00:77 dev a0 nud permanent")
    await tunnels.want([replace(VXLAN[family], local=b"")], {family: [FAR[family]]})
    before = tunnels.interfaces
    assert "local" not in node.ip(f"-d link show {NAMES[family]}")
    node.ip(f"route add {text(INSIDE[family])} via {text(FAR[family].gateway)} dev {NAMES[family]} onlink")
    for local in (LOCAL[family], OTHER[family], LOCAL[family]):
        await tunnels.want([replace(VXLAN[family], local=local)], {family: [FAR[family]]})
        assert outer_source(family) == local
    assert_whole(node, tunnels, family)
    await tunnels.want([replace(VXLAN[family], local=b"")], {family: [FAR[family]]})
    assert "local" not in node.ip(f"-d link show {NAMES[family]}")
    assert tunnels.interfaces == before, "nothing had to be made anew"


def outer_source(family: Family) -> bytes:
    """Send something into the tunnel, and return from where it went."""
    begins = 12 if family is Family.IPV4 else 8
    every_protocol = 3  # ETH_P_ALL
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(every_protocol)) as wire,
        socket.socket(family, socket.SOCK_DGRAM) as pod,
    ):
        wire.bind(("a0", every_protocol))
        wire.settimeout(30)
        pod.sendto(b"", (text(INSIDE[family]), 9))
        while True:
            packet = wire.recv(2048)
            if (4789).to_bytes(2) in packet[20:44]:
                return packet[begins : begins + family.bits // 8]


@pytest.mark.kernel
@each_family
async def test_a_node_that_moves_is_one_entry_written_in_place(
    node: Node, tunnels: KernelTunnels, family: Family
) -> None:
    await tunnels.want([VXLAN[family]], {family: [FAR[family]]})
    await tunnels.want([VXLAN[family]], {family: [FAR[family]._replace(address=OTHER[family])]})
    assert entries(family) == {FAR_MAC.hex(":"): text(OTHER[family])}
    # In IPv4 the gateway is the address: for a while there are both.
    gateway = packed("172.16.0.9") if family is Family.IPV4 else packed("fe80::9")
    await tunnels.want([VXLAN[family]], {family: [FAR[family], FAR[family]._replace(gateway=gateway)]})
    assert len(neighbours(node, family)) == 2
    await tunnels.want([VXLAN[family]], {family: [FAR[family]]})
    assert_whole(node, tunnels, family)


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
    await tunnels.want([VXLAN[Family.IPV4]], {Family.IPV4: [FAR[Family.IPV4]]})
    assert (settings / NAME / "rp_filter").read_text().strip() == expected


@pytest.mark.kernel
@each_family
async def test_what_is_right_after_a_restart_is_not_touched(node: Node, tunnels: KernelTunnels, family: Family) -> None:
    await tunnels.want([VXLAN[family]], {family: [FAR[family]]})
    interface, before = if_nametoindex(NAMES[family]), node.ip(f"-d link show {NAMES[family]}")
    again = KernelTunnels()
    assert await again.present() == {VXLAN[family].id: interface}
    await again.want([VXLAN[family]], {family: [FAR[family]]})
    assert_whole(node, again, family)
    assert if_nametoindex(NAMES[family]) == interface
    assert node.ip(f"-d link show {NAMES[family]}") == before
    assert again.repaired == 0
    again.close()


HANDS = {
    "deleted": ["link del {name}"],
    "renamed": ["link set {name} down", "link set {name} name mine", "link set mine up"],
    "set down": ["link set {name} down"],
    "set down and up": ["link set {name} down", "link set {name} up"],
    "given another VNI": ["link del {name}", "link add {name} type vxlan id 77 dstport 4789 remote {other}"],
    "given another port": ["link del {name}", "link add {name} type vxlan id 4096 dstport 8472 remote {other}"],
    "made external": ["link del {name}", "link add {name} type vxlan external dstport 4789"],
    "given another source": ["link set {name} type vxlan id 4096 local {other}"],
    "given the other family": ["link del {name}", "link add {name} type vxlan id 4096 dstport 4789 local {alien}"],
    "given another MTU": ["link set {name} mtu 1300"],
    "given another hardware address": ["link set {name} address 02:00:00:00:00:99"],
    "robbed of its addresses": ["addr flush dev {name}"],
    "robbed of its neighbours": ["neigh flush dev {name} nud permanent"],
}


@pytest.mark.kernel
@pytest.mark.parametrize("commands", HANDS.values(), ids=HANDS.keys())
@each_family
async def test_what_is_done_by_hand_is_put_right(
    node: Node, tunnels: KernelTunnels, commands: list[str], family: Family
) -> None:
    await tunnels.want([VXLAN[family]], {family: [FAR[family]]})
    alien = Family.IPV6 if family is Family.IPV4 else Family.IPV4
    for command in commands:
        node.ip(command.format(name=NAMES[family], other=text(OTHER[family]), alien=text(LOCAL[alien])))
    await tunnels.mend(thorough=True)
    assert_whole(node, tunnels, family)
    assert "mine" not in links(node)


@pytest.mark.kernel
@pytest.mark.parametrize("command", ["del {mac} dev {name}", "replace {mac} dev {name} dst {other}"])
@each_family
async def test_forwarding_entries_changed_by_hand_are_put_right(
    node: Node, tunnels: KernelTunnels, command: str, family: Family
) -> None:
    await tunnels.want([VXLAN[family]], {family: [FAR[family]]})
    bridge(f"fdb {command.format(mac=FAR_MAC.hex(':'), name=NAMES[family], other=text(OTHER[family]))}")
    await tunnels.mend(thorough=True)
    assert_whole(node, tunnels, family)


@pytest.mark.kernel
async def test_a_renamed_device_keeps_its_ifindex_so_that_routes_live(node: Node, tunnels: KernelTunnels) -> None:
    await tunnels.want([VXLAN[Family.IPV4]], {Family.IPV4: [FAR[Family.IPV4]]})
    before = tunnels.interfaces
    node.ip(f"link set {NAME} down")
    node.ip(f"link set {NAME} name mine")
    await tunnels.mend()
    assert tunnels.interfaces == before
    assert tunnels.repaired == 1


@pytest.mark.kernel
async def test_a_foreign_link_of_our_name_is_left_alone_and_said(node: Node, tunnels: KernelTunnels) -> None:
    node.ip(f"link add {NAME} type bridge")
    device = VXLAN[Family.IPV4]
    await tunnels.want([device], {Family.IPV4: [FAR[Family.IPV4]]})
    assert tunnels.interfaces == {}
    assert tunnels.problems == {
        device.id: f"there is a link {NAME} of kind bridge that is not Tortie's: rename or remove it"
    }
    await tunnels.want([], {})
    assert "bridge" in node.ip(f"-d link show {NAME}")
    node.ip(f"link del {NAME}")
    await tunnels.want([device], {Family.IPV4: [FAR[Family.IPV4]]})
    assert_whole(node, tunnels, Family.IPV4)


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("made_as", "said_as"),
    [("id 4096 local {local} nolearning", "VNI 4096"), ("external", "any VNI")],
    ids=["VNI", "external"],
)
@each_family
async def test_a_foreign_device_in_the_way_is_left_alone_and_named(
    node: Node, tunnels: KernelTunnels, made_as: str, said_as: str, family: Family
) -> None:
    node.ip(f"link add flannel.1 type vxlan {made_as.format(local=text(LOCAL[family]))} dstport 4789")
    node.ip("link set flannel.1 up")
    await tunnels.want([VXLAN[family]], {family: [FAR[family]]})
    assert tunnels.interfaces == {}
    assert tunnels.problems == {
        VXLAN[family].id: f"{NAMES[family]} cannot have UDP port 4789: link flannel.1 ({said_as}) has it; remove it or "
        "set encapsulation.port"
    }
    assert "flannel.1" in links(node)
    node.ip("link del flannel.1")
    await tunnels.mend()
    assert_whole(node, tunnels, family)


@pytest.mark.kernel
@each_family
async def test_a_foreign_device_of_another_vni_shares_the_port(
    node: Node, tunnels: KernelTunnels, family: Family
) -> None:
    node.ip("link add flannel.1 type vxlan id 1 dev a0 dstport 4789 nolearning")
    node.ip("link set flannel.1 up")
    await tunnels.want([VXLAN[family]], {family: [FAR[family]]})
    assert_whole(node, tunnels, family)


@pytest.mark.kernel
async def test_another_port_is_another_device(node: Node, tunnels: KernelTunnels) -> None:
    await tunnels.want([VXLAN[Family.IPV4]], {Family.IPV4: [FAR[Family.IPV4]]})
    await tunnels.want([replace(VXLAN[Family.IPV4], port=8472)], {Family.IPV4: [FAR[Family.IPV4]]})
    assert "dstport 8472" in node.ip(f"-d link show {NAME}")
    assert neighbours(node, Family.IPV4).keys() == {"172.16.0.2"}
    assert entries(Family.IPV4).keys() == {FAR_MAC.hex(":")}


@pytest.mark.kernel
async def test_a_device_that_is_not_wanted_any_more_goes(node: Node, tunnels: KernelTunnels) -> None:
    await tunnels.want([*VXLAN.values()], {each: [end] for each, end in FAR.items()})
    await tunnels.want([], {})
    assert "vxlan" not in links(node)
    assert tunnels.interfaces == {}


@pytest.mark.kernel
async def test_a_device_of_a_former_life_goes_unless_it_is_another_s(node: Node, tunnels: KernelTunnels) -> None:
    await tunnels.want([VXLAN[Family.IPV4]], {Family.IPV4: [FAR[Family.IPV4]]})
    node.ip("link add tortie-ipip type bridge")
    again = KernelTunnels()
    await again.mend()
    assert NAME not in links(node)
    assert "tortie-ipip" in links(node)
    again.close()


@pytest.mark.kernel
@each_family
async def test_a_device_may_become_unwanted_while_it_is_mended(
    node: Node, tunnels: KernelTunnels, family: Family
) -> None:
    await tunnels.want([VXLAN[family]], {family: [FAR[family]]})
    for turns in range(1, 30):
        node.ip(f"link set {NAMES[family]} down")
        mending = asyncio.create_task(tunnels.mend(thorough=True))
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        await tunnels.want([], {})
        await mending
        assert tunnels.interfaces == {}
        assert NAMES[family] not in links(node)
        await tunnels.want([VXLAN[family]], {family: [FAR[family]]})
    assert_whole(node, tunnels, family)


@pytest.mark.kernel
async def test_far_ends_come_and_go_one_by_one(node: Node, tunnels: KernelTunnels) -> None:
    await tunnels.want([VXLAN[Family.IPV4]], {Family.IPV4: [FAR[Family.IPV4]]})
    third = packed("172.16.0.3")
    await tunnels.want([VXLAN[Family.IPV4]], {Family.IPV4: [FarEnd(third, MAC, third)]})
    assert neighbours(node, Family.IPV4) == {"172.16.0.3": MAC.hex(":")}
    assert entries(Family.IPV4) == {MAC.hex(":"): "172.16.0.3"}


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("kind", "module"), [(Kind.IPIP, "ipip"), (Kind.IP6TNL, "ip6_tunnel")], ids=["IPIP", "IPv6 in IPv6"]
)
async def test_a_kernel_without_ip_in_ip_is_said_and_vxlan_offered(
    node: Node, tunnels: KernelTunnels, kind: Kind, module: str
) -> None:
    device = DeviceId(kind, Family.IPV4 if kind is Kind.IPIP else Family.IPV6)
    await tunnels.want([Device(device, 1480)], {})
    if device in tunnels.interfaces:
        assert f"{kind.value} external" in node.ip(f"-d link show {device.name}")
        pytest.skip(f"this kernel has {kind.value}")
    assert tunnels.problems == {
        device: f"this kernel cannot make {device.name}: load the module {module}, or set encapsulation.type to VXLAN"
    }


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
    await tunnels.want([VXLAN[Family.IPV4]], {Family.IPV4: [FAR[Family.IPV4]]})
    assert offload.has_transmit_checksum(NAME)
    found = os.uname()
    old = os.uname_result((found.sysname, found.nodename, "5.4.0-90-generic", found.version, found.machine))
    monkeypatch.setattr(os, "uname", lambda: old)
    await tunnels.mend()
    assert not offload.has_transmit_checksum(NAME)
