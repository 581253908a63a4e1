"""Messages about tunnel devices: each is sent to the real kernel, and read as the kernel and `ip` have it then."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from itertools import product
from socket import if_nametoindex
from typing import Any

import pytest

from felix import tunnelmessages as messages
from felix.netlink import U32, NetlinkSocket, attribute, dump
from felix.tunnelmessages import Device, DeviceId, FoundLink, Kind
from inet.prefix import Family, parse_address
from tests.felix.netns import Node
from tests.own_kernel import run_in_own_kernel, starts_own_kernel

MAC, OTHER_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
IFINFO = messages.IFINFOMSG.size
VNIS = (0, 1, 4096, 9_999_999, 10_000_000, 16_777_215)
each_family = pytest.mark.parametrize("family", Family, ids=lambda family: family.label)


def packed(address: str) -> bytes:
    return parse_address(address).packed


LOCAL = {Family.IPV4: packed("10.0.0.1"), Family.IPV6: packed("fd00:1::1")}  # the node's on a0
OTHER_LOCAL = {Family.IPV4: packed("10.0.1.1"), Family.IPV6: packed("fd00:2::1")}
FAR = {Family.IPV4: packed("10.0.0.9"), Family.IPV6: packed("fd00:1::9")}
OTHER_FAR = {Family.IPV4: packed("10.0.1.9"), Family.IPV6: packed("fd00:2::9")}
INSIDE = {Family.IPV4: packed("10.42.1.0"), Family.IPV6: packed("fd42:0:0:1::")}


def vxlan(family: Family, vni: int = 4096) -> Device:
    return Device(DeviceId(Kind.VXLAN, family, vni), 1450, 4789, MAC, LOCAL[family])


@pytest.mark.timeout(1200)
@starts_own_kernel
def test_in_a_kernel_that_has_ip_in_ip() -> None:
    run_in_own_kernel(__file__)


# Names


@pytest.mark.parametrize(("family", "vni"), list(product(Family, VNIS)))
def test_every_vni_has_a_name_of_its_own_that_the_kernel_takes(family: Family, vni: int) -> None:
    name = DeviceId(Kind.VXLAN, family, vni).name
    assert len(name) <= 15  # IFNAMSIZ less the final zero
    assert name.endswith(f"-{vni}")
    others = {DeviceId(Kind.VXLAN, *other).name for other in product(Family, VNIS) if other != (family, vni)}
    assert name not in others


NOTHING_TOLD = FoundLink(
    interface=7,
    name="",
    kind="",
    is_up=False,
    mtu=0,
    mac=b"",
    alias="",
    is_external=False,
    port=0,
    vni=0,
    local=b"",
)


def found(device: DeviceId, **changes: Any) -> FoundLink:
    facts = {"name": "renamed", "kind": device.kind.value, "alias": device.alias, "vni": device.vni}
    return NOTHING_TOLD._replace(**(facts | changes))


@pytest.mark.parametrize(
    "device",
    [*(DeviceId(Kind.VXLAN, family, 4096) for family in Family),
     DeviceId(Kind.IPIP, Family.IPV4), DeviceId(Kind.IP6TNL, Family.IPV6)],
    ids=lambda device: device.name,
)  # fmt: skip
def test_a_device_of_ours_is_known_by_kind_and_mark_whatever_its_name(device: DeviceId) -> None:
    assert found(device).device == device
    assert found(device, alias="").device is None
    assert found(device, alias=f"{device.alias} of somebody").device is None
    assert found(device, kind="dummy").device is None


def test_a_vxlan_device_that_bears_the_mark_of_another_vni_is_not_ours() -> None:
    assert found(DeviceId(Kind.VXLAN, Family.IPV4, 4096), vni=4097).device is None


# Links as the kernel has them


def test_a_link_of_which_little_is_told_is_read_all_the_same() -> None:
    header = messages.IFINFOMSG.pack(0, 0, 1, 7, 0x1, 0)
    data = b"before" + header
    assert messages.parse_link(data, 6, len(data)) == NOTHING_TOLD._replace(is_up=True)
    data = header + attribute(3, b"eth\xff\0")
    link = messages.parse_link(data, 0, len(data))
    assert link is not None
    assert link.name.startswith("eth")


def test_what_a_bridge_says_of_its_ports_is_no_link() -> None:
    data = messages.IFINFOMSG.pack(7, 0, 1, 7, 0, 0)  # AF_BRIDGE
    assert messages.parse_link(data, 0, len(data)) is None


@pytest.fixture
def ask(wire: NetlinkSocket) -> Callable[[str], FoundLink]:
    """Return a link by its name, as the kernel tells it."""

    def asked(name: str) -> FoundLink:
        data = wire.ask(messages.get(name))
        link = messages.parse_link(data, 0, len(data))
        assert link is not None
        return link

    return asked


async def do(wire: NetlinkSocket, *requests: bytes) -> None:
    assert await wire.write(requests) == []


@pytest.mark.kernel
@pytest.mark.parametrize("vni", VNIS[1:])
@each_family
async def test_a_vxlan_device_is_made_down_with_all_that_it_should_have(
    node: Node, wire: NetlinkSocket, ask: Callable[[str], FoundLink], family: Family, vni: int
) -> None:
    device = vxlan(family, vni)
    await do(wire, messages.create(device))
    link = ask(device.id.name)
    wanted = found(device.id, name=device.id.name, alias="", mac=MAC, port=4789, local=LOCAL[family])
    assert link == wanted._replace(interface=link.interface, mtu=link.mtu)
    shown = node.ip(f"-d link show {device.id.name}")
    for words in (f"vxlan id {vni} ", f"local {ip_address(LOCAL[family])} ", "dstport 4789 ", "nolearning "):
        assert words in shown
    (again,) = await wire.write([messages.create(device)])
    assert again.errno  # it is never taken for made when somebody else has the name


@pytest.mark.kernel
@each_family
async def test_a_vxlan_device_without_a_source_is_of_its_family_all_the_same(
    wire: NetlinkSocket, ask: Callable[[str], FoundLink], family: Family
) -> None:
    device = replace(vxlan(family), local=b"")
    await do(wire, messages.create(device))
    assert not any(ask(device.id.name).local)
    interface = if_nametoindex(device.id.name)
    await do(wire, messages.set_up(interface, up=True), messages.put_forwarding(interface, OTHER_MAC, FAR[family]))
    assert f"dst {ip_address(FAR[family])}" in fdb(device.id.name)
    (refused,) = await wire.write(
        [messages.put_forwarding(interface, MAC, FAR[next(f for f in Family if f != family)])]
    )
    assert refused.errno, "a far end of the other family"


@pytest.mark.kernel
@each_family
async def test_a_vxlan_device_gets_another_source_where_it_is(
    wire: NetlinkSocket, ask: Callable[[str], FoundLink], family: Family
) -> None:
    device = vxlan(family)
    await do(wire, messages.create(device))
    before = ask(device.id.name)
    await do(wire, messages.set_local(before.interface, replace(device, local=OTHER_LOCAL[family])))
    assert ask(device.id.name) == before._replace(local=OTHER_LOCAL[family])
    await do(wire, messages.set_local(before.interface, replace(device, local=b"")))
    assert not any(ask(device.id.name).local)
    await do(wire, messages.put_forwarding(before.interface, OTHER_MAC, FAR[family]))  # it is of its family still


@pytest.mark.kernel
@pytest.mark.parametrize(("kind", "family"), [(Kind.IPIP, Family.IPV4), (Kind.IP6TNL, Family.IPV6)])
async def test_a_device_of_ip_in_ip_leaves_it_to_routes_where_packets_go(
    wire: NetlinkSocket, ask: Callable[[str], FoundLink], kind: Kind, family: Family
) -> None:
    device = Device(DeviceId(kind, family), 1480)
    (refused, *_) = await wire.write([messages.create(device)]) or [None]
    if refused is not None:
        pytest.skip(f"this kernel has no {kind.value}: {refused.message}")
    link = ask(device.id.name)
    assert (link.kind, link.is_external, link.is_up) == (kind.value, True, False)


@pytest.fixture
def link(node: Node, ask: Callable[[str], FoundLink], family: Family) -> Iterator[FoundLink]:
    """A VXLAN device that is up, made by hand."""
    node.ip(
        f"link add t0 address {MAC.hex(':')} mtu 1400 type vxlan id 5 dstport 4789 nolearning"
        f" local {ip_address(LOCAL[family])}"
    )
    return ask("t0")  # type: ignore[return-value]  # gone with its namespace


@pytest.mark.kernel
async def test_a_mark_is_read_back_and_keeps_ipv6_from_making_addresses(
    node: Node, wire: NetlinkSocket, ask: Callable[[str], FoundLink], link: FoundLink
) -> None:
    await do(wire, messages.mark(link.interface, "tortie vxlan IPv4 5"), messages.set_up(link.interface, up=True))
    assert ask("t0") == link._replace(alias="tortie vxlan IPv4 5", is_up=True)
    assert node.ip("-6 addr show t0") == ""


@pytest.mark.kernel
async def test_each_setting_of_a_link_is_changed_alone(
    node: Node, wire: NetlinkSocket, ask: Callable[[str], FoundLink], link: FoundLink
) -> None:
    steps: tuple[tuple[bytes, dict[str, Any]], ...] = (
        (messages.set_mtu(link.interface, 1300), {"mtu": 1300}),
        (messages.set_mac(link.interface, OTHER_MAC), {"mac": OTHER_MAC}),
        (messages.set_up(link.interface, up=True), {"is_up": True}),
        (messages.set_up(link.interface, up=False), {"is_up": False}),
    )
    for request, change in steps:
        await do(wire, request)
        link = link._replace(**change)
        assert ask("t0") == link
    await do(wire, messages.rename(link.interface, "t1"))
    assert ask("t1") == link._replace(name="t1")
    everything = await dump(messages.DUMP_LINKS, messages.parse_link)
    assert {"lo", "a0", "a1", "t1"} <= {each.name for each in everything}
    await do(wire, messages.delete(link.interface))
    assert "t1" not in node.ip("link show")


@pytest.mark.kernel
async def test_an_address_brings_no_route_but_to_itself_and_is_usable_at_once(
    node: Node, wire: NetlinkSocket, link: FoundLink, family: Family
) -> None:
    version = f"-{family.label[-1]}"
    routes = node.ip(f"{version} route show")
    await do(wire, messages.mark(link.interface, "x"), messages.set_up(link.interface, up=True))
    await do(wire, *[messages.put_address(link.interface, INSIDE[family], is_wanted=True)] * 2)  # twice is once
    shown = node.ip(f"{version} addr show t0")
    assert shown.count(f"inet{'6' if family is Family.IPV6 else ''} {ip_address(INSIDE[family])}/{family.bits}") == 1
    assert "tentative" not in shown
    assert node.ip(f"{version} route show") == routes
    await do(wire, messages.put_address(link.interface, INSIDE[family], is_wanted=False))
    assert str(ip_address(INSIDE[family])) not in node.ip(f"{version} addr show t0")


# Far ends


@pytest.mark.kernel
async def test_a_neighbour_is_there_for_good_changed_in_place_and_forgotten(
    node: Node, wire: NetlinkSocket, link: FoundLink, family: Family
) -> None:
    async def neighbours() -> list[tuple[int, bytes, bytes] | None]:
        return await dump(messages.dump_neighbours(family, link.interface), messages.parse_neighbour)

    await do(wire, messages.set_up(link.interface, up=True))
    node.ip(f"neigh add {ip_address(OTHER_FAR[family])} lladdr {MAC.hex(':')} dev t0 nud reachable")
    for mac in (MAC, OTHER_MAC):
        await do(wire, messages.put_neighbour(link.interface, FAR[family], mac))
        assert await neighbours() == [(link.interface, FAR[family], mac)], "and not those that come and go"
    assert "PERMANENT" in node.ip(f"neigh show {ip_address(FAR[family])} dev t0")
    await do(wire, messages.drop_neighbour(link.interface, FAR[family]))
    assert await neighbours() == []


@pytest.mark.kernel
async def test_a_forwarding_entry_moves_in_place_and_is_forgotten(
    wire: NetlinkSocket, link: FoundLink, family: Family
) -> None:
    """A second destination beside the first would have every packet sent twice."""

    async def entries() -> list[tuple[int, bytes, bytes] | None]:
        return await dump(messages.dump_forwarding(link.interface), messages.parse_forwarding)

    for far in (FAR[family], OTHER_FAR[family]):
        await do(wire, messages.put_forwarding(link.interface, OTHER_MAC, far))
        assert await entries() == [(link.interface, OTHER_MAC, far)]
    assert fdb("t0").split() == [OTHER_MAC.hex(":"), "dst", str(ip_address(OTHER_FAR[family])), "self", "permanent"]
    await do(wire, messages.drop_forwarding(link.interface, OTHER_MAC))
    assert await entries() == []


def fdb(name: str) -> str:
    return subprocess.run(["bridge", "fdb", "show", "dev", name], capture_output=True, text=True, check=True).stdout


@each_family
def test_a_row_that_does_not_say_where_to_is_passed_over(family: Family) -> None:
    header = messages._NDMSG.pack(family, 0, 0, 7, 0x80, 0, 0)
    with_mac = header + attribute(2, MAC)
    assert messages.parse_neighbour(with_mac, 0, len(with_mac)) is None
    assert messages.parse_forwarding(with_mac, 0, len(with_mac)) is None
    with_address = header + attribute(1, FAR[family])
    assert messages.parse_neighbour(with_address, 0, len(with_address)) == (7, FAR[family], b"")
    assert messages.parse_forwarding(with_address, 0, len(with_address)) is None
    assert U32.unpack(messages.dump_neighbours(family, 7)[-4:]) == (7,), "the kernel picks this link's"
