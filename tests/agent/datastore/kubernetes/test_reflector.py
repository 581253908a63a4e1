"""List and watch against a server that answers as told: every way in which the thread can be lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from kubernetes.aio.client.configuration import Configuration

from agent.datastore.kubernetes import reflector as module
from agent.datastore.kubernetes.reflector import Reflector, Scope
from agent.datastore.kubernetes.wire import Item, reader_of, resource_of
from agent.kubernetes.access import Access
from agent.kubernetes.client import Client
from agent.kubernetes.errors import Unreachable
from agent.objects import Key
from agent.objects.kinds import KINDS
from tests.agent.datastore.kubernetes.scripted import (
    ScriptedServer,
    added,
    bookmark,
    deleted,
    expired,
    node,
    page,
    refuses,
    says,
    streams,
)

DEADLINE_S = 30.0
ALL = bookmark(10, ends_list=True)


class Told:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.again_s: float | None = None
        self.on_put: Callable[[], None] = lambda: None

    def put(self, item: Item) -> None:
        self.log.append(f"+{item.key.name}")
        self.on_put()

    def delete(self, key: Key) -> None:
        self.log.append(f"-{key.name}")

    def listed(self, keys: set[Key]) -> float | None:
        self.log.append("=" + ",".join(sorted(key.name for key in keys)))
        return self.again_s

    def refused(self) -> None:
        self.log.append("refused")


class FixedAccess:
    """Access without authentication."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.loaded = 0

    async def load(self) -> Configuration:
        self.loaded += 1
        return Configuration(host=self._url)


class World:
    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.told = Told()
        self.access = FixedAccess(server.url)
        self.client = Client(cast("Access", self.access))
        self.chances = 0
        self.reflector = self.make()

    def make(self, **options: Any) -> Reflector:
        scope = Scope(resource_of(KINDS["Node"]))
        return Reflector(self.client, scope, reader_of("Node"), self.told, chance=self._chance, **options)

    def _chance(self) -> float:
        self.chances += 1
        return 0.0

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():  # noqa: ASYNC110 - nobody sets an event for it
                await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.reflector.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


@pytest.fixture
async def world() -> AsyncIterator[World]:
    server = ScriptedServer()
    await server.start()
    world = World(server)
    yield world
    await world.client.close()
    await server.stop()


async def follow(world: World, *wanted: str) -> None:
    """Run until this was told, and nothing else."""
    async with world.running():
        await world.until(lambda: len(world.told.log) >= len(wanted))
        await world.until(lambda: not world.server.script)
    assert world.told.log == list(wanted)


async def test_a_streamed_list_is_complete_when_the_server_says_so_and_the_watch_goes_on(world: World) -> None:
    world.server.script = [streams(added(node("a", 1)), added(node("b", 2)), ALL, deleted(node("a", 11)))]
    await follow(world, "+a", "+b", "=a,b", "-a")
    (query,) = world.server.queries
    assert query["sendInitialEvents"] == "true"
    assert query["resourceVersionMatch"] == "NotOlderThan"
    assert "resourceVersion" not in query  # the newest there is


async def test_a_watch_that_ends_goes_on_from_the_last_version(world: World) -> None:
    world.server.script = [
        streams(ALL, added(node("a", 12)), ends="ends"),
        streams(bookmark(30), ends="breaks"),
        streams(added(node("b", 31))),
    ]
    await follow(world, "=", "+a", "+b")
    assert [query.get("resourceVersion") for query in world.server.queries] == [None, "12", "30"]
    assert {query["allowWatchBookmarks"] for query in world.server.queries} == {"true"}
    low, high = module.WATCH_S
    assert all(low <= int(query["timeoutSeconds"]) <= high for query in world.server.queries), "not all nodes at once"


async def test_that_a_server_was_away_is_told_before_it_is_watched_again(world: World) -> None:
    async def back() -> None:
        world.told.log.append(f"back after {len(world.server.asked)}")
        if len(world.told.log) == 3:
            raise Unreachable("it is away again")

    world.reflector = world.make(on_back=back)
    world.server.script = [
        streams(ALL, added(node("a", 12)), ends="ends"),
        streams(ends="breaks"),
        streams(added(node("b", 13))),
    ]
    await follow(world, "=", "+a", "back after 2", "back after 2", "+b")
    assert world.reflector.version == 13


async def test_a_list_that_breaks_off_names_nothing_as_gone(world: World) -> None:
    world.server.script = [streams(added(node("a", 1)), ends="ends"), streams(added(node("a", 1)), ALL)]
    await follow(world, "+a", "+a", "=a")
    assert [query.get("sendInitialEvents") for query in world.server.queries] == ["true", "true"]


async def test_a_version_too_old_costs_a_list(world: World) -> None:
    world.server.script = [
        streams(added(node("a", 1)), ALL, expired()),
        streams(added(node("a", 1)), added(node("b", 9)), ALL),
    ]
    await follow(world, "+a", "=a", "+a", "+b", "=a,b")


async def test_without_streaming_lists_pages_are_read_and_watched_from(world: World) -> None:
    world.server.script = [
        refuses(422, "Invalid"),
        says(page(7, node("a", 1), more="x")),
        says(page(7, node("b", 2))),
        streams(added(node("c", 8))),
    ]
    await follow(world, "+a", "+b", "=a,b", "+c")
    pages = world.server.queries[1:3]
    assert [each.get("limit") for each in pages] == ["500", "500"]
    assert [each.get("continue") for each in pages] == [None, "x"]
    assert world.server.queries[3]["resourceVersion"] == "7"


