"""Where objects come from: one Protocol, so that a directory of manifests and the Kubernetes API are the same.

A datastore tells what there is as a stream of batches: everything that changed since the batch before, the last
word about each object alone. It delivers only objects that are valid; what is wrong with the others comes along as
problems, and the last good version of such an object stays in force.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from agent.objects.kinds import Keyed
from agent.objects.model import Key
from agent.objects.problem import Problem


@dataclass(frozen=True, slots=True)
class Batch:
    """What changed since the batch before. May be empty but for `full_lists` or `problems`.

    `full_lists` counts how often the source has told all it has, so far. Until it is 1 objects may be missing; a
    deletion that still stands when it has grown since is no accident of one listing.
    """

    changed: Mapping[Key, Keyed]  # new or different: the whole object
    deleted: frozenset[Key]  # may name objects no batch has brought: they came and went
    problems: tuple[Problem, ...]  # all that stand now, sorted
    full_lists: int
    unreadable: Mapping[Key, str] = field(default_factory=dict)
    """What the source does not show us and why, a kind (by a key without a name) or one object: whoever needs it cannot
    begin."""

    @property
    def is_synced(self) -> bool:
        """Whether everything the source has, has been told by now."""
        return self.full_lists > 0


@dataclass(frozen=True, slots=True)
class DatastoreHealth:
    """What readiness, status and metrics show of the source itself."""

    source: str  # for people: "directory /etc/tortie"
    is_synced: bool
    error: str = ""  # why it cannot be read at present: the last state stays; "" when all is well


class Datastore(Protocol):
    """A source of objects. All methods are called on one event loop."""

    async def start(self) -> None:
        """Begin to read. Returns at once; a source that cannot be read is tried again for ever."""

    def batches(self) -> AsyncIterator[Batch]:
        """Tell what there is, then what changes. One consumer; a slow one gets fewer and larger batches.

        Ends after `stop`.
        """

    def health(self) -> DatastoreHealth:
        """Return the present condition of the source."""

    async def stop(self) -> None:
        """Stop reading and let go of everything."""
