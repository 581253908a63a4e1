"""Pods that the rules of a former life speak of and no object does: most of them at once is held back.

An agent that starts with half of its objects missing must not shut off pods that are alive. A pod counts as alive
while a link leads to it. Until the objects were all told once more, or the first minutes are over, the table stays
as it was found, for everybody: rules that fit the missing objects are none that anyone asked for.
"""

from __future__ import annotations

from collections.abc import Collection

from agent.policy_kernel import PolicyKernel
from felix.guard import MassDeleteGuard
from felix.nft.table import RuleTable, Structure
from policy.nftskeleton import FROM_POD, TO_POD


class Leftovers:
    """What was found at the start, judged before anything is written. Times are those of the caller's clock."""

    def __init__(self, *, started: float) -> None:
        self._guard = MassDeleteGuard(started=started)
        self._found: frozenset[bytes] = frozenset()  # packed addresses of pods

    async def find(self, table: RuleTable, structure: Structure) -> None:
        """Note which pods the table has rules for. Raises OSError."""
        names = [name for name in (*FROM_POD.values(), *TO_POD.values()) if name in structure.sets]
        found = [key for name in names for key in await table.read_elements(name, structure.sets[name])]
        self._found = frozenset(key for key in found if isinstance(key, bytes))

    async def may_go(self, kernel: PolicyKernel, known: Collection[bytes], now: float) -> bool:
        """Return whether the table may follow the objects, which speak of the pods in `known`. Raises OSError."""
        if self._found:
            alive = await kernel.mark_pods(self._found.difference(known))
            if not self._guard.allows(len(alive), len(self._found), now):
                return False
            self._found = frozenset()
        return True

    def confirm(self) -> None:
        """All objects were told once more: what is missing now is gone."""
        self._guard.confirm()

    @property
    def held_until(self) -> float | None:
        """When everything is believed at the latest, if something is held back."""
        return self._guard.held.until if self._guard.held else None

    @property
    def problem(self) -> str:
        """What is held back, for people; empty if nothing is."""
        held = self._guard.held
        if held is None:
            return ""
        return (
            f"{held.removals} of {held.total} pods that are alive on this node are missing from the objects since the "
            "start. The rules stay as they were found until the objects are told once more."
        )
