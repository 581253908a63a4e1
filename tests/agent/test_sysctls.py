"""Kernel settings, kept in a namespace of its own whoever changes them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agent.mtu import PodMtu
from agent.surroundings import Surroundings
from agent.sysctls import SysctlKeeper
from felix.netconf import SettingsMonitor
from felix.sysctl import Sysctls
from inet.prefix import Family
from tests.agent.policy_world import PolicyWorld
from tests.agent.test_mtu import FakeMtuKernel
from tests.agent.test_outgoing_nat import batch, node
from tests.felix.netns import Node, built

pytestmark = pytest.mark.kernel

FORWARDING = {Family.IPV4: "ipv4/ip_forward", Family.IPV6: "ipv6/conf/all/forwarding"}


@pytest.fixture
def namespace() -> Iterator[Node]:
    """The test runs inside a node's namespace: a0 and a1 are its links."""
    with built(Node()) as made:
        yield made


@pytest.fixture
async def keeper(namespace: Node, tmp_path: Path) -> AsyncIterator[SysctlKeeper]:  # noqa: ARG001 - runs inside
    around = Surroundings("n1")
    around.take(batch(node("n1", 11)))
    mtu = PodMtu(around, PolicyWorld(Family.IPV4).policy, FakeMtuKernel())
    put("ipv4/conf/all/rp_filter", "1")
    for path in FORWARDING.values():
        put(path, "0")
    with contextlib.closing(SettingsMonitor()) as news:
        yield SysctlKeeper(around, mtu, Sysctls(tmp_path / "sysctls.json"), news.changes())


def put(path: str, value: str) -> None:
    Path("/proc/sys/net", path).write_text(value, encoding="ascii")


def read(path: str) -> str:
    return Path("/proc/sys/net", path).read_text(encoding="ascii").strip()


async def test_what_pods_need_is_set_and_that_is_no_repair(keeper: SysctlKeeper) -> None:
    await keeper.look()
    assert [read(path) for path in FORWARDING.values()] == ["1", "1"]
    assert (keeper.repaired, keeper.problems) == (0, [])


@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)
async def test_what_somebody_switches_off_is_switched_on_at_once_and_counted(
    keeper: SysctlKeeper, family: Family
) -> None:
    await keeper.look()
    running = asyncio.create_task(keeper.run())
    try:
        await asyncio.sleep(0)
        put(FORWARDING[family], "0")
        async with asyncio.timeout(20):  # less than the interval between two looks
            while keeper.repaired == 0:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        assert read(FORWARDING[family]) == "1"
    finally:
        running.cancel()
