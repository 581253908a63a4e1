"""Keeps up with the objects of one kind: list, watch from there, and again where the thread is lost.

    list ──> watch ── ends, breaks ──> watch from where it was
      ^        │
      └── 410: too long ago, relist() ──┘

What is there comes as a watch that begins with everything (a streaming list, KEP-3157) where the server has that, else
in pages. Either way objects are handed on one by one, and those a complete list does not have are named at its end, so
a list that repeats what is known changes nothing. A list that breaks off names nothing as gone.

The server is the only clock: which objects there are is never inferred from times.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from random import random
from typing import Final, Protocol

import msgspec
import structlog

from agent.datastore.kubernetes.wire import Item, Reader, read_bookmark, read_event, read_page
from agent.kubernetes.backoff import Backoff
from agent.kubernetes.client import Client, Request, Resource
from agent.kubernetes.errors import Refused, Status, Unreachable
from agent.objects.model import Key

PAGE: Final = 500
WATCH_S: Final = (300.0, 600.0)
"""How long a watch lasts; the server ends it, at a time of our choice, so that nodes do not all come back at once."""
SILENCE_S: Final = 80.0
"""A server sends a bookmark each minute; one that is silent for so long is taken for dead. It may hang, or what stands
before it, while the connection itself lives."""
FIRST_SILENCE_S: Final = 240.0
"""... before the first of them: a server sends none of a kind of which it has heard nothing since it was started."""
NOT_SERVED_S: Final = (45.0, 75.0)
"""How often is looked whether a kind is there by now that the server does not have."""
SHORTEST_WATCH_S: Final = 2.0
"""A watch that ends sooner was no success, whatever the server says."""

log = structlog.get_logger("kubernetes")

_read_status: Final = msgspec.json.Decoder(Status).decode


class Sink(Protocol):
    """Who is told."""

    def put(self, item: Item) -> None:
        """An object is there, perhaps as it was before, perhaps one that makes no sense."""

    def delete(self, key: Key) -> None:
        """An object was deleted."""

    def listed(self, keys: set[Key]) -> float | None:
        """Every object there is has been put. Returns after how many seconds to list again, None: no need."""

    def refused(self) -> None:
        """The server answers, but shows nothing: `Reflector.error` says why."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which objects of a resource."""

    resource: Resource
    namespace: str = ""  # empty: all
    fields: str = ""  # a field selector


