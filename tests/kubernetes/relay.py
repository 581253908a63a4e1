"""A TCP relay from a node's network namespace to the API server on loopback, which can be made slow, or to fail.

with Relay.started(port_of_server, namespace) as relay:      # listens on 127.0.0.1:6443 in there
    relay.cut()            every connection is reset, new ones go through
    relay.close()          and new ones are refused, until relay.open()
    relay.delay_s = 2.0    every piece of data takes so long
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Coroutine, Iterator
from typing import Any, Self

from felix.namespaces import entered

PORT = 6443


class Relay:
    """Runs in a thread of its own; its methods may be called from any."""

    def __init__(self, target: int, namespace: str = "") -> None:
        self.port = PORT if namespace else 0  # where it listens; chosen by the kernel outside of a namespace
        self.delay_s = 0.0
        self.passed_at = 0.0  # when something from the server was passed on last, on the monotonic clock
        self._target = target
        self._namespace = namespace
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @classmethod
    @contextlib.contextmanager
    def started(cls, target: int, namespace: str = "") -> Iterator[Self]:
        """Relay for as long as the block lasts."""
        relay = cls(target, namespace)
        thread = threading.Thread(target=relay._loop.run_forever, daemon=True)
        thread.start()
        try:
            relay.open()
            yield relay
        finally:
            relay._do(relay._end())
            relay._loop.call_soon_threadsafe(relay._loop.stop)
            thread.join(10)
            relay._loop.close()

    def open(self) -> None:
        """Let connections through."""
        with entered(self._namespace) if self._namespace else contextlib.nullcontext():
            listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._do(self._serve(listener))

    def cut(self) -> None:
        """Reset every connection there is."""
        self._do(self._cut())

    def close(self) -> None:
        """Reset every connection and refuse new ones."""
        self._do(self._close())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _serve(self, listener: socket.socket) -> None:
        self._server = await asyncio.start_server(self._relay, sock=listener)

    async def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()

    async def _end(self) -> None:
        await self._close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.05)  # sockets are closed a turn of the loop after their transports

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
            ends.add(there_writer)
            self._writers |= ends
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, there_writer))
                tasks.create_task(self._pump(there_reader, writer, is_answer=True))
        except OSError:
            pass  # the server is not there
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool = False
    ) -> None:
        """Pass on what comes until one side ends it: then both are ended."""
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 18):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if is_answer:
                    self.passed_at = time.monotonic()
                writer.write(data)
                await writer.drain()
            writer.close()
