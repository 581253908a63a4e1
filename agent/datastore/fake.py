"""A datastore in memory, for tests: says what it is told to say."""

from __future__ import annotations

from collections.abc import AsyncIterator

from agent.datastore import Batch, DatastoreHealth
from agent.datastore.feed import Feed
from agent.objects.kinds import Keyed
from agent.objects.model import Key
from agent.objects.problem import Problem


class FakeDatastore:
    """Give it objects with `put`, say with `listed` that these are all, then change what you like."""

    def __init__(self, *items: Keyed) -> None:
        self._feed = Feed()
        self._items: dict[Key, Keyed] = {}
        self._error = ""
        self.put(*items)

    def put(self, *items: Keyed) -> None:
        """Add or replace objects. An equal one is no news."""
        for item in items:
            if self._items.get(item.key) != item:
                self._items[item.key] = item
                self._feed.put(item)

    def delete(self, *keys: Key) -> None:
        """Take objects away."""
        for key in keys:
            if self._items.pop(key, None) is not None:
                self._feed.delete(key)

    def listed(self) -> None:
        """Say that everything there is has been told: once for a start, again to confirm deletions."""
        self._feed.listed()

    def set_problems(self, *problems: Problem) -> None:
        """Replace the problems that stand."""
        self._feed.set_problems("fake", problems)

    def fail(self, error: str) -> None:
        """Be unreachable for a reason; "" to be well again."""
        self._error = error

    async def start(self) -> None:
        """Do nothing: what was put is there."""

    def batches(self) -> AsyncIterator[Batch]:
        """Tell what there is, then what changes."""
        return self._feed.batches()

    def health(self) -> DatastoreHealth:
        """Return what `fail` said."""
        return DatastoreHealth("fake", self._feed.full_lists > 0, self._error)

    async def stop(self) -> None:
        """End the batches."""
        self._feed.close()
