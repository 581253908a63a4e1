"""What a datastore has to tell and has not told yet: the last word about each key, no queue.

The datastore puts in what it finds, `batches` hands out what has gathered. However fast objects change and however
slow the consumer is, no more is held than one entry for each object.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping

from agent.datastore import Batch
from agent.objects.kinds import Keyed
from agent.objects.model import Key
from agent.objects.problem import Problem


class Feed:
    """One consumer's worth of news. Not for use from other threads."""

    def __init__(self) -> None:
        self._news: dict[Key, Keyed | None] = {}  # None: deleted
        self._problems: dict[str, tuple[Problem, ...]] = {}
        self._unreadable: dict[Key, str] = {}
        self._full_lists = 0
        self._is_closed = False
        self._error: Exception | None = None
        self._wake = asyncio.Event()

    @property
    def full_lists(self) -> int:
        """How often the source has told all it has."""
        return self._full_lists

    def put(self, item: Keyed) -> None:
        """Tell of a new or changed object."""
        self._news[item.key] = item
        self._wake.set()

    def delete(self, key: Key) -> None:
        """Tell that an object is gone."""
        self._news[key] = None
        self._wake.set()

    def listed(self) -> None:
        """Tell that everything there is has been put in."""
        self._full_lists += 1
        self._wake.set()

    def set_problems(self, source: str, problems: Iterable[Problem]) -> None:
        """Replace the problems of one source: a file, a watch."""
        wanted = tuple(problems)
        if wanted == self._problems.get(source, ()):
            return
        self._problems.pop(source, None)
        if wanted:
            self._problems[source] = wanted
        self._wake.set()

    def set_unreadable(self, reasons: Mapping[Key, str]) -> None:
        """Tell which kinds and objects the source does not show, and why."""
        if reasons != self._unreadable:
            self._unreadable = dict(reasons)
            self._wake.set()

    def close(self, error: Exception | None = None) -> None:
        """End `batches`, even where something is left to tell; with an error, by raising it there."""
        self._is_closed = True
        self._error = error
        self._wake.set()

    async def batches(self) -> AsyncIterator[Batch]:
        """Hand out what has gathered, whenever something has, until closed."""
        while True:
            await self._wake.wait()
            if self._error is not None:
                raise self._error
            if self._is_closed:
                return
            self._wake.clear()
            news, self._news = self._news, {}
            yield Batch(
                changed={key: item for key, item in news.items() if item is not None},
                deleted=frozenset(key for key, item in news.items() if item is None),
                problems=tuple(sorted(problem for source in self._problems.values() for problem in source)),
                full_lists=self._full_lists,
                unreadable=self._unreadable,
            )
