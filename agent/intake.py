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
        """Follow objects until cancelled."""
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

    def _log_problems(self) -> None:
        problems = list(map(str, self.problems()))
        for problem in problems:
            if problem not in self._logged:
                log.warning("object.problem", problem=problem)
        self._logged = frozenset(problems)
