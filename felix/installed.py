"""Routes as the kernel has them, told to who asks: the lines of `tortie routes installed`."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from felix.route import Kind, NextHop
from felix.routetable import Rival
from inet.prefix import Prefix


class State(enum.Enum):
    """How it stands with a route."""

    IN_KERNEL = "in kernel"
    SHADOWED = "shadowed"  # in the kernel, but someone else's route to the destination has a lower metric
    PENDING = "pending"  # to be written or removed
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class InstalledRoute:
    """One line of `tortie routes installed`. `since` is when it came into the kernel, on the clock of the Fib."""

    destination: Prefix
    kind: Kind
    next_hops: tuple[NextHop, ...]  # those that the kernel uses: without those whose link is down
    state: State
    reason: str  # the kernel's words, or why it is pending
    rival: Rival | None  # who shadows it
    since: float | None
    is_claimed: bool  # False: left over from before the restart, nobody asked for it yet
