"""Addresses that a kernel is still looking for elsewhere, on a link where nobody else can have them."""

from __future__ import annotations

from pathlib import Path
from socket import if_nametoindex

import pytest

from felix.dad import settle
from felix.netlink import NetlinkSocket
from tests.felix.netns import Node

pytestmark = pytest.mark.kernel
FOUND = "fd77::1/64", "fd78::1/128"


@pytest.fixture
def looking(node: Node) -> Node:
    """On a0 and a1 the kernel looks for half a minute."""
    for link in ("a0", "a1"):
        for name, value in (("accept_dad", "1"), ("dad_transmits", "30")):
            Path(f"/proc/sys/net/ipv6/conf/{link}/{name}").write_text(value, encoding="ascii")
    return node


def tentative(node: Node, link: str) -> str:
    return node.ip(f"-6 -o addr show dev {link} tentative")


async def test_every_tentative_address_of_the_link_is_usable_at_once_and_as_it_was(
    looking: Node, wire: NetlinkSocket
) -> None:
    for each in FOUND:
        looking.ip(f"addr add {each} dev a0")
    before = looking.ip("-o addr show dev a0 -tentative")
    assert all(each in tentative(looking, "a0") for each in FOUND)
    assert await settle(wire, if_nametoindex("a0")) == len(FOUND)
    assert tentative(looking, "a0") == ""
    shown = looking.ip("-6 -o addr show dev a0")
    assert all(f"{each} scope global" in shown for each in FOUND)
    assert set(before.splitlines()) <= set(looking.ip("-o addr show dev a0").splitlines()), "the others are as before"
    assert await settle(wire, if_nametoindex("a0")) == 0


async def test_other_links_go_on_looking(looking: Node, wire: NetlinkSocket) -> None:
    looking.ip("addr add fd79::1/64 dev a1")
    assert await settle(wire, if_nametoindex("a0")) == 0
    assert "fd79::1/64" in tentative(looking, "a1")


async def test_a_link_that_is_gone_is_an_error_in_the_kernels_words(wire: NetlinkSocket) -> None:
    with pytest.raises(OSError, match="No such device"):
        await settle(wire, 99_999)
