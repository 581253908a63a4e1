"""Blackholes behind routes, in the kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from felix.backstops import KernelBackstops
from inet.prefix import Family, Prefix
from tests.felix.netns import Node

DESTINATIONS = {Family.IPV4: Prefix.parse("10.42.2.0/24"), Family.IPV6: Prefix.parse("fd42:0:0:2::/64")}
VERSION = {Family.IPV4: "-4", Family.IPV6: "-6"}


@pytest.fixture
def backstops(node: Node) -> Iterator[KernelBackstops]:  # noqa: ARG001 - inside its namespace
    backstops = KernelBackstops()
    yield backstops
    backstops.close()


def behind(node: Node, family: Family) -> bool:
    shown = node.ip(f"{VERSION[family]} route show {DESTINATIONS[family]} proto 97 metric 9701")
    return shown.startswith("blackhole")


@pytest.mark.kernel
async def test_they_come_stay_and_go(node: Node, backstops: KernelBackstops, family: Family) -> None:
    await backstops.want(DESTINATIONS.values())
    assert behind(node, family)
    again = KernelBackstops()
    with node.monitored() as lines:
        await again.want(DESTINATIONS.values())
    assert lines == []
    await again.want([])
    assert not behind(node, family)
    again.close()


@pytest.mark.kernel
async def test_one_that_somebody_took_is_put_back(node: Node, backstops: KernelBackstops, family: Family) -> None:
    await backstops.want(DESTINATIONS.values())
    node.ip(f"{VERSION[family]} route del blackhole {DESTINATIONS[family]} metric 9701")
    await backstops.mend()
    assert behind(node, family)
    assert backstops.problem == ""


@pytest.mark.kernel
async def test_they_catch_what_the_default_route_would_take(
    node: Node, backstops: KernelBackstops, family: Family
) -> None:
    node.ip(f"{VERSION[family]} route add default dev a0")
    node.ip(f"{VERSION[family]} route add {DESTINATIONS[family]} dev a1 proto 97 metric 9700")
    await backstops.want(DESTINATIONS.values())
    host = "10.42.2.7" if family is Family.IPV4 else "fd42:0:0:2::7"
    assert "dev a1" in node.ip(f"route get fibmatch {host}")
    node.ip("link set a1 down")  # the kernel takes the route, and says nothing
    assert "blackhole" in node.ip(f"{VERSION[family]} route show match {host} table main")
    with pytest.raises(AssertionError):
        node.ip(f"route get {host}")