class Reflector:
    """One kind, or one object of it. `run` it; its properties say how it is going.

    `chance` gives a number from 0 up to 1. `is_optional`: the server need not know the kind. `on_back` is awaited when
    a server was away and may be back, before it is watched again; what it raises is as if the watch had.
    """

    def __init__(
        self,
        client: Client,
        scope: Scope,
        read: Reader,
        sink: Sink,
        *,
        is_optional: bool = False,
        on_back: Callable[[], Awaitable[None]] | None = None,
        chance: Callable[[], float] = random,
    ) -> None:
        self.error = ""  # why nothing can be read at present; the last state stays
        self.is_refused = False  # the server answers, with a no
        self.is_served = True  # the server knows the kind
        self.lists = 0  # how often all there is has been told
        self._client = client
        self._scope = scope
        self._read = read
        self._sink = sink
        self._is_optional = is_optional
        self._on_back = on_back
        self._chance = chance
        # A server that comes back says no at first, as long as its caches are empty: it is not to be waited for as long
        # as one that has been away for long.
        self._away, self._refusals = Backoff(fraction=chance), Backoff(fraction=chance)
        self._version = ""  # where the watch goes on; empty: list first
        self._was_away = False  # since the last watch
        self._can_stream = True
        self._in_pages = True
        self._interrupt = asyncio.Event()

    @property
    def scope(self) -> Scope:
        """What is read."""
        return self._scope

    @property
    def version(self) -> int:
        """How far we are: versions are numbers that grow (KEP-5504). 0 where that is not known."""
        return int(self._version) if self._version.isdecimal() else 0

    def relist(self, scope: Scope | None = None) -> None:
        """List again at once, perhaps with another scope; until the list is complete, what was told stands."""
        self._scope = scope or self._scope
        self._interrupt.set()

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            if self._interrupt.is_set():
                self._version = ""
                self._interrupt.clear()
            attempt = asyncio.create_task(self._follow())
            interrupted = asyncio.create_task(self._interrupt.wait())
            try:
                await asyncio.wait([attempt, interrupted], return_when=asyncio.FIRST_COMPLETED)
            finally:
                attempt.cancel()
                interrupted.cancel()
                await asyncio.wait([attempt, interrupted])
            if not attempt.cancelled():
                attempt.result()  # an error of ours is not kept quiet

    async def _follow(self) -> None:
        """List where needed, and watch until that ends. Whatever goes wrong is told and waited for."""
        try:
            if not self.is_served:
                await self._until_served()
            elif self._version or self._can_stream:
                if self._on_back and self._was_away:
                    await self._on_back()
                self._was_away = False
                await self._watch()
            else:
                await self._list()
        except Refused as refused:
            await self._refused(refused)
        except Unreachable as error:
            await self._failed(str(error))
        except msgspec.DecodeError as error:
            self._version = ""
            await self._failed(f"the answer makes no sense: {error}")

    async def _refused(self, refused: Refused) -> None:
        if refused.status == 410:
            log.info("kubernetes.relist", resource=str(self._scope.resource), reason=str(refused))
            if not self._version:
                self._in_pages = False  # the list took longer than the server remembers: the next one in one piece
            self._version = ""
            await asyncio.sleep(self._refusals.failed())
        elif refused.status == 404 and self._is_optional and self.is_served:
            self._version = ""
            self.is_served = False
        elif refused.status in {400, 422} and self._can_stream and not self._version:
            self._can_stream = False  # a server that does not know streaming lists, or has them off
        else:
            await self._failed(str(refused), refused)

    async def _failed(self, error: str, refused: Refused | None = None) -> None:
        if not self.error:
            log.warning("kubernetes.unreadable", resource=str(self._scope.resource), reason=error)
        self.error, self.is_refused = error, refused is not None
        if refused:
            self._sink.refused()
            await asyncio.sleep(self._refusals.failed(refused.retry_after_s))
        else:
            self._was_away = True
            await asyncio.sleep(self._away.failed())

    def _succeeded(self) -> None:
        self._away.succeeded()
        self._refusals.succeeded()

    def _heard(self) -> None:
        """Note that the server answers."""
        if self.error:
            log.info("kubernetes.readable", resource=str(self._scope.resource))
        self.error, self.is_refused = "", False

    async def _until_served(self) -> None:
        """Wait for a kind that the server does not know. That there is none is believed when it says so itself."""
        resource = self._scope.resource
        while True:
            self.is_served = f"{resource.group}/{resource.version}" in await self._client.served()
            if self.is_served:
                return
            self._heard()
            self._listed(set())
            await asyncio.sleep(self._between(NOT_SERVED_S))

    def _between(self, limits: tuple[float, float]) -> float:
        shortest, longest = limits
        return shortest + (longest - shortest) * self._chance()

    # Listing

    async def _list(self) -> None:
        """List page by page, for a server that does not stream lists."""
        keys: set[Key] = set()
        query = {"limit": str(PAGE)} if self._in_pages else {}
        while True:
            page = read_page(await self._client.send(self._request("list", query)))
            if self._interrupt.is_set():
                return
            self._heard()
            for raw in page.items or ():
                item = self._read(raw)
                self._sink.put(item)
                keys.add(item.key)
            if not page.metadata.continue_:
                break
            query = {"limit": str(PAGE), "continue": page.metadata.continue_}
        self._version = page.metadata.resource_version
        self._in_pages = True
        self._listed(keys)

    def _listed(self, keys: set[Key]) -> None:
        self._succeeded()
        self.lists += 1
        again_s = self._sink.listed(keys)
        if again_s is not None:
            asyncio.get_running_loop().call_later(again_s, self.relist)

    # Watching

    async def _watch(self) -> None:
        """Watch from our version until that ends; with none, have all there is told first."""
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": f"{self._between(WATCH_S):.0f}"}
        keys: set[Key] | None = None
        if self._version:
            query["resourceVersion"] = self._version
        else:
            keys = set()
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        began = asyncio.get_running_loop().time()
        async with self._client.stream(self._request("watch", query)) as blocks:
            if keys is None:
                self._heard()
            try:
                async with asyncio.timeout(FIRST_SILENCE_S) as silence:
                    await self._events(blocks, keys, silence)
            except TimeoutError:
                raise Unreachable("no answer in time") from None
        if asyncio.get_running_loop().time() - began >= SHORTEST_WATCH_S:
            self._succeeded()
        else:
            await asyncio.sleep(self._away.failed())

    async def _events(self, blocks: AsyncIterator[bytes], keys: set[Key] | None, silence: asyncio.Timeout) -> None:
        """Hand on what a watch says. `keys` gathers what there is until the server says that this is all."""
        limit_s = FIRST_SILENCE_S
        async for block in blocks:
            for line in block.splitlines():
                if self._interrupt.is_set():
                    return
                event = read_event(line)
                if event.type == "ERROR":
                    raise _read_status(event.object).as_error()
                if event.type != "BOOKMARK":
                    self._take(event.type, event.object, keys)
                    continue
                bookmark = read_bookmark(event.object)
                if keys is None:
                    self._version = bookmark.metadata.resource_version
                    limit_s = SILENCE_S
                elif bookmark.ends_list:
                    self._version = bookmark.metadata.resource_version
                    self._heard()
                    self._listed(keys)
                    keys = None
            silence.reschedule(asyncio.get_running_loop().time() + limit_s)
        if keys is not None:
            raise Unreachable("the list broke off")

    def _take(self, change: str, raw: msgspec.Raw, keys: set[Key] | None) -> None:
        item = self._read(raw)
        is_there = change != "DELETED"
        if is_there:
            self._sink.put(item)
        else:
            self._sink.delete(item.key)
        if keys is None:
            self._version = item.version
        elif is_there:
            keys.add(item.key)
        else:
            keys.discard(item.key)

    def _request(self, verb: str, query: dict[str, str]) -> Request:
        selector = {"fieldSelector": self._scope.fields} if self._scope.fields else {}
        return Request(verb, self._scope.resource, self._scope.namespace, query=query | selector)
