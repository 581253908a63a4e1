"""Taking a node out of the way of traffic before it goes (RFC 8326): first as the last choice of all, then not at all.

Whoever wants the node drained says so by a name of his own and when its routes are to be withdrawn; the node is back
in service when nobody wants it any more. What stage that makes is a function of those wishes and the time, which
comes in as an argument; `bgp.advertisement` says what is announced in each.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Stage(enum.Enum):
    """How a node announces what it has. The values are what people read."""

    IN_SERVICE = ""
    DRAINING = "Draining"  # with GRACEFUL_SHUTDOWN and local preference 0: whoever has another way takes it
    DRAINED = "Drained"  # withdrawn; sessions stay, and so do the routes that we learn by them


class Wish(NamedTuple):
    """Somebody's wish to have the node drained. Times are seconds of the caller's clock."""

    since: float
    withdraw_at: float
    reason: str = ""


@dataclass(slots=True)
class Drain:
    """Who wants the node drained. Of several wishes the first to be due counts."""

    wishes: dict[str, Wish] = field(default_factory=dict)

    def replace(self, wishes: Mapping[str, Wish]) -> None:
        """Take over all wishes there are now."""
        self.wishes = dict(wishes)

    def stage(self, now: float) -> Stage:
        """Return the stage at a time."""
        if not self.wishes:
            return Stage.IN_SERVICE
        return Stage.DRAINING if now < self._withdraw_at() else Stage.DRAINED

    def next_deadline(self, now: float) -> float | None:
        """When the stage changes by itself, None if it does not."""
        return self._withdraw_at() if self.stage(now) is Stage.DRAINING else None

    def _withdraw_at(self) -> float:
        return min(wish.withdraw_at for wish in self.wishes.values())
