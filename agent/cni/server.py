"""The socket of the CNI plugin: HTTP on `cni.sock`, apart from the one for people.

Whoever may open this one can have pods wired and forgotten, whoever may open the other can only look: so they are two
files, each of mode 0600, and a container that is to look needs only the other. Answers are `{}` or
`{"error": sentence, "code": CNI error code}`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec
import structlog
from aiohttp import web

from agent.cni.attachments import Slot
from agent.cni.conflist import NETWORK
from agent.cni.podnetwork import INTERNAL, NOT_AVAILABLE, PodNetwork, RefusalError, Wired
from agent.control import only_owner, start_runner

SOCKET_NAME: Final = "cni.sock"
_DECODING_FAILURE: Final = 6  # CNI specification 1.1, "Error"
_LONGEST_WAIT_S: Final = 120.0

log = structlog.get_logger("cni")

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]


class SlotRequest(msgspec.Struct, frozen=True):
    """Which interface of which sandbox."""

    container_id: _Text = msgspec.field(name="containerID")
    if_name: _Text = msgspec.field(name="ifName")

    @property
    def slot(self) -> Slot:
        """The same, as the agent has it."""
        return Slot(self.container_id, self.if_name)


class WiredRequest(SlotRequest, frozen=True):
    """A pod whose link is there."""

    namespace: _Text
    name: _Text
    addresses: Annotated[list[_Text], msgspec.Meta(min_length=1, max_length=16)]
    host_interface: _Text = msgspec.field(name="hostInterface")
    uid: str = ""
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0)] = msgspec.field(name="timeoutSeconds", default=10.0)

    @property
    def wired(self) -> Wired:
        """The same, as the agent has it. Raises ValueError for an address that is none."""
        addresses = tuple(dict.fromkeys(ip_address(text).packed for text in self.addresses))
        return Wired(self.slot, f"{self.namespace}/{self.name}", self.uid, addresses, self.host_interface)


class KeepRequest(msgspec.Struct, frozen=True):
    """Every interface of a network that the runtime knows."""

    attachments: list[SlotRequest]
    network: str = NETWORK


R = TypeVar("R", bound=msgspec.Struct)


def cni_app(network: PodNetwork, hindrance: Callable[[], str]) -> web.Application:
    """Return what the socket serves. `hindrance` says why this node can take no pod just now, if it cannot."""

    async def add(asked: WiredRequest) -> None:
        await network.add(asked.wired, min(asked.timeout_seconds, _LONGEST_WAIT_S))

    async def check(asked: WiredRequest) -> None:
        await network.check(asked.wired)

    async def delete(asked: SlotRequest) -> None:
        network.delete(asked.slot)

    async def keep(asked: KeepRequest) -> None:
        network.keep({each.slot for each in asked.attachments}, asked.network)

    async def status(_request: web.Request) -> web.Response:
        reason = hindrance()
        return _refused(reason, NOT_AVAILABLE) if reason else _agreed()

    app = web.Application()
    app.add_routes(
        [
            web.post("/v1/cni/add", _handler(WiredRequest, add)),
            web.post("/v1/cni/check", _handler(WiredRequest, check)),
            web.post("/v1/cni/del", _handler(SlotRequest, delete)),
            web.post("/v1/cni/gc", _handler(KeepRequest, keep)),
            web.get("/v1/cni/status", status),
        ]
    )
    return app


def _handler(kind: type[R], act: Callable[[R], Awaitable[None]]) -> Callable[[web.Request], Awaitable[web.Response]]:
    decoder = msgspec.json.Decoder(kind)

    async def handle(request: web.Request) -> web.Response:
        try:
            await act(decoder.decode(await request.read()))
        except RefusalError as refusal:
            return _refused(str(refusal), refusal.code)
        except ValueError as error:  # of msgspec, or an address that is none
            return _refused(f"what the plugin says cannot be read: {error}", _DECODING_FAILURE, 400)
        return _agreed()

    return handle


def _agreed() -> web.Response:
    return web.Response(body=b"{}", content_type="application/json")


def _refused(reason: str, code: int = INTERNAL, status: int = 503) -> web.Response:
    body = msgspec.json.encode({"error": reason, "code": code})
    return web.Response(body=body, status=status, content_type="application/json")


@contextlib.asynccontextmanager
async def serve_cni(network: PodNetwork, socket: Path, hindrance: Callable[[], str]) -> AsyncIterator[None]:
    """Serve until the block ends. Raises OSError where the socket cannot be had."""
    async with contextlib.AsyncExitStack() as stack:
        runner = await start_runner(stack, cni_app(network, hindrance))
        with only_owner():
            await web.UnixSite(runner, str(socket)).start()
        stack.callback(socket.unlink, missing_ok=True)
        yield
