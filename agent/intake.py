"""Where objects come in: every part is handed what changed, and what is wrong with objects is told."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog

from agent.cni.node import NodeCni
from agent.configurator import Configurator
from agent.datastore import Datastore
from agent.enforcement import NodePolicy
from agent.network import NodeNetwork
from agent.objects.problem import Problem

GATHERING_S: Final = 0.01
"""After a change of what routing goes by nothing is taken for so long, or as long as that took: nodes that come or go
by the hundred, each by an event of its own, are a few changes, and half of the time is everybody else's."""

LOOK_S: Final = 5.0
"""How often it is looked for problems that come by themselves: the kernel has refused a policy."""

log = structlog.get_logger("agent")


class Intake:
    """One node's. Who cannot follow gets fewer and larger batches."""

    def __init__(
        self,
        datastore: Datastore,
        policy: NodePolicy,
        network: NodeNetwork,
        configurator: Configurator,
        *,
        cni: NodeCni,
    ) -> None:
        self._datastore = datastore
        self._policy = policy
        self._network = network
        self._configurator = configurator
        self._cni = cni
        self._unreadable: tuple[Problem, ...] = ()  # what is wrong with objects that nobody was handed
        self._logged: frozenset[str] = frozenset()

    def problems(self) -> list[Problem | str]:
        """What of the objects is not in force as written, now: the kernel has a say in it between two changes."""
        return [*self._unreadable, *self._configurator.problems, *self._policy.problems]

    async def run(self) -> None:
        """Follow objects, and tell what is wrong with them, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name="objects")
            tasks.create_task(self._look(), name="problems of objects")

    async def _follow(self) -> None:
        async for batch in self._datastore.batches():
            self._policy.take(batch)
            self._network.take(batch)
            began = time.monotonic()
            was_about_routing = await self._configurator.take(batch)
            self._cni.wake()
            self._unreadable = batch.problems
            self._log_problems()
            if was_about_routing:
                await asyncio.sleep(max(GATHERING_S, time.monotonic() - began))

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._log_problems()

    def _log_problems(self) -> None:
        problems = list(map(str, self.problems()))
        for problem in problems:
            if problem not in self._logged:
                log.warning("object.problem", problem=problem)
        self._logged = frozenset(problems)
