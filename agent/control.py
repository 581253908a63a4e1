"""The agent's ears: HTTP on a unix socket for `tortie`, and health and metrics on TCP for the cluster.

The socket is 0600 and answers everything; the TCP side answers only /healthz, /readyz and /metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from agent.draining import DrainError, Draining
from agent.metrics import REGISTRY
from agent.pathfinder import PathFinder, PathQuestion
from agent.pathreport import UNKNOWN_END
from agent.podtraffic import pod_traffic
from agent.policy_cluster import QuestionError, UnknownEndError
from agent.view import View
from inet.prefix import Family, Prefix, parse_address

FAMILIES: Final = {"ipv4": Family.IPV4, "ipv6": Family.IPV6}
FOLLOWER_PROBE_S: Final = 10.0

_encode = msgspec.json.Encoder().encode


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=_encode(value), status=status, content_type="application/json")


def _answer(make: Callable[[], Any]) -> Callable[[web.Request], Any]:
    async def handle(_request: web.Request) -> web.Response:
        return _json(make())

    return handle


class _DrainQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What `tortie drain` asks for."""

    wait_seconds: Annotated[float, msgspec.Meta(ge=0, le=86400)]
    reason: Annotated[str, msgspec.Meta(max_length=200)] = ""


def control_app(view: View, draining: Draining, paths: PathFinder) -> web.Application:
    """Return what the unix socket serves."""

    async def explain(request: web.Request) -> web.Response:
        asked = request.query.get("prefix", "").strip("[]")
        try:
            if "/" in asked:
                return _json(await view.explain(Prefix.parse(asked)))
            return _json(await view.explain_address(parse_address(asked)))
        except ValueError as error:
            return _json({"error": str(error)}, 400)

    async def follow_drops(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        with view.drops.following() as queue:
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                while True:
                    said = b""
                    with contextlib.suppress(TimeoutError):  # an empty line finds out who has left
                        said = _encode(await asyncio.wait_for(queue.get(), FOLLOWER_PROBE_S))
                    await response.write(said + b"\n")
        return response

    async def pods(_request: web.Request) -> web.Response:
        return _json(await pod_traffic(view))

    async def installed(_request: web.Request) -> web.Response:
        return _json(await view.installed())

    app = health_app(view)
    app.add_routes(
        [
            web.get("/v1/status", _answer(view.status)),
            web.get("/v1/peers", _answer(view.peers)),
            web.get("/v1/routes/available", _answer(view.available)),
            web.get("/v1/routes/advertised", _answer(view.advertised)),
            web.get("/v1/routes/installed", installed),
            web.get("/v1/routes/explain", explain),
            web.get("/v1/policy/explain", functools.partial(_about_packet, paths.policy_facts)),
            web.get("/v1/drops", _answer(lambda: list(view.drops.recent))),
            web.get("/v1/drops/follow", follow_drops),
            web.get("/v1/cluster", _answer(view.cluster)),
            web.get("/v1/pods", pods),
            web.get("/v1/path", functools.partial(_about_packet, paths.facts)),
            *_drain_routes(view, draining),
        ]
    )
    return app


async def _about_packet(find: Callable[[PathQuestion], Awaitable[Any]], request: web.Request) -> web.Response:
    asked = request.query
    source_port = asked.get("sourcePort", "0")
    question = PathQuestion(
        asked.get("from", ""),
        asked.get("to", ""),
        asked.get("port", ""),
        int(source_port) if source_port.isdecimal() else 0,
        FAMILIES.get(asked.get("family", "")),
    )
    try:
        return _json(await find(question))
    except UnknownEndError as error:
        return _json({"error": str(error), "reason": UNKNOWN_END}, 400)
    except (QuestionError, OSError) as error:
        return _json({"error": str(error)}, 400)


def _drain_routes(view: View, draining: Draining) -> list[web.RouteDef]:
    async def drain(request: web.Request) -> web.Response:
        try:
            asked = msgspec.json.decode(await request.read(), type=_DrainQuestion)
            draining.drain(asked.wait_seconds, asked.reason)
        except (msgspec.DecodeError, DrainError) as error:
            return _json({"error": str(error)}, 400)
        return _json(view.drain())

    async def undrain(_request: web.Request) -> web.Response:
        try:
            draining.undrain()
        except DrainError as error:
            return _json({"error": str(error)}, 409)
        return _json(view.drain())

    return [web.post("/v1/drain", drain), web.post("/v1/undrain", undrain)]


def health_app(view: View) -> web.Application:
    """Return what the TCP port serves."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        reason, message = view.unready()
        return web.Response(text=f"{reason}: {message}\n" if reason else "ok\n", status=503 if reason else 200)

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    return app


@contextlib.asynccontextmanager
async def serve(
    view: View,
    draining: Draining,
    paths: PathFinder,
    *,
    socket: Path,
    listen: tuple[str, int] | None,
) -> AsyncIterator[None]:
    """Serve until the block ends. Raises OSError where an address cannot be had."""
    async with contextlib.AsyncExitStack() as stack:
        control = await start_runner(stack, control_app(view, draining, paths))
        with only_owner():
            await web.UnixSite(control, str(socket)).start()
        stack.callback(socket.unlink, missing_ok=True)
        if listen is not None:
            health = await start_runner(stack, health_app(view))
            await web.TCPSite(health, *listen).start()
        yield


async def start_runner(stack: contextlib.AsyncExitStack, app: web.Application) -> web.AppRunner:
    """Return what can serve an application, until the stack unwinds."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    return runner


@contextlib.contextmanager
def only_owner() -> Iterator[None]:
    """Make what is created here readable and writable by its owner alone."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)
