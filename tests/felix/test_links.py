from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from felix import links
from felix.links import Link, LocalAddress, parse_address, parse_link
from felix.netlink import Message, NetlinkSocket, messages, open_socket
from inet.prefix import Family
from tests.felix.netns import Node

# struct ifinfomsg: family, pad, type (ARPHRD_ETHER), index 7, flags UP and LOWER_UP, change
UP_AND_LOWER_UP = bytes.fromhex("00 00 0100 07000000 01000100 00000000")
NAME = bytes.fromhex("0900 0300 65746830 00 000000")  # IFLA_IFNAME "eth0", padded
MTU = bytes.fromhex("0800 0400 dc050000")

# struct ifaddrmsg: family, prefix length, flags, scope, index 7
IPV4 = bytes.fromhex("02 20 00 00 07000000")
IPV6 = bytes.fromhex("0a 40 00 00 07000000")
OWN, OTHER_END = bytes.fromhex("0800 0200 0a000001"), bytes.fromhex("0800 0100 0a000002")


def test_a_link_is_read_as_the_kernel_packs_it() -> None:
    before = b"before"
    data = before + UP_AND_LOWER_UP + MTU + NAME
    assert parse_link(data, len(before), len(data)) == Link(7, "eth0", is_up=True, mtu=1500)


def test_a_name_that_is_no_text_is_no_error() -> None:
    data = UP_AND_LOWER_UP + NAME.replace(b"eth0", b"eth\xff")
    link = parse_link(data, 0, len(data))
    assert link is not None
    assert link.name.startswith("eth")


def test_a_link_whose_name_is_not_told_has_none() -> None:
    data = UP_AND_LOWER_UP + MTU
    assert parse_link(data, 0, len(data)) == Link(7, "", is_up=True, mtu=1500)


@pytest.mark.parametrize(
    "flags", ["00000000", "01000000", "00000100", "43100000"], ids=["none", "up", "carrier", "no carrier"]
)
def test_a_link_is_up_only_if_it_is_wanted_up_and_has_a_carrier(flags: str) -> None:
    data = UP_AND_LOWER_UP[:8] + bytes.fromhex(flags) + UP_AND_LOWER_UP[12:] + NAME
    assert parse_link(data, 0, len(data)) == Link(7, "eth0", is_up=False)


def test_news_of_a_bridge_port_is_not_of_the_link() -> None:
    data = b"\x07" + UP_AND_LOWER_UP[1:] + NAME  # AF_BRIDGE
    assert parse_link(data, 0, len(data)) is None


def test_the_own_end_of_a_point_to_point_link_counts() -> None:
    data = IPV4 + OTHER_END + OWN
    assert parse_address(data, 0, len(data)) == LocalAddress(ip_address("10.0.0.1"), 7)


def test_an_ipv6_address_comes_without_an_own_end() -> None:
    data = IPV6 + bytes.fromhex("1400 0100") + ip_address("fd00::1").packed
    assert parse_address(data, 0, len(data)) == LocalAddress(ip_address("fd00::1"), 7)


def test_news_without_an_address_is_none() -> None:
    data = IPV4 + bytes.fromhex("0800 0400 ffffffff")  # IFA_BROADCAST alone
    assert parse_address(data, 0, len(data)) is None


def test_the_link_of_an_address_is_read_without_the_address() -> None:
    assert links.interface_of_address(b"before" + IPV6, 6) == 7


@pytest.mark.kernel
async def test_links_are_those_that_ip_shows(node: Node) -> None:
    node.ip("link add name fifteen_letters type veth peer name c0")
    node.ip("link set a1 down")
    node.ip("link add br0 type bridge")
    node.ip("link set fifteen_letters up")
    node.ip("link set fifteen_letters master br0")  # the kernel has more news of a bridge's ports
    shown = {
        row["ifindex"]: Link(row["ifindex"], row["ifname"], {"UP", "LOWER_UP"} <= set(row["flags"]), row["mtu"])
        for row in node.ip_json("link show")
    }
    found = await links.links()
    assert found == shown
    assert {link.name: link.is_up for link in found.values()} == {
        "lo": True,
        "a0": True,
        "a1": False,
        "fifteen_letters": False,
        "c0": False,
        "br0": False,
    }


