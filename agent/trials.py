"""Tries tunnels that the other end may know nothing of, until it answers (`bgp.switchover` says why).

Between looks, more and more time passes: a node may come to hear of a change a moment after this one, or when its agent
is back. Nothing is tried, and nothing looked at, while no way is to change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from agent.carrier import Carrier
from felix.trials import Trials

PAUSES_S: Final = (0.2, 0.3, 0.5, 1, 1, 1, 1, 1, 2, 2, 2, 2, 4)
"""Before each look; the last one before all that follow. A look takes a second where somebody does not answer."""

log = structlog.get_logger("tunnels")


class TunnelTrials:
    """Does it until cancelled. `changed` is called when a tunnel may be used."""

    def __init__(
        self,
        carrier: Carrier,
        trials: Trials,
        changed: Callable[[], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._carrier = carrier
        self._trials = trials
        self._changed = changed
        self._sleep = sleep
        self._error = ""

    async def run(self) -> None:
        """Try until cancelled."""
        await self.look()  # what an agent before this one left is taken away
        while True:
            await self._carrier.has_trials.wait()
            looks = 0
            while self._carrier.trials():
                await self._sleep(PAUSES_S[min(looks, len(PAUSES_S) - 1)])
                await self.look()
                looks += 1
            self._carrier.has_trials.clear()
            await self.look()  # nothing of them is left

    async def look(self) -> None:
        """Try once what there is to try."""
        trials = self._carrier.trials()
        try:
            ends = await self._trials.answered(trials.values())
        except OSError as error:
            if str(error) != self._error:
                self._error = str(error)
                log.warning("tunnel.not_tried", reason=error.strerror or str(error))
            return
        answered = [key for key, trial in trials.items() if trial.far_end in ends]
        if not answered:
            return
        log.info("tunnel.answered", nodes=len({tunnel.node for _, tunnel in answered}), of=len(trials))
        self._carrier.hear(answered)
        self._changed()
