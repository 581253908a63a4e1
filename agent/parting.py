"""Sessions that nodes need no more since routes come from Node objects: they end when every node has heard of that.

Nodes read what changed at different moments. One whose neighbour ends the session first would lose the route to it
until it has read for itself that it needs none; so for a while nobody ends any. And where the wish is taken back
meanwhile, a session that has told everything may yet be one that its other end, which has not heard, is about to end:
so for a while no session is relied upon.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from bgp.config import NodeRoutes
from bgp.path import PeerKey
from bgp.peering import Plan, PlannedSession

PARTING_S: Final = 60.0
"""How long nodes may need to hear of a change."""


class Parting:
    """Which sessions go on for how long. Times are of the caller's clock."""

    def __init__(self) -> None:
        self.deadline: float | None = None  # when to plan again, since all have heard
        self._sessions: dict[PeerKey, PlannedSession] = {}
        self._before: tuple[NodeRoutes, Plan] | None = None

    def extend(self, node_routes: NodeRoutes, planned: Plan, now: float) -> Plan:
        """Return a plan with those sessions of the mesh in it that have to go on for a while."""
        if self._before is not None and self._before[0] is not node_routes:
            gone = self._before[1].sessions.items() if node_routes is NodeRoutes.DIRECT else ()
            self._sessions = {key: each for key, each in gone if each.session.origin.startswith("mesh/")}
            self.deadline = now + PARTING_S
        if self.deadline is not None and now >= self.deadline:
            self._sessions, self.deadline = {}, None
        self._before = (node_routes, planned)
        return replace(planned, sessions={**self._sessions, **planned.sessions})