async def test_pages_that_the_server_has_forgotten_are_read_in_one_piece(world: World) -> None:
    world.server.script = [
        refuses(400, "BadRequest"),
        says(page(7, node("a", 1), more="x")),
        refuses(410, "Expired"),
        says(page(9, node("a", 1), node("b", 2))),
    ]
    await follow(world, "+a", "+a", "+b", "=a,b")
    assert "limit" not in world.server.queries[3]


async def test_a_refusal_is_told_and_tried_again(world: World) -> None:
    world.server.script = [refuses(403, "Forbidden"), refuses(429, "TooManyRequests", Retry_After="0"), streams(ALL)]
    async with world.running():
        await world.until(lambda: world.reflector.is_refused)
        assert world.reflector.error == "403 Forbidden: Forbidden it is"
        await world.until(lambda: "=" in world.told.log)
        assert not world.reflector.is_refused
        assert world.reflector.error == ""
    assert world.told.log == ["refused", "refused", "="]


async def test_who_is_not_known_any_more_reads_its_access_again(world: World) -> None:
    world.server.script = [refuses(401, "Unauthorized"), streams(ALL)]
    await follow(world, "refused", "=")
    assert world.access.loaded == 2


@pytest.mark.parametrize(
    "answer", ["no JSON\n", '{"type": "ADDED"}\n', '{"type": "ADDED", "object": {"metadata": 1}}\n']
)
async def test_an_answer_that_makes_no_sense_is_told_and_costs_a_list(world: World, answer: str) -> None:
    world.server.script = [streams(ALL, answer), streams(ALL)]
    async with world.running():
        await world.until(lambda: "the answer makes no sense" in world.reflector.error)
        await world.until(lambda: world.told.log == ["=", "="])


async def test_an_object_that_makes_no_sense_harms_itself_alone(world: World) -> None:
    bad = node("bad", 1) | {"spec": {"podCIDRs": ["10.42.0.0/33"]}}
    world.server.script = [streams(added(bad), added(node("good", 2)), ALL)]
    await follow(world, "+bad", "+good", "=bad,good")


async def test_a_kind_the_server_does_not_know_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NOT_SERVED_S", (0.05, 0.05))
    monkeypatch.setattr(world, "reflector", world.make(is_optional=True))

    def groups(*versions: str) -> dict[str, object]:
        return {"kind": "APIGroupList", "groups": [{"versions": [{"groupVersion": each} for each in versions]}]}

    world.server.script = [
        says("404 page not found", 404),
        says(groups("apps/v1")),
        says(groups("apps/v1", "/v1")),
        streams(added(node("a", 1)), ALL),
    ]
    await follow(world, "=", "+a", "=a")
    assert [request.path for request in world.server.asked][1:3] == ["/apis", "/apis"]


async def test_that_a_kind_is_not_known_is_not_believed_of_something_that_is_no_api_server(world: World) -> None:
    """A load balancer without a backend, say: everything would be gone."""
    world.reflector = world.make(is_optional=True)
    world.server.script = [says("not found", 404), says("<html>", 200), says("not found", 404)]
    async with world.running():
        await world.until(lambda: world.told.log)
    assert world.told.log == ["refused"]


async def test_it_lists_again_on_request_and_takes_nothing_of_the_list_before(world: World) -> None:
    world.server.script = [streams(added(node("a", 1)))]
    async with world.running():
        await world.until(lambda: world.told.log == ["+a"])
        world.server.script = [streams(added(node("b", 1)), ALL)]
        world.reflector.relist(Scope(resource_of(KINDS["Node"]), fields="metadata.name=b"))
        await world.until(lambda: world.told.log == ["+a", "+b", "=b"])
    assert world.server.queries[1]["fieldSelector"] == "metadata.name=b"


async def test_a_list_that_is_doubted_is_made_again(world: World) -> None:
    world.told.again_s = 0.05
    world.server.script = [streams(ALL), streams(ALL)]
    async with world.running():
        await world.until(lambda: len(world.told.log) >= 2)
    assert world.told.log[:2] == ["=", "="]


async def test_a_server_that_says_nothing_is_taken_for_dead(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_SILENCE_S", 0.2)
    world.server.script = [streams(ALL), streams(), streams(added(node("a", 11)))]
    async with world.running():
        await world.until(lambda: "+a" in world.told.log)


async def test_a_server_that_says_nothing_is_waited_for_less_long_when_it_has_said_that_nothing_is_new(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENCE_S", 0.2)
    world.server.script = [streams(ALL, bookmark(12)), streams(added(node("a", 13)))]
    async with world.running():
        await world.until(lambda: "+a" in world.told.log)
    assert world.server.queries[1]["resourceVersion"] == "12"


async def test_a_server_that_hangs_up_at_once_is_not_hammered(world: World) -> None:
    world.server.script = [streams(ALL, ends="ends"), *(streams(ends="ends") for _ in range(5))]
    async with world.running():
        await world.until(lambda: len(world.server.asked) == 7)
    # One for how long to watch, one for how long to wait before it is tried again.
    assert world.chances >= 2 * 6


async def test_what_was_under_way_when_it_is_to_list_again_is_not_told(world: World) -> None:
    def once() -> None:
        world.told.on_put = lambda: None
        world.reflector.relist()

    world.told.on_put = once
    together = "".join(json.dumps(each) + "\n" for each in (added(node("a", 1)), ALL))
    world.server.script = [streams(together), streams(added(node("b", 1)), ALL)]
    await follow(world, "+a", "+b", "=b")
