from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from bgp.path import AsPath, NextHopKey, Origin, Path
from inet.prefix import parse_address
from tests.bgp.builders import as_path, attributes, path, source


@pytest.mark.parametrize(
    ("text", "length", "neighbour", "origin"),
    [
        ("", 0, None, None),
        ("65100", 1, 65100, 65100),
        ("65100 65002 65002", 3, 65100, 65002),
        ("65100 {65003,65004}", 2, 65100, 65100),
        ("{65003}", 1, None, None),
    ],
    ids=["our own", "one hop", "prepended", "aggregated", "only a set"],
)
def test_an_as_path_tells_its_length_its_neighbour_and_its_origin(
    text: str, length: int, neighbour: int | None, origin: int | None
) -> None:
    found = as_path(text)
    assert (found.length, found.neighbour, found.origin) == (length, neighbour, origin)


def test_an_as_is_counted_in_the_sequence_and_in_the_set() -> None:
    found = as_path("65001 65002 65001 {65001,65003}")
    assert [found.count(asn) for asn in (65001, 65002, 65003, 65004)] == [3, 1, 1, 0]


def test_prepending_puts_an_as_in_front() -> None:
    assert as_path("65002 {65003}").prepend(65001) == as_path("65001 65002 {65003}")
    assert as_path("65002").prepend(65001, 3) == as_path("65001 65001 65001 65002")
    assert AsPath().prepend(65001).neighbour == 65001


@pytest.mark.parametrize("text", ["", "65100", "65100 65002", "65100 {65003,65004}", "{65003}"])
def test_an_as_path_reads_as_routers_show_it(text: str) -> None:
    assert str(as_path(text)) == text


def test_origins_are_in_order_of_preference() -> None:
    assert Origin.IGP < Origin.EGP < Origin.INCOMPLETE


def test_equal_attributes_are_one_key_and_paths_are_themselves_alone() -> None:
    assert attributes("192.168.0.1", "65100 65002") == attributes("192.168.0.1", "65100 65002")
    assert len({attributes(med=1), attributes(med=1), attributes(med=None)}) == 2
    assert path() != path()


def test_peers_are_ordered_by_family_then_by_address_as_a_number() -> None:
    texts = ["9.0.0.1", "10.0.0.1", "10.0.0.20", "10.0.0.100", "fd00::1"]
    backwards = texts[::-1]
    assert sorted(backwards, key=lambda text: source(text).order) == texts


def test_one_link_local_address_on_two_links_is_two_peers_in_order() -> None:
    one, other = source("fe80::1%eth0"), source("fe80::1%eth1")
    assert one.order < other.order
    assert one.peer != other.peer


def test_a_link_local_next_hop_is_another_one_on_another_link() -> None:
    def key(interface: str) -> NextHopKey:
        spoken = attributes("fe80::1", next_hop_interface=interface)
        return Path(source(), spoken, 100).next_hop

    assert key("eth0") != key("eth1")
    assert str(key("eth0")) == "fe80::1%eth0"
    assert str(NextHopKey(parse_address("10.0.0.1"))) == "10.0.0.1"


def test_an_internal_peer_is_one_of_our_own_as() -> None:
    assert path(is_internal=True).source.is_internal
    assert path(router_id="1.2.3.4").source.router_id == IPv4Address("1.2.3.4")
