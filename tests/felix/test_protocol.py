from __future__ import annotations

import re
from pathlib import Path

import pytest

from felix.protocol import protocol_name
from felix.route import PROTOCOL
from tests.felix.netns import Node

HEADER = Path("/usr/include/linux/rtnetlink.h")


@pytest.mark.skipif(not HEADER.exists(), reason=f"needs {HEADER} (linux-libc-dev)")
def test_every_protocol_that_the_kernel_lists_has_its_name() -> None:
    listed = re.findall(r"^#define RTPROT_(\w+)\s+(\d+)", HEADER.read_text(), re.MULTILINE)
    assert len(listed) > 20
    assert [(name, protocol_name(int(number))) for name, number in listed] == [(n, n.lower()) for n, _ in listed]


@pytest.mark.kernel
def test_protocols_are_named_as_ip_names_them(node: Node) -> None:
    # Up to 4 they have meanings to the kernel, and cannot be had for the asking.
    ours = {str(number): name for number in range(5, 256) if not (name := protocol_name(number)).startswith("protocol")}
    for number in ours:
        node.ip(f"route add blackhole 198.51.100.{number} proto {number}")
    shown = [line.split() for line in node.ip("route show type blackhole").splitlines()]
    by_ip = {words[1].rpartition(".")[2]: words[3] for words in shown}
    assert {"ra", "zebra", "bird", "dhcp", "bgp"} <= set(by_ip.values())
    assert {number: ours[number] for number, name in by_ip.items() if not name.isdecimal()}.items() <= by_ip.items()


@pytest.mark.parametrize(("number", "name"), [(2, "kernel"), (3, "boot"), (4, "static"), (80, "calico")])
def test_what_ip_does_not_tell_of_unasked_has_its_name_too(number: int, name: str) -> None:
    assert protocol_name(number) == name


def test_our_own_routes_bear_our_name() -> None:
    assert protocol_name(PROTOCOL) == "tortie"


@pytest.mark.parametrize("number", [5, 98, 255])
def test_a_protocol_without_a_name_is_told_by_its_number(number: int) -> None:
    assert protocol_name(number) == f"protocol {number}"
