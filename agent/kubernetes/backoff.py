"""How long to wait before trying again: longer each time, and never in step with the other nodes."""

from __future__ import annotations

from collections.abc import Callable
from random import random


class Backoff:
    """Pauses between attempts. `fraction` gives a number from 0 up to 1: chance, or in tests none."""

    def __init__(
        self, *, first_s: float = 0.2, longest_s: float = 30.0, fraction: Callable[[], float] = random
    ) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._fraction = fraction
        self._failures = 0

    def succeeded(self) -> None:
        """Begin with short pauses again."""
        self._failures = 0

    def failed(self, at_least_s: float = 0.0) -> float:
        """Return how many seconds to wait after another failure: half of the pause is for certain, half by chance.

        `at_least_s` is what the server asked for; chance comes on top.
        """
        pause_s = min(self._longest_s, self._first_s * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return at_least_s + pause_s * (0.5 + 0.5 * self._fraction())
