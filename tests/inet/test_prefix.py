from __future__ import annotations

import ipaddress
import re
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inet.prefix import Family, Prefix, family_of, parse_address


def networks() -> st.SearchStrategy[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    v4 = st.tuples(st.ip_addresses(v=4), st.integers(0, 32))
    v6 = st.tuples(st.ip_addresses(v=6), st.integers(0, 128))
    return st.one_of(v4, v6).map(lambda pair: ipaddress.ip_network(pair, strict=False))


@given(networks())
def test_what_is_written_is_read_back(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> None:
    prefix = Prefix.parse(str(network))
    assert Prefix.parse(str(prefix)) == prefix
    assert ipaddress.ip_network(str(prefix)) == network
    assert (prefix.packed, prefix.length) == (network.network_address.packed, network.prefixlen)
    assert prefix.family.bits == network.max_prefixlen


@given(networks(), networks())
def test_containing_and_overlapping_agree_with_the_standard_library(
    one: ipaddress.IPv4Network, other: ipaddress.IPv4Network
) -> None:
    a, b = Prefix.parse(str(one)), Prefix.parse(str(other))
    assert a.contains(b) == (one.version == other.version and other.subnet_of(one))
    assert a.overlaps(b) == b.overlaps(a) == (one.version == other.version and one.overlaps(other))
    assert a.holds(other.network_address) == (other.network_address in one)


@given(networks(), st.data())
def test_a_shortened_prefix_contains_the_longer_one(network: ipaddress.IPv4Network, data: st.DataObject) -> None:
    prefix = Prefix.parse(str(network))
    length = data.draw(st.integers(0, prefix.length))
    assert ipaddress.ip_network(str(prefix.shortened(length))) == network.supernet(new_prefix=length)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'' is not a prefix such as 10.42.0.0/24 or fd42::/64"),
        ("10.42.0.0", "'10.42.0.0' is not a prefix such as 10.42.0.0/24 or fd42::/64"),
        ("10.42.0.0/", "'10.42.0.0/' is not a prefix such as 10.42.0.0/24 or fd42::/64"),
        ("10.42.0/24", "'10.42.0/24' is not a prefix such as 10.42.0.0/24 or fd42::/64"),
        ("010.42.0.0/24", "'010.42.0.0/24' is not a prefix such as 10.42.0.0/24 or fd42::/64"),
        ("fd42::%eth0/64", "'fd42::%eth0/64' is not a prefix such as 10.42.0.0/24 or fd42::/64"),
        ("pods/24", "'pods/24' is not a prefix such as 10.42.0.0/24 or fd42::/64"),
        ("10.42.0.0/24/24", "'10.42.0.0/24/24' is not a prefix such as 10.42.0.0/24 or fd42::/64"),
        ("10.42.0.0\0/24", "'10.42.0.0\\x00/24' is not a prefix such as 10.42.0.0/24 or fd42::/64"),
        ("10.42.0.0/33", "'10.42.0.0/33': the length must be a number from 0 to 32"),
        ("10.42.0.0/-1", "'10.42.0.0/-1': the length must be a number from 0 to 32"),
        ("10.42.0.0/ 24", "'10.42.0.0/ 24': the length must be a number from 0 to 32"),
        ("10.42.0.0/+24", "'10.42.0.0/+24': the length must be a number from 0 to 32"),
        ("10.42.0.0/024", "'10.42.0.0/024': the length must be a number from 0 to 32"),
        ("10.42.0.0/2_4", "'10.42.0.0/2_4': the length must be a number from 0 to 32"),
        ("10.42.0.0/\u0662\u0664", "'10.42.0.0/\u0662\u0664': the length must be a number from 0 to 32"),
        ("fd42::/129", "'fd42::/129': the length must be a number from 0 to 128"),
        ("10.42.0.1/24", "'10.42.0.1/24' has host bits set: the prefix is 10.42.0.0/24"),
        ("fd42::1/64", "'fd42::1/64' has host bits set: the prefix is fd42::/64"),
    ],
)
def test_what_is_no_prefix_is_refused_with_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(complaint)}$"):
        Prefix.parse(text)


@pytest.mark.parametrize(
    ("text", "is_default", "is_host"),
    [
        ("0.0.0.0/0", True, False),
        ("::/0", True, False),
        ("10.0.0.0/8", False, False),
        ("10.0.0.1/32", False, True),
        ("fd00::1/128", False, True),
        ("fd00::/32", False, False),
    ],
)
def test_a_default_route_and_a_single_address_are_told_apart(text: str, is_default: bool, is_host: bool) -> None:
    prefix = Prefix.parse(text)
    assert (prefix.is_default, prefix.is_host) == (is_default, is_host)


def test_a_default_route_contains_only_its_own_family() -> None:
    assert Prefix.parse("0.0.0.0/0").contains(Prefix.parse("10.0.0.0/8"))
    assert not Prefix.parse("0.0.0.0/0").overlaps(Prefix.parse("fd00::/8"))
    assert not Prefix.parse("::/0").holds(IPv4Address("10.0.0.1"))


def test_the_host_prefix_of_an_address_has_all_its_bits() -> None:
    assert str(Prefix.of_host(IPv4Address("10.0.0.1"))) == "10.0.0.1/32"
    assert str(Prefix.of_host(IPv6Address("fe80::1%eth0"))) == "fe80::1/128"


def test_prefixes_of_a_family_sort_by_address_then_length() -> None:
    texts = ["9.0.0.0/8", "10.0.0.0/8", "10.0.0.0/16", "10.0.1.0/24", "100.0.0.0/8"]
    assert [str(prefix) for prefix in sorted(map(Prefix.parse, reversed(texts)))] == texts


def test_families_are_numbered_as_the_kernel_does() -> None:
    assert (int(Family.IPV4), int(Family.IPV6)) == (2, 10)
    assert [family.label for family in Family] == ["IPv4", "IPv6"]
    assert family_of(parse_address("10.0.0.1")) is Family.IPV4
    assert family_of(parse_address("fd00::1")) is Family.IPV6


@pytest.mark.parametrize("text", ["", "10.0.0", "10.0.0.1/32", "router", "fd00::g"])
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is not an IPv4 or IPv6 address") as refusal:
        parse_address(text)
    assert str(refusal.value).startswith(repr(text))


def test_a_link_local_address_keeps_its_interface() -> None:
    assert str(parse_address("fe80::1%eth0")) == "fe80::1%eth0"
    assert parse_address("fe80::1%eth0") != parse_address("fe80::1%eth1")
