"""Devices and next hops of tunnels, in both families, without a kernel."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from agent.tunnel_devices import (
    Owner,
    Wrapping,
    Wrappings,
    device_of,
    devices,
    devices_of,
    end_of,
    gateway,
    hop_through,
    medium_for,
    tunnels_in,
)
from bgp.carriage import OVERHEAD, Tunnel, hardware_address
from bgp.config import EncapsulationMode, TunnelType
from bgp.switchover import FarEnd, Medium
from felix.route import NextHop
from felix.tunnelmessages import DeviceId, Kind
from inet.prefix import Family, IPAddress, Prefix

VNI, PORT = 4096, 4789
MEDIA = [Medium(type_, family) for type_ in TunnelType for family in Family]


@pytest.fixture
def address(family: Family) -> IPAddress:
    """Node n2's."""
    return ip_address("192.0.2.2" if family is Family.IPV4 else "2001:db8::2")


def tunnel(type_: TunnelType) -> Tunnel:
    return Tunnel("n2", type_, EncapsulationMode.ALWAYS, VNI if type_ is TunnelType.VXLAN else 0)


@pytest.mark.parametrize("type_", TunnelType)
def test_a_tunnel_is_found_again_by_its_next_hop(family: Family, address: IPAddress, type_: TunnelType) -> None:
    wanted = tunnel(type_)
    hop = hop_through(7, address, wanted, b"")
    present = {device_of(address, wanted): 7, DeviceId(Kind.VXLAN, family, VNI + 1): 8}
    assert tunnels_in([hop], present, "n2", address) == {address: wanted}
    wrapping = Wrapping(type_, address, wanted.vni)
    assert Wrappings(present, [FarEnd(address, "n2")]).of(hop) == wrapping


def test_a_next_hop_on_a_plain_link_is_no_tunnel(address: IPAddress) -> None:
    hop = NextHop(address.packed, 3)
    present = {device_of(address, tunnel(TunnelType.VXLAN)): 7}
    assert tunnels_in([hop], present, "n2", address) == {}
    assert Wrappings(present, [FarEnd(address, "n2")]).of(hop) is None


def test_of_a_node_that_is_gone_vxlan_knows_the_gateway_alone(address: IPAddress) -> None:
    wanted = tunnel(TunnelType.VXLAN)
    hop, present = hop_through(7, address, wanted, b""), {device_of(address, wanted): 7}
    assert Wrappings(present, []).of(hop) == Wrapping(TunnelType.VXLAN, ip_address(gateway(address, "n2")), VNI)
    assert tunnels_in([hop], present, "n2", None) == {}, "a node without an address has no way through it"


def test_a_gateway_is_the_node_s_address_or_a_link_local_one_of_its_own(family: Family, address: IPAddress) -> None:
    found = ip_address(gateway(address, "n2"))
    assert found.version == address.version
    assert (found == address) if family is Family.IPV4 else found.is_link_local
    assert (gateway(address, "n3") == gateway(address, "n2")) is (family is Family.IPV4)


@pytest.mark.parametrize("medium", MEDIA, ids=lambda medium: f"{medium.type.value}-{medium.family.label}")
def test_each_medium_has_devices_of_its_own_that_take_less_than_the_link(medium: Medium) -> None:
    cidrs = Prefix.parse("10.42.1.0/24"), Prefix.parse("fd42:0:0:1::/64")
    sources = {Family.IPV4: bytes(4), Family.IPV6: bytes(16)}
    made = list(devices([medium], {VNI + 1, VNI}, Owner("n1", cidrs, sources), 1500, PORT))
    is_vxlan = medium.type is TunnelType.VXLAN
    in_ip = Kind.IPIP if medium.family is Family.IPV4 else Kind.IP6TNL
    assert {(each.id.kind, each.id.family) for each in made} == {(Kind.VXLAN if is_vxlan else in_ip, medium.family)}
    assert [each.id for each in made] == devices_of(medium, {VNI, VNI + 1})
    assert [each.id.vni for each in made] == ([VNI, VNI + 1] if is_vxlan else [0])
    assert {medium_for(each.id) for each in made} == {medium}
    for device in made:
        assert device.mtu == 1500 - OVERHEAD[medium]
        assert device.address == cidrs[medium.family is Family.IPV6].packed
        assert (device.mac == hardware_address("n1"), bool(device.port)) == (is_vxlan, is_vxlan)


def test_a_node_has_an_end_where_it_has_a_pod_cidr_with_room_for_one(family: Family) -> None:
    own, other = Prefix.parse("10.42.1.0/24"), Prefix.parse("fd42:0:0:1::/64")
    if family is Family.IPV6:
        own, other = other, own
    assert end_of([other, own], family) == own.packed
    assert end_of([other], family) == b""
    assert end_of([Prefix.of_host(ip_address(own.packed))], family) == b""
