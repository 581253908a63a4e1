"""Holds back a deletion that looks like a mistake: most of what there is, soon after the start.

An agent that starts with half of its objects missing must not tear down a working node. Such a deletion waits
until a second full list has confirmed it, or until the first minutes are over. Pure: whoever asks says the time.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Held:
    """A deletion that waits. Times are those of the clock that the guard is asked with, in seconds."""

    removals: int
    total: int  # of which
    since: float
    until: float


class MassDeleteGuard:
    """Judges deletions during `window_s` seconds after `started`. Up to `few` at a time always pass."""

    def __init__(self, *, started: float, window_s: float = 300.0, few: int = 3) -> None:
        self.held: Held | None = None
        self._until = started + window_s
        self._few = few
        self._confirmed = 0

    def allows(self, removals: int, total: int, now: float) -> bool:
        """Return whether so many of `total` may be deleted now. What may not shows in `held`."""
        is_mass = removals > self._few and removals * 2 > total
        if not is_mass or now >= self._until or removals <= self._confirmed:
            self.held = None
            self._confirmed = 0
            return True
        self.held = Held(removals, total, self.held.since if self.held else now, self._until)
        return False

    def confirm(self) -> None:
        """Let through what is held back now. A larger deletion will be held back again."""
        if self.held:
            self._confirmed = self.held.removals
