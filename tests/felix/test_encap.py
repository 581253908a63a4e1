"""The outer header of a next hop, on the wire and back. That the kernel takes it: test_tunnels.py."""

from __future__ import annotations

import pytest

from felix.encap import Outer, pack, parse
from felix.netlink import attributes
from inet.prefix import Family, parse_address

TYPE, CONTENT = 21, 22  # RTA_ENCAP_TYPE, RTA_ENCAP
FAR = {Family.IPV4: parse_address("192.0.2.9").packed, Family.IPV6: parse_address("2001:db8::9").packed}
NEAR = {Family.IPV4: parse_address("192.0.2.1").packed, Family.IPV6: parse_address("2001:db8::1").packed}


def on_the_wire(outer: Outer) -> dict[int, bytes]:
    data = pack(outer, TYPE, CONTENT)
    return {number & 0x3FFF: value for number, value in attributes(data, 0, len(data))}  # without NLA_F_NESTED


@pytest.mark.parametrize("has_source", [True, False], ids=["source", "no source"])
def test_what_is_written_is_read(family: Family, *, has_source: bool) -> None:
    outer = Outer(FAR[family], NEAR[family] if has_source else b"")
    assert parse(on_the_wire(outer), TYPE, CONTENT) == outer


def test_the_family_of_the_outer_header_is_told(family: Family) -> None:
    number = int.from_bytes(on_the_wire(Outer(FAR[family]))[TYPE], "little")
    assert number == {Family.IPV4: 2, Family.IPV6: 4}[family]  # LWTUNNEL_ENCAP_IP, _IP6


def test_packets_live_as_long_as_any_between_nodes(family: Family) -> None:
    content = on_the_wire(Outer(FAR[family]))[CONTENT]
    assert dict(attributes(content, 0, len(content)))[4] == bytes([64])  # LWTUNNEL_IP_TTL


def test_an_outer_source_of_zeros_is_the_kernels_choice(family: Family) -> None:
    zeros = bytes(len(FAR[family]))
    assert parse(on_the_wire(Outer(FAR[family], zeros)), TYPE, CONTENT) == Outer(FAR[family])


@pytest.mark.parametrize("found", [{}, {TYPE: b"\x01\x00", CONTENT: b""}], ids=["none", "MPLS"])
def test_what_is_not_wrapped_in_ip_has_no_outer_header(found: dict[int, bytes]) -> None:
    assert parse(found, TYPE, CONTENT) is None
