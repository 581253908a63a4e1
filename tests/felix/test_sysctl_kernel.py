"""Kernel settings where they have their effect: neighbour tables that would overflow, routes that would go.

Tables of neighbours are the machine's, so those tests run in a kernel of their own (see CONTRIBUTING.md).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from felix.sysctl import Sysctls, for_pods
from felix.uplinks import advertised
from inet.prefix import Family
from tests.felix.netns import Node, entered
from tests.own_kernel import in_own_kernel, run_in_own_kernel, starts_own_kernel

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")]

NODES = 2000
"""In one segment: more than the kernel has room for by default, 1,024."""


@pytest.mark.timeout(1200)
@starts_own_kernel
def test_in_a_kernel_of_its_own() -> None:
    run_in_own_kernel(__file__)


def ip(*words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], input=text, capture_output=True, text=True, check=False)


def meet_neighbours(family: Family) -> int:
    """Have each node be a neighbour that was heard of just now; return how many the kernel had room for."""
    lines = (
        f"neigh add {f'172.20.{number // 250}.{number % 250 + 2}' if family is Family.IPV4 else f'fd20::{number:x}'}"
        f" lladdr 02:00:00:00:{number // 256:02x}:{number % 256:02x} dev lan nud reachable"
        for number in range(NODES)
    )
    ip("-force", "-batch", "-", text="\n".join(lines))
    version = "-4" if family is Family.IPV4 else "-6"
    return len(ip(version, "neigh", "show", "dev", "lan", "nud", "reachable").stdout.splitlines())


@in_own_kernel
def test_a_cluster_on_one_segment_has_room_for_all_its_neighbours(family: Family, tmp_path: Path) -> None:
    ip("link", "add", "lan", "type", "dummy")
    ip("link", "set", "lan", "up")
    try:
        assert meet_neighbours(family) < NODES, "what happens otherwise"
        ip("link", "del", "lan")
        sysctls = Sysctls(tmp_path / "sysctls.json")
        assert not sysctls.apply(for_pods([], set(), NODES, has_ipv6=True)).failed
        ip("link", "add", "lan", "type", "dummy")
        ip("link", "set", "lan", "up")
        assert meet_neighbours(family) == NODES
        ip("link", "del", "lan")
        sysctls.restore()
        ip("link", "add", "lan", "type", "dummy")
        ip("link", "set", "lan", "up")
        assert meet_neighbours(family) < NODES
    finally:
        ip("link", "del", "lan")


def is_heard(node: Node) -> bool:
    """Have the neighbour say that it is a router (RFC 4861 section 4.2); whether the node has a route to it by now."""
    with entered(node.peer), socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as router:
        link = socket.if_nametoindex("b0")
        router.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        router.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, link)
        with contextlib.suppress(OSError):  # its address may not be usable yet
            router.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), ("ff02::1", 0, 0, link))
    return has_default(node)


def has_default(node: Node) -> bool:
    return "proto ra" in node.ip("-6 route show default dev a0")


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline


def test_a_default_route_from_router_advertisements_outlives_forwarding(node: Node, tmp_path: Path) -> None:
    settings = Path("/proc/sys/net/ipv6/conf")
    (settings / "a0/accept_ra").write_text("1")
    until(lambda: is_heard(node))
    (settings / "all/forwarding").write_text("1")
    until(lambda: not has_default(node))  # what happens otherwise
    (settings / "all/forwarding").write_text("0")
    until(lambda: is_heard(node))

    links = advertised()
    assert links == {"a0"}
    assert not Sysctls(tmp_path / "sysctls.json").apply(for_pods(["a0"], links, 3, has_ipv6=True)).failed
    assert (settings / "all/forwarding").read_text().strip() == "1"
    until(lambda: is_heard(node))
    node.ip("-6 route del default dev a0")
    until(lambda: is_heard(node))  # those that come later are heard, too
