"""What depends on how long an API server is away, or on how long nothing happens: hours of it, by a clock of our own.

The loop's clock goes on to the next timer whenever nothing is left to do, so hours take no time, and every pause, watch
and bookmark of the agent comes when it would.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import selectors
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from copy import deepcopy
from random import random
from typing import Any, cast

import pytest

from agent.datastore import DatastoreHealth
from agent.datastore.kubernetes.datastore import KubernetesDatastore
from agent.kubernetes.client import CONNECT_S, REQUEST_S, Client, Request
from agent.kubernetes.errors import Refused, Unreachable
from agent.objects import BGPPeer, Key
from agent.objects.kinds import Keyed
from tests.agent.datastore.kubernetes.scripted import added, bookmark, deleted, expired

HOUR_S = 3600.0
LONGEST_PAUSE_S = 30.0
BOOKMARK_S = 60.0  # as the real server
FIRST_BOOKMARK_S = 120.0  # ... after that which ends a list
NOTICED_S = 100.0  # of a server that hangs
COMPACTION_S = 300.0  # as the real server
PEERS = "bgppeers"


class _Skipping(selectors.DefaultSelector):
    """A selector that nobody waits for: time goes on instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("nothing is left to do, and nothing will be")
        if not ready and timeout:
            self.now += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now


def run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(work)


