"""An API server that answers what a test tells it to, one request after the other, and remembers what was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ScriptedServer:
    """`script` holds the answers still to be given; when there are none left, requests hang."""

    def __init__(self) -> None:
        self.asked: list[web.Request] = []
        self.script: list[Answer] = []
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def queries(self) -> list[dict[str, str]]:
        return [dict(request.query) for request in self.asked]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        if not self.script:
            await asyncio.Event().wait()
        return await self.script.pop(0)(request)


def says(body: Any, status: int = 200, **headers: str) -> Answer:
    """Answer with JSON, or with a text."""

    async def answer(_: web.Request) -> web.StreamResponse:
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(text=text, status=status, headers={key.replace("_", "-"): headers[key] for key in headers})

    return answer


def refuses(status: int, reason: str, **headers: str) -> Answer:
    """Answer as the API does when it says no."""
    return says({"kind": "Status", "code": status, "reason": reason, "message": f"{reason} it is"}, status, **headers)


def streams(*events: Any, ends: str = "hangs") -> Answer:
    """Answer with events, one a line (a text as it is); then hang, end, or break off."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for event in events:
            await response.write((event if isinstance(event, str) else json.dumps(event) + "\n").encode())
        if ends == "hangs":
            await asyncio.Event().wait()
        if ends == "breaks":
            assert request.transport
            request.transport.abort()
        return response

    return answer


def node(name: str, version: int, **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "resourceVersion": str(version), "uid": f"uid-{name}", "labels": labels}
    return {"metadata": metadata, "spec": {}, "status": {}}


def added(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "ADDED", "object": item}


def deleted(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "DELETED", "object": item}


def bookmark(version: int, *, ends_list: bool = False) -> dict[str, Any]:
    annotations = {"k8s.io/initial-events-end": "true"} if ends_list else {}
    return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version), "annotations": annotations}}}


def expired() -> dict[str, Any]:
    return {"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}


def page(version: object, *items: dict[str, Any], more: str = "") -> dict[str, Any]:
    return {"metadata": {"resourceVersion": str(version), "continue": more}, "items": list(items)}
