from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from agent.objects.scalars import ASN, CIDR, Address, FamilyName, PeerASN, Port, RouterID, Time
from inet.prefix import Prefix, parse_address

ADDRESSES = st.ip_addresses().filter(
    lambda it: not (it.is_multicast or it.is_unspecified or it.is_link_local or str(it) == "255.255.255.255")
)


def reads(kind: Any, value: Any) -> Any:
    return TypeAdapter(kind).validate_python(value)


def refusal(kind: Any, value: Any) -> str:
    with pytest.raises(ValidationError) as error:
        reads(kind, value)
    (details,) = error.value.errors()
    return details["msg"]


@given(st.integers(1, 2**32 - 1).filter(lambda asn: asn != 23456))
def test_every_as_number_is_taken(asn: int) -> None:
    assert reads(ASN, asn) == asn
    assert reads(PeerASN, asn) == asn


@given(st.integers(max_value=0) | st.integers(min_value=2**32) | st.floats() | st.booleans() | st.none() | st.text())
def test_nothing_else_is_an_as_number(value: object) -> None:
    assert "is not an AS number (1 to 4294967295)" in refusal(ASN, value)


@given(ADDRESSES)
def test_an_address_is_read_and_written_as_itself(address: Any) -> None:
    assert reads(Address, str(address)) == address
    assert reads(Address, address) == address
    assert TypeAdapter(Address).dump_python(address) == str(address)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("", "'' is not an IPv4 or IPv6 address"),
        ("010.0.0.1", "'010.0.0.1' is not an IPv4 or IPv6 address"),
        ("10.0.0.0/8", "'10.0.0.0/8' is not an IPv4 or IPv6 address"),
        (167772161, "167772161 is not an IPv4 or IPv6 address"),
        ("0.0.0.0", "0.0.0.0 is not the address of a host"),
        ("::", ":: is not the address of a host"),
        ("224.0.0.5", "224.0.0.5 is not the address of a host"),
        ("ff02::5", "ff02::5 is not the address of a host"),
        ("255.255.255.255", "255.255.255.255 is not the address of a host"),
        ("fe80::1", "fe80::1 is link-local: say on which interface, as in fe80::1%eth0"),
        ("fd00::1%eth0", "fd00::1%eth0 is not link-local: leave out %eth0"),
    ],
)
def test_what_no_session_can_use_is_no_address(value: object, wanted: str) -> None:
    assert refusal(Address, value) == wanted


def test_a_link_local_address_carries_its_interface() -> None:
    assert reads(Address, "fe80::1%eth0") == parse_address("fe80::1%eth0")


@pytest.mark.parametrize("text", ["10.42.0.0/16", "fd42::/48", "0.0.0.0/0", "::/0", "192.0.2.1/32", "2001:db8::1/128"])
def test_a_cidr_is_read_and_written_as_itself(text: str) -> None:
    assert reads(CIDR, text) == Prefix.parse(text)
    assert TypeAdapter(CIDR).dump_python(reads(CIDR, text)) == text


@pytest.mark.parametrize(
    ("kind", "value", "wanted"),
    [
        (Port, 65536, "65536 is not a TCP port (1 to 65535)"),
        (Port, "179", "'179' is not a TCP port (1 to 65535): leave out the quotes"),
        (Port, {}, "a mapping is not a TCP port (1 to 65535)"),
        (RouterID, "0.0.0.0", "0.0.0.0 is not a router id: an IPv4 address other than 0.0.0.0"),
        (FamilyName, 4, "4 is not IPv4 or IPv6"),
        (Time, "yesterday", "'yesterday' is not a time such as 2026-11-21T12:00:00Z"),
    ],
)
def test_what_is_wrong_is_said_in_our_words(kind: Any, value: object, wanted: str) -> None:
    assert refusal(kind, value) == wanted


def test_a_time_is_written_in_utc_as_kubernetes_does() -> None:
    assert TypeAdapter(Time).dump_python(reads(Time, "2026-11-21T12:00:00Z")) == "2026-11-21T12:00:00Z"