@pytest.mark.kernel
async def test_addresses_are_those_that_ip_shows(node: Node) -> None:
    node.ip("addr add 172.31.0.1 peer 172.31.0.2 dev a0")
    node.ip("addr add fd31::1 peer fd31::2 dev a0 nodad")
    shown = {
        LocalAddress(ip_address(address["local"]), row["ifindex"])
        for row in node.ip_json("addr show")
        for address in row["addr_info"]
    }
    found = await links.addresses()
    assert set(found) == shown
    assert len(found) == len(shown)
    a0 = socket.if_nametoindex("a0")
    ours = ("10.0.0.1", "fd00:1::1", "172.31.0.1", "fd31::1")
    assert {LocalAddress(ip_address(text), a0) for text in ours} <= set(found)
    assert {ip_address("127.0.0.1"), ip_address("::1")} <= {each.address for each in found}


@pytest.mark.kernel
def test_whether_a_link_is_up_is_asked_of_that_link_alone(wire: NetlinkSocket, node: Node) -> None:
    node.ip("link set a0 down")
    assert [links.is_up(wire, node.interface(i)) for i in range(2)] == [False, True]
    node.ip("link set a0 up")
    node.peer_ip("link set b1 down")
    assert [links.is_up(wire, node.interface(i)) for i in range(2)] == [True, False]


@pytest.mark.kernel
def test_a_link_that_is_not_there_is_an_error(wire: NetlinkSocket) -> None:
    with pytest.raises(OSError, match="No such device") as caught:
        links.is_up(wire, 4711)
    assert caught.value.errno == errno.ENODEV


@pytest.mark.kernel
async def test_news_of_links_and_addresses_is_known_by_its_number(node: Node) -> None:
    with contextlib.closing(open_socket(64 * 1024)) as listening:
        listening.bind((0, 1 << 0 | 1 << 4))  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR (of IPv6 it tells a moment later)
        node.ip("link add c0 type veth peer name c1")
        node.ip("addr add 10.9.9.9/32 dev c0")
        node.ip("addr del 10.9.9.9/32 dev c0")
        node.ip("link del c0")
        heard = [(news.kind, parse_name(data, news)) for data in received(listening) for news in messages(data)]
    of_addresses = [kind for kind, _ in heard if kind in {links.NEWADDR, links.DELADDR}]
    assert of_addresses == [links.NEWADDR, links.DELADDR]
    of_c0 = [kind for kind, name in heard if name == "c0"]
    assert (of_c0[0], of_c0[-1]) == (links.NEWLINK, links.DELLINK)
    assert len(set(of_c0)) == 2


def received(listening: socket.socket) -> Iterator[bytes]:
    """Yield what has come in: the kernel tells while it does what ip asks of it."""
    with contextlib.suppress(BlockingIOError):
        while True:
            yield listening.recv(64 * 1024)


def parse_name(data: bytes, news: Message) -> str:
    link = parse_link(data, news.start, news.end) if news.kind in {links.NEWLINK, links.DELLINK} else None
    return link.name if link else ""


@pytest.mark.kernel
async def test_a_node_without_addresses_has_none(node: Node, family: Family) -> None:
    for name in ("lo", "a0", "a1"):
        node.ip(f"addr flush dev {name}")
    assert await links.addresses() == []
    node.ip(f"addr add {'10.1.1.1/32' if family is Family.IPV4 else 'fd01::1/128'} dev a1")
    ((address, interface),) = await links.addresses()
    assert (address.version, interface) == (4 if family is Family.IPV4 else 6, node.interface(1))
