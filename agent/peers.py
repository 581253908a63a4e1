"""What the agent knows of each peer at run time: the session as planned, as it is, and as it was."""

from __future__ import annotations

from dataclasses import dataclass, field

from bgp.graceful_restart import Retention
from bgp.path import Attributes
from bgp.peering import PlannedSession
from bgp.speaker import SessionUp
from inet.prefix import Family, Prefix


@dataclass(slots=True)
class Peer:
    """One peer. Times are seconds of the wall clock, for people."""

    planned: PlannedSession
    retention: Retention
    established: SessionUp | None = None
    since: float = 0.0  # of the present state
    last_error: str = ""
    flaps: int = 0
    announced: dict[Prefix, Attributes] = field(default_factory=dict)
    awaits_end_of_rib: set[Family] = field(default_factory=set)
    ask_again_at: float = 0.0  # on the monotonic clock
    owes_end_of_rib: set[Family] = field(default_factory=set)
    silent_until: float | None = None  # back and silent; when it counts as back anyway, on the monotonic clock

    @property
    def state(self) -> str:
        """The session state as RFC 4271 section 8.2.2 names it, as far as it can be told from outside."""
        if self.established is not None:
            return "Established"
        return "Idle" if self.planned.hindrance else "Active"

    @property
    def reason(self) -> str:
        """Why the session is not established; "" when it is."""
        if self.established is not None:
            return ""
        return self.planned.hindrance or self.last_error or "connecting"
