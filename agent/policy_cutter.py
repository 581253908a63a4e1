"""Ends the connections that a change of policy denies: looks for them beside the writing of rules, and cuts them.

The kernel does not judge an established connection again. Whoever has written rules says whose connections are in
doubt (`agent.policy_flows`); here is seen to it, in a task of its own: to look is to have the kernel walk the table of
all connections there are, 9 ms for an empty one, and a new pod's rules must not wait for that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Final

import structlog

from agent.policy_flows import denied
from agent.policy_kernel import PolicyKernel
from policy.ir import Ruleset

SECOND_LOOK_S: Final = 0.1
"""A packet judged by the rules before may make its connection known so long after they are gone."""

LOOK_REST: Final = 20
"""How many times as long as it took to look at connections nobody does so again: 5 % of a core at most."""

log = structlog.get_logger("policy")


class ConnectionCutter:
    """Looks at connections that are in doubt, each pod's twice."""

    def __init__(self, ruleset: Ruleset, *, now: Callable[[], float]) -> None:
        """Judge by a ruleset that somebody else keeps."""
        self.count = 0  # connections cut
        self._ruleset = ruleset
        self._now = now
        self._gone: set[bytes] = set()  # addresses that pods had, of which rules may still speak
        self._first: set[bytes] = set()  # whose connections are to be looked at
        self._second: deque[tuple[float, frozenset[bytes]]] = deque()  # from when on, and whose
        self._rested_at = 0.0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def gone(self, addresses: Iterable[bytes]) -> None:
        """Note addresses that no pod has any more; they are in doubt with the next ones that are."""
        self._gone.update(addresses)

    def doubt(self, whose: Collection[bytes]) -> None:
        """Have the connections of some pods looked at: the kernel has new rules for them."""
        self._first.update(whose, self._gone)
        self._gone.clear()
        if self._first:
            self.wake()

    def wake(self) -> None:
        """Have the task see whether there is something to look at."""
        self._idle.clear()
        self._wake.set()

    async def settled(self) -> None:
        """Wait until there is nothing left to do but to wait."""
        await self._idle.wait()

    async def run(self, kernel: PolicyKernel) -> None:
        """Look and cut until cancelled."""
        while True:
            due = self._next_look_at()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else max(0.0, due - self._now())):
                    await self._wake.wait()
            self._wake.clear()
            await self._look(kernel)
            if not self._wake.is_set():
                self._idle.set()

    def _next_look_at(self) -> float | None:
        times = [self._rested_at] if self._first else []
        return min((*times, *(at for at, _ in self._second)), default=None)

    async def _look(self, kernel: PolicyKernel) -> None:
        now = self._now()
        whose: set[bytes] = set()
        if self._first and now >= self._rested_at:
            whose, self._first = self._first, set()
            self._second.append((now + SECOND_LOOK_S, frozenset(whose)))
        while self._second and now >= self._second[0][0]:
            whose |= self._second.popleft()[1]
        if whose:
            await self._cut_denied(kernel, whose)
            self._rested_at = self._now() + LOOK_REST * (self._now() - now)

    async def _cut_denied(self, kernel: PolicyKernel, whose: Collection[bytes]) -> None:
        """End the connections that the rules would not let begin."""
        try:
            flows = await kernel.flows(whose)
            doomed = denied(self._ruleset, flows, await kernel.own_addresses()) if flows else []
            failures = await kernel.cut(doomed) if doomed else []
        except OSError as error:
            log.warning("policy.connections_unknown", reason=error.strerror or str(error))
            return
        if doomed:
            self.count += len(doomed) - len(failures)
            log.info("policy.connections_cut", count=len(doomed), failed=len(failures))
