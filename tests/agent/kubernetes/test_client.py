"""The client against a server that stops knowing it, while requests are on their way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import Configuration

from agent.kubernetes.client import Client, Request, Resource
from agent.kubernetes.errors import Refused

PODS = Request("list", Resource("", "v1", "pods"))
NODES = Request("list", Resource("", "v1", "nodes"))


class NumberedAccess:
    """Gives another token each time."""

    def __init__(self, server: TestServer) -> None:
        self._server = server
        self.loaded = 0

    def __str__(self) -> str:
        return "token"

    async def load(self) -> Configuration:
        self.loaded += 1
        made = Configuration(host=str(self._server.make_url("/")).rstrip("/"))
        made.api_key = {"BearerToken": f"token-{self.loaded}"}
        made.api_key_prefix = {"BearerToken": "Bearer"}
        return made


class Server:
    """Knows the second token alone. Requests for nodes wait until they may be answered."""

    def __init__(self) -> None:
        self.asked = asyncio.Semaphore(0)
        self.may_answer = asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        if request.path.endswith("/nodes"):
            self.asked.release()
            await self.may_answer.wait()
        is_known = request.headers["Authorization"] == "Bearer token-2"
        return web.json_response({}, status=200 if is_known else 401)


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, TestServer]]:
    answering = Server()
    application = web.Application()
    application.router.add_get("/{path:.*}", answering.answer)
    async with TestServer(application) as listening:
        yield answering, listening


async def test_requests_on_their_way_end_as_they_would_when_another_learns_that_the_token_is_stale(
    server: tuple[Server, TestServer],
) -> None:
    answering, listening = server
    access = NumberedAccess(listening)
    client = Client(access)  # type: ignore[arg-type] # as far as it goes
    late = asyncio.create_task(client.send(NODES))
    async with asyncio.timeout(30):
        await answering.asked.acquire()
        with pytest.raises(Refused, match="does not know token"):
            await client.send(PODS)
        anew = asyncio.create_task(client.send(NODES))
        await answering.asked.acquire()
        answering.may_answer.set()
        with pytest.raises(Refused, match="does not know token"):
            await late
        assert await anew == b"{}"
        assert await client.send(PODS) == b"{}"
    assert access.loaded == 2, "the late refusal was of the former token"
    await client.close()
