"""A consumer of batches: what it would know, and waiting for it to know something."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from agent.datastore import Datastore
from agent.objects import Key, Problem
from agent.objects.kinds import Keyed

DEADLINE_S = 60.0


class Follower:
    """Replays batches as the agent does, but for those of kinds to `ignore`."""

    def __init__(self, store: Datastore, ignore: Collection[str] = ()) -> None:
        self.store = store
        self._ignore = ignore
        self._batches = store.batches()
        self.objects: dict[Key, Keyed] = {}
        self.problems: tuple[Problem, ...] = ()
        self.full_lists = 0
        self.news: list[Key] = []  # every key of every batch, in order

    async def take(self) -> None:
        """Take one batch."""
        async with asyncio.timeout(DEADLINE_S):
            batch = await anext(self._batches)
        assert not batch.changed.keys() & batch.deleted
        assert batch.full_lists >= self.full_lists
        self.objects |= {key: item for key, item in batch.changed.items() if key.kind not in self._ignore}
        for key in batch.deleted:
            self.objects.pop(key, None)
        self.news += [key for key in (*batch.changed, *batch.deleted) if key.kind not in self._ignore]
        self.problems, self.full_lists = batch.problems, batch.full_lists

    async def until(self, condition: Callable[[], bool]) -> None:
        """Take batches until something is so."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await self.take()

    async def until_synced(self) -> None:
        """Take batches until everything has been told once."""
        await self.until(lambda: self.full_lists > 0)

    @property
    def names(self) -> set[str]:
        """Names of all objects."""
        return {key.name for key in self.objects}

    @property
    def messages(self) -> list[str]:
        """The problems, without the directory they are in."""
        return [str(problem).rpartition("/manifests/")[2] for problem in self.problems]

    async def ends(self) -> bool:
        """Whether the batches are over."""
        async with asyncio.timeout(DEADLINE_S):
            return [batch async for batch in self._batches] == []
