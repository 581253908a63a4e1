"""Keeps the kernel settings that routes and pods need, whoever changes them. `felix.sysctl` says what they are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

import structlog

from agent.mtu import PodMtu
from agent.surroundings import Surroundings
from felix import sysctl
from felix.monitor import Event, LinkChanged
from felix.sysctl import Report, Setting, Sysctls
from felix.uplinks import advertised
from inet.prefix import Family

LOOK_INTERVAL_S: Final = 30.0
GATHERING_S: Final = 1.0  # where many pods are started, each has a new link

log = structlog.get_logger("sysctl")


class SysctlKeeper:
    """Sets and watches them. `news` says that somebody changed some; `repaired` counts those that were right before."""

    def __init__(self, around: Surroundings, mtu: PodMtu, sysctls: Sysctls, news: AsyncIterator[None]) -> None:
        self.repaired = 0
        self.failed: dict[str, str] = {}
        self._around = around
        self._mtu = mtu
        self._sysctls = sysctls
        self._news = news
        self._right: set[str] = set()
        self._wake = asyncio.Event()

    @property
    def problems(self) -> list[str]:
        """What cannot be set, for people."""
        return [f"{name} is not as it should be: {reason}" for name, reason in sorted(self.failed.items())]

    def wake(self) -> None:
        """Something that settings depend on may have changed."""
        self._wake.set()

    def hear(self, events: Sequence[Event]) -> None:
        """Take news of the kernel: a new link has settings of its own."""
        if any(isinstance(event, LinkChanged) for event in events):
            self.wake()

    async def run(self) -> None:
        """Keep them until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name="changed settings")
            tasks.create_task(self._keep(), name="settings")

    async def _follow(self) -> None:
        async for _ in self._news:
            self.wake()

    async def _keep(self) -> None:
        while True:
            self._wake.clear()
            await self.look()
            if self._around.is_known:  # before, the first settings for pods are awaited
                await asyncio.sleep(GATHERING_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL_S):
                    await self._wake.wait()

    async def look(self) -> None:
        """Compare them with the kernel's, and set what differs."""
        own = self._around.own
        is_known = self._around.is_known
        uplinks = [*(each.name for each in self._mtu.uplinks), *self._mtu.tunnels]
        pods = self._mtu.pod_links
        nodes = len(self._around.nodes)
        has_ipv6 = own is not None and any(cidr.family is Family.IPV6 for cidr in own.pod_cidrs)

        def apply() -> tuple[Report, set[str]]:
            # A link begins with the default settings, which are right, and nothing is routed over a pod's but to it.
            settings: list[Setting] = list(sysctl.for_routes(without=pods))
            if is_known:
                settings += sysctl.for_pods(uplinks, advertised(), nodes, has_ipv6=has_ipv6)
            report = self._sysctls.apply(settings)
            return report, {each.name for each in settings} - report.failed.keys()

        report, right = await asyncio.to_thread(apply)
        undone = report.changed.keys() & self._right
        self.repaired += len(undone)
        if undone:
            log.warning("sysctl.repaired", settings={name: report.changed[name] for name in sorted(undone)})
        elif report.changed:
            log.info("sysctl.changed", settings=report.changed)
        if report.failed != self.failed:
            log.warning("sysctl.failed", settings=report.failed)
        self.failed = report.failed
        self._right |= right
