"""A TCP relay from a node's network namespace to the API server on loopback, which can be made slow, or to fail.

with Relay.started(port_of_server, namespace) as relay:      # listens on 127.0.0.1:6443 in there
    relay.cut()            every connection is reset, new ones go through
    relay.is_open = False  and none goes through any more
    relay.delay_s = 2.0    every piece of data takes so long
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Self

from tests.felix.netns import entered

PORT = 6443


class Relay:
    """Runs in a thread of its own; attributes may be set from any."""

    def __init__(self, target: int, listener: socket.socket) -> None:
        self.is_open = True
        self.delay_s = 0.0
        self.accepted = 0  # connections so far
        self._target = target
        self._listener = listener
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @contextlib.contextmanager
    def started(cls, target: int, namespace: str = "") -> Iterator[Self]:
        """Listen in a namespace, or here on any port, for as long as the block lasts."""
        with entered(namespace) if namespace else contextlib.nullcontext():
            listener = socket.create_server(("127.0.0.1", PORT if namespace else 0))
        relay = cls(target, listener)
        thread = threading.Thread(target=relay._run, daemon=True)
        thread.start()
        try:
            yield relay
        finally:
            relay._loop.call_soon_threadsafe(relay._stop)
            thread.join(10)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def cut(self) -> None:
        """Reset every connection there is."""
        self._loop.call_soon_threadsafe(self._cut)

    def close(self) -> None:
        """Reset every connection and refuse new ones."""
        self.is_open = False
        self.cut()

    def open(self) -> None:
        """Let connections through again."""
        self.is_open = True

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def _stop(self) -> None:
        self._cut()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError), self._listener:
            self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._relay, sock=self._listener)
        try:
            await asyncio.Event().wait()
        finally:
            server.close()
            await asyncio.sleep(0)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if not self.is_open:
            writer.transport.abort()
            return
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, there_writer}
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, there_writer))
                tasks.create_task(self._pump(there_reader, writer))
        finally:
            self._writers -= {writer, there_writer}
            writer.transport.abort()
            there_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what comes until one side ends it: then both are ended."""
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 18):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
            writer.close()
