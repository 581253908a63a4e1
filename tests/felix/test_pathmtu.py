"""The largest packet that gets through: to the byte, whoever says so and if nobody does."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from felix.namespaces import entered
from felix.pathmtu import Tried, probe
from inet.prefix import Family
from tests.felix.netns import WHY_NOT
from tests.felix.nft.outside import INTERNET, World, run

pytestmark = pytest.mark.kernel

FAR = {Family.IPV4: "192.0.2.9", Family.IPV6: "2001:db8:9::9"}
ROUTER = {Family.IPV4: "172.16.2.254", Family.IPV6: "fd16:2::254"}


@pytest.fixture
def world() -> Iterator[World]:
    """The test runs inside the node's namespace; behind the router is a link with less room, and a host at its end."""
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    world = World()
    try:
        world.build()
        far = world.pods[2]  # has another life as a host far away
        run("ip", "-n", far, "link", "add", "far0", "type", "veth", "peer", "far1", "netns", world.outside)
        for namespace, link, last in ((world.outside, "far1", "1"), (far, "far0", "9")):
            run("ip", "-n", namespace, "link", "set", link, "up")
            for address in (f"192.0.2.{last}/24", f"2001:db8:9::{last}/64"):
                extra = ["nodad"] if ":" in address else []
                run("ip", "-n", namespace, "addr", "add", address, "dev", link, *extra)
        for version, gateway in (("-4", "192.0.2.1"), ("-6", "2001:db8:9::1")):
            run("ip", "-n", far, version, "route", "replace", "default", "via", gateway, "dev", "far0")
            back = "fd16:2::/64" if version == "-6" else "172.16.2.0/24"
            run("ip", "-n", far, version, "route", "add", back, "via", gateway, "dev", "far0")
        with entered(world.name):
            yield world
    finally:
        world.destroy()


def narrow(world: World, family: Family, mtu: int) -> None:
    deadline = time.monotonic() + 30  # links that came up drop packets for a moment, in which neighbours are sought
    while subprocess.run(["ping", "-c1", "-W1", FAR[family]], check=False, capture_output=True).returncode:
        assert time.monotonic() < deadline
    run("ip", "-n", world.outside, "link", "set", "far1", "mtu", str(mtu))
    run("ip", "-n", world.pods[2], "link", "set", "far0", "mtu", str(mtu))


@pytest.mark.usefixtures("world")
async def test_a_path_that_takes_what_it_should_is_tried_with_two_sizes(family: Family) -> None:
    found = await probe(ip_address(INTERNET[family]), 1500, answer_s=10)
    assert (found.mtu, found.reason) == (1500, "")
    assert [each.size for each in found.tried] == [576 if family is Family.IPV4 else 1280, 1500]


@pytest.mark.parametrize("mtu", [1499, 1450, 1281])
async def test_a_narrow_link_behind_a_router_is_found_to_the_byte(world: World, family: Family, mtu: int) -> None:
    narrow(world, family, mtu)
    found = await probe(ip_address(FAR[family]), 1500, answer_s=10)
    assert found.mtu == mtu
    assert Tried(1500, passed=False, reason=f"{ROUTER[family]} says that {mtu} bytes are the most") in found.tried
    assert found.reason


async def test_a_narrow_link_that_nobody_speaks_of_is_found_too(world: World, family: Family) -> None:
    narrow(world, family, 1400)
    kind = "icmp type destination-unreachable" if family is Family.IPV4 else "icmpv6 type packet-too-big"
    rule = f"chain c {{\n type filter hook input priority 0;\n {kind} drop\n}}"
    run("nft", "-f", "-", text=f"table inet firewall {{\n{rule}\n}}\n")
    found = await probe(ip_address(FAR[family]), 1500, answer_s=0.5)
    assert found.mtu == 1400
    assert found.reason == "no answer"


async def test_more_than_the_own_link_takes_is_said_to_be_that(world: World, family: Family) -> None:
    run("ip", "-n", world.name, "link", "set", "u0", "mtu", "1400")
    found = await probe(ip_address(INTERNET[family]), 1500, answer_s=10)
    assert found.mtu == 1400
    assert found.reason == "more than the link of this node takes"


async def test_where_nobody_answers_one_size_is_tried(world: World, family: Family) -> None:
    run("ip", "-n", world.outside, "link", "set", "o0", "down")
    found = await probe(ip_address(INTERNET[family]), 1500, answer_s=0.2)
    assert found.mtu is None
    assert len(found.tried) == 1
    assert found.reason
