"""What a listing no longer has: believed at once, or where it is most of everything, when it is missed a second time.

A volume that is mounted late, or a listing that broke off, must not take a node's sessions, routes and policies away.
Only absence is doubted: a datastore that is told of a deletion believes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from agent.objects.model import Key
from agent.objects.problem import Problem
from felix.guard import MassDeleteGuard

CONFIRM_AFTER_S: Final = 10.0


class Absences:
    """Judges one source's listings, as long as they may be doubted: `felix.guard` says how long.

    `now` is in seconds of a monotonic clock.
    """

    def __init__(self, *, confirm_after_s: float = CONFIRM_AFTER_S, now: Callable[[], float] = time.monotonic) -> None:
        self._confirm_after_s = confirm_after_s
        self._now = now
        self._guard = MassDeleteGuard(started=now())

    @property
    def problem(self) -> Problem | None:
        """What is held back, in words; the next listing that misses it, `confirm_after_s` later, is believed."""
        held = self._guard.held
        if held is None:
            return None
        return Problem(
            message=f"{held.removals} of {held.total} objects are gone at once",
            consequence="They stay in force until they are missed once more.",
        )

    def judge(self, absent: frozenset[Key], known: int) -> frozenset[Key]:
        """Return which of the absent ones are gone. `known` counts all that the source had told until now."""
        now = self._now()
        if self._guard.held and now - self._guard.held.since >= self._confirm_after_s:
            self._guard.confirm()
        return absent if self._guard.allows(len(absent), known, now) else frozenset()