class Server:
    """An API server in the place of a `Client`: objects, one history of all, and what of it etcd has forgotten."""

    def __init__(self) -> None:
        self.revision = 1
        self.compacted = 0
        self.is_away = False
        self.is_hung = False  # its connections live, and nothing comes by them
        self.refusals: Counter[str] = Counter()  # yet to come
        self.lists: Counter[str] = Counter()
        self.attempts: Counter[str] = Counter()
        self._objects: dict[str, dict[str, dict[str, Any]]] = {}
        self._history: list[tuple[int, str, dict[str, Any]]] = []
        self._news = asyncio.Condition()

    def __str__(self) -> str:
        return "API server https://api"

    async def close(self) -> None:
        pass

    async def send(self, request: Request, timeout_s: float = REQUEST_S) -> bytes:
        """Say how far we are, which is all that lists are needed for beside streamed ones."""
        assert (request.verb, request.query.get("limit")) == ("list", "1"), f"{request} within {timeout_s} s"
        await self._admit(request)
        return json.dumps({"metadata": {"resourceVersion": str(self.revision)}, "items": []}).encode()

    async def _admit(self, request: Request) -> None:
        plural = request.resource.plural
        self.attempts[plural] += 1
        await self._until_it_answers(CONNECT_S)  # the kernel takes the connection, TLS gets no answer
        if self.is_away:
            raise Unreachable("connection refused")
        if self.refusals[plural]:
            self.refusals[plural] -= 1
            raise Refused(429, "TooManyRequests", "storage is (re)initializing", retry_after_s=1.0)

    async def _until_it_answers(self, within_s: float | None = None) -> None:
        try:
            async with asyncio.timeout(within_s), self._news:
                await self._news.wait_for(lambda: not self.is_hung)
        except TimeoutError:
            raise Unreachable("no answer in time") from None

    def backup(self) -> Callable[[], None]:
        """Return what puts everything back as it is now."""
        kept = deepcopy((self.revision, self._objects, self._history))

        def restore() -> None:
            self.revision, self._objects, self._history = deepcopy(kept)

        return restore

    async def put(self, plural: str, name: str, spec: Mapping[str, Any]) -> None:
        self.revision += 1
        item = {"metadata": {"name": name, "resourceVersion": str(self.revision), "uid": name}, "spec": spec}
        self._objects.setdefault(plural, {})[name] = item
        await self._told(plural, added(item))

    async def delete(self, plural: str, name: str) -> None:
        self.revision += 1
        item = self._objects[plural].pop(name)
        item["metadata"]["resourceVersion"] = str(self.revision)
        await self._told(plural, deleted(item))

    async def _told(self, plural: str, event: dict[str, Any]) -> None:
        self._history.append((self.revision, plural, event))
        await self.wake()

    async def wake(self) -> None:
        """Have every watch look whether there is something to say."""
        async with self._news:
            self._news.notify_all()

    @contextlib.asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[AsyncIterator[bytes]]:
        await self._admit(request)
        plural = request.resource.plural
        yield self._events(plural, request.query)

    async def _events(self, plural: str, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        ends = asyncio.get_running_loop().time() + float(query["timeoutSeconds"])
        seen = int(query.get("resourceVersion", self.revision))
        quiet_s = BOOKMARK_S
        if "resourceVersion" not in query:
            self.lists[plural] += 1
            for item in [*self._objects.get(plural, {}).values()]:
                yield line(added(item))
            yield line(bookmark(seen, ends_list=True))
            quiet_s = FIRST_BOOKMARK_S
        elif seen < self.compacted:
            yield line(expired())
            return
        while asyncio.get_running_loop().time() < ends:
            if self.is_away:
                raise Unreachable("the answer broke off")
            for revision, about, event in [*self._history]:
                if about == plural and revision > seen:
                    yield line(event)
            seen = max(seen, self.revision)  # of what is before it a watch tells nothing, restored or not
            try:
                async with asyncio.timeout(quiet_s), self._news:
                    await self._news.wait()
            except TimeoutError:
                await self._until_it_answers()
                quiet_s = BOOKMARK_S
                if self.revision >= seen:
                    yield line(bookmark(self.revision))


def line(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode() + b"\n"


class Follower:
    """Remembers what a datastore tells, and what would be in force."""

    def __init__(self, store: KubernetesDatastore) -> None:
        self.store = store
        self.news: list[str] = []
        self.objects: dict[Key, Keyed] = {}

    async def follow(self) -> None:
        async for batch in self.store.batches():
            self.news += [key.name for key in (*batch.changed, *batch.deleted)]
            self.objects |= batch.changed
            for key in batch.deleted:
                del self.objects[key]

    @property
    def numbers(self) -> dict[str, int]:
        """AS numbers of peers."""
        return {key.name: int(each.spec.peer_asn) for key, each in self.objects.items() if isinstance(each, BGPPeer)}


@contextlib.asynccontextmanager
async def followed(server: Server, chance: Callable[[], float] = random) -> AsyncIterator[Follower]:
    follower = Follower(KubernetesDatastore(cast("Client", server), "n1", "tortie-system", chance=chance))
    await follower.store.start()
    task = asyncio.create_task(follower.follow())
    await asyncio.sleep(5)
    assert follower.store.health().is_synced
    try:
        yield follower
    finally:
        await follower.store.stop()
        await task


def peer(asn: int) -> dict[str, Any]:
    return {"peer": {"address": "172.16.1.1"}, "peerASN": asn}


@pytest.mark.parametrize("chance", [0.0, 0.999], ids=["shortest pauses", "longest pauses"])
@pytest.mark.parametrize("is_forgotten", [False, True], ids=["etcd remembers", "etcd has forgotten"])
@pytest.mark.parametrize("away_s", [1, 90, 600, 10 * HOUR_S], ids=lambda away_s: f"{away_s:.0f} s")
def test_however_long_a_server_is_away_what_changed_is_told_once_within_half_a_minute(
    away_s: float, *, is_forgotten: bool, chance: float
) -> None:
    async def scenario() -> None:
        server = Server()
        for name in ("stays", "goes", "changes"):
            await server.put(PEERS, name, peer(65100))
        async with followed(server, lambda: chance) as follower:
            lists, attempts = server.lists.copy(), server.attempts.copy()
            follower.news.clear()
            server.is_away = True
            await server.wake()
            await asyncio.sleep(away_s)
            health = follower.store.health()
            assert health.is_synced
            assert health.error in {"connection refused", "the answer broke off"}
            assert follower.news == []
            tried = server.attempts - attempts
            for plural, count in tried.items():
                # Pauses double from 0.2 s, half of each is chance.
                assert away_s / LONGEST_PAUSE_S <= count + 1, plural
                assert count <= away_s / (LONGEST_PAUSE_S / 2) + 10, plural

            await server.put(PEERS, "changes", peer(65007))
            await server.put(PEERS, "comes", peer(65008))
            await server.delete(PEERS, "goes")
            if is_forgotten:
                server.compacted = server.revision
            server.is_away = False
            server.refusals.update(dict.fromkeys(server.attempts, 3))  # as a real one, until its caches are filled
            await asyncio.sleep(LONGEST_PAUSE_S + 10)
            assert follower.store.health().error == ""
            assert sorted(follower.news) == ["changes", "comes", "goes"]
            assert follower.numbers == {"stays": 65100, "changes": 65007, "comes": 65008}
            assert (server.lists - lists)[PEERS] == int(is_forgotten)

            await server.put(PEERS, "stays", peer(65009))
            await asyncio.sleep(1)
            assert follower.numbers["stays"] == 65009

    run(scenario())


@pytest.mark.parametrize("hangs_s", [240, 10 * HOUR_S], ids=lambda hangs_s: f"{hangs_s:.0f} s")
def test_a_server_that_hangs_with_its_connections_alive_is_noticed_and_caught_up_with(hangs_s: float) -> None:
    async def scenario() -> None:
        server = Server()
        for name in ("stays", "goes"):
            await server.put(PEERS, name, peer(65100))
        async with followed(server) as follower:
            lists = server.lists.copy()
            follower.news.clear()
            await asyncio.sleep(2 * FIRST_BOOKMARK_S)  # each watch has had one, and none is over
            assert follower.store.health().error == ""
            server.is_hung = True
            await asyncio.sleep(NOTICED_S)
            assert follower.store.health().error == "no answer in time"
            attempts = server.attempts.copy()
            await asyncio.sleep(hangs_s - NOTICED_S)
            for plural, count in (server.attempts - attempts).items():
                assert count <= hangs_s / (LONGEST_PAUSE_S / 2) + 10, plural

            server.is_hung = False
            await server.put(PEERS, "comes", peer(65008))
            await server.delete(PEERS, "goes")
            await asyncio.sleep(LONGEST_PAUSE_S + CONNECT_S)
            assert follower.store.health() == DatastoreHealth(str(server), is_synced=True, error="")
            assert sorted(follower.news) == ["comes", "goes"]
            assert server.lists == lists

    run(scenario())


@pytest.mark.parametrize("is_forgotten", [False, True], ids=["etcd remembers", "etcd has forgotten"])
def test_a_server_that_was_restored_from_a_backup_is_believed(*, is_forgotten: bool) -> None:
    """It lets a watch begin at a version that it has not reached, and then tells nothing until it has."""

    async def scenario() -> None:
        server = Server()
        for name in ("stays", "goes", "changes"):
            await server.put(PEERS, name, peer(65100))
        restore = server.backup()
        async with followed(server) as follower:
            for asn in range(65101, 65150):
                await server.put(PEERS, "changes", peer(asn))
            await server.put(PEERS, "lost", peer(65001))
            await asyncio.sleep(1)
            assert follower.numbers == {"stays": 65100, "goes": 65100, "changes": 65149, "lost": 65001}
            follower.news.clear()
            server.is_away = True
            await server.wake()
            await asyncio.sleep(600)
            restore()
            server.is_away = False
            await server.delete(PEERS, "goes")
            if is_forgotten:
                server.compacted = server.revision
            await asyncio.sleep(LONGEST_PAUSE_S + 1)
            assert follower.store.health().error == ""
            assert follower.numbers == {"stays": 65100, "changes": 65100}
            assert sorted(follower.news) == ["changes", "goes", "lost"]

            await server.put(PEERS, "stays", peer(65009))
            await asyncio.sleep(1)
            assert follower.numbers["stays"] == 65009

    run(scenario())


def test_a_day_in_which_a_kind_does_not_change_costs_no_list_however_much_etcd_forgets() -> None:
    """Without bookmarks a watch that ends would have to go on from where nobody remembers."""

    async def scenario() -> None:
        server = Server()
        await server.put(PEERS, "stays", peer(65100))
        async with followed(server) as follower:
            lists = server.lists.copy()
            follower.news.clear()
            for number in range(math.ceil(24 * HOUR_S / COMPACTION_S)):
                before = server.revision
                await server.put("nodes", "busy", {"podCIDRs": [f"10.{number % 200}.0.0/24"]})
                await asyncio.sleep(COMPACTION_S)
                server.compacted = before
            assert server.lists == lists
            assert set(follower.news) == {"busy"}
            assert server.attempts[PEERS] < 24 * 13  # a watch lasts five minutes and more

    run(scenario())


def test_nodes_do_not_all_come_back_at_the_same_moment() -> None:
    async def scenario() -> None:
        back: list[float] = []
        servers = [Server() for _ in range(50)]
        for server in servers:
            async with followed(server):
                server.is_away = True
                await server.wake()
                await asyncio.sleep(600)
                attempts = server.attempts.copy()
                began = asyncio.get_running_loop().time()
                while server.attempts == attempts:  # noqa: ASYNC110 - time is the loop's
                    await asyncio.sleep(0.1)
                back.append(asyncio.get_running_loop().time() - began)
        assert len({round(each, 1) for each in back}) > 10

    run(scenario())
