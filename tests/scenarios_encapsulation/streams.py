"""A long TCP stream between two pods: data all the time, and the longest silence at the receiving end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agent.lab.lab import Lab
from felix.namespaces import entered
from inet.prefix import Family

_PORT = 5201
_PIECE = bytes(8 * 1024)
_PAUSE_S = 0.02


@dataclass(slots=True)
class TcpStream:
    """What became of a stream, once its block has ended."""

    sent: int = 0
    received: int = 0
    longest_silence_s: float = 0.0
    is_alive: bool = True


@asynccontextmanager
async def tcp_stream(lab: Lab, source: str, destination: str, family: Family) -> AsyncIterator[TcpStream]:
    """Send from one pod to another while the block runs; everything that was sent has to arrive."""
    stream = TcpStream()
    listener = _open(lab, destination, family)
    listener.bind(("", _PORT))
    listener.listen()
    client = _open(lab, source, family)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, (str(lab.address(destination, family)), _PORT))
    server, _ = await loop.sock_accept(listener)
    server.setblocking(False)  # noqa: FBT003 - the parameter has no name
    receiving = asyncio.create_task(_receive(server, stream))
    sending = asyncio.create_task(_send(client, stream))
    try:
        yield stream
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await sending
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(receiving, 20)
        for each in (client, server, listener):
            each.close()


def _open(lab: Lab, pod: str, family: Family) -> socket.socket:
    with entered(lab.plan.machines[pod].namespace):
        opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.setblocking(False)  # noqa: FBT003 - the parameter has no name
    return opened


async def _send(client: socket.socket, stream: TcpStream) -> None:
    loop = asyncio.get_running_loop()
    try:
        while True:
            await loop.sock_sendall(client, _PIECE)
            stream.sent += len(_PIECE)
            await asyncio.sleep(_PAUSE_S)
    except OSError:
        stream.is_alive = False


async def _receive(server: socket.socket, stream: TcpStream) -> None:
    loop = asyncio.get_running_loop()
    heard = time.monotonic()
    while data := await loop.sock_recv(server, 1 << 16):
        now = time.monotonic()
        stream.longest_silence_s = max(stream.longest_silence_s, now - heard)
        heard = now
        stream.received += len(data)
