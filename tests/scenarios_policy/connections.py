"""Real TCP connections between pods of a lab, made from within their namespaces, in both families."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterator

from agent.lab.lab import Lab
from felix.namespaces import entered
from inet.prefix import Family

PORT = 5432
PATIENCE_S = 10.0
"""For what has to come: the machine may be busy."""

ENOUGH_S = 0.4
"""For what is not to come: a packet in one machine takes microseconds."""

_TCP_INFO = struct.Struct("8B 24I")
"""<linux/tcp.h>, struct tcp_info up to tcpi_total_retrans, its last field here."""


def _open(lab: Lab, pod: str, family: Family) -> socket.socket:
    with entered(lab.plan.machines[pod].namespace):
        made = socket.socket(family)
    made.setblocking(False)  # noqa: FBT003 - the parameter has no name
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made


@contextlib.contextmanager
def listening(lab: Lab, pod: str, port: int = PORT) -> Iterator[dict[Family, socket.socket]]:
    """Let a pod accept connections in both families."""
    with contextlib.ExitStack() as stack:
        servers = {family: stack.enter_context(_open(lab, pod, family)) for family in Family}
        for family, server in servers.items():
            server.bind((str(lab.address(pod, family)), port))
            server.listen(1000)
        yield servers


async def connects_in(
    lab: Lab, family: Family, source: str, destination: str, port: int = PORT, *, within_s: float = PATIENCE_S
) -> bool:
    """Whether a pod gets a connection to another in one family, with the first packet of it."""
    with _open(lab, source, family) as client:
        address = (str(lab.address(destination, family)), port)
        connecting = asyncio.create_task(asyncio.get_running_loop().sock_connect(client, address))
        try:
            async with asyncio.timeout(within_s):
                while not connecting.done() and not _retransmitted(client):
                    await asyncio.wait((connecting,), timeout=0.1)
            return connecting.done() and connecting.exception() is None and not _retransmitted(client)
        except TimeoutError:
            return False
        finally:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)


def _retransmitted(client: socket.socket) -> int:
    """Return how many segments the kernel has sent again: one was lost, or dropped."""
    return int(_TCP_INFO.unpack(client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size))[-1])


async def connects(lab: Lab, source: str, destination: str, port: int = PORT) -> bool:
    """Whether a pod gets connections to another in both families."""
    return all([await connects_in(lab, family, source, destination, port) for family in Family])


async def is_kept_out(lab: Lab, source: str, destination: str, port: int = PORT) -> bool:
    """Whether a pod gets connections to another in neither family."""
    tries = [await connects_in(lab, family, source, destination, port, within_s=ENOUGH_S) for family in Family]
    return not any(tries)


class Connection:
    """An established connection: `works` says whether bytes still get through, both ways, and soon."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client, self._server = client, server

    async def works(self, within_s: float = PATIENCE_S) -> bool:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(within_s):
                for sender, receiver in ((self._client, self._server), (self._server, self._client)):
                    await loop.sock_sendall(sender, b"!")
                    if await loop.sock_recv(receiver, 1) != b"!":
                        return False
        except OSError:
            return False
        return True


@contextlib.asynccontextmanager
async def connected(
    lab: Lab, family: Family, source: str, destination: str, server: socket.socket
) -> AsyncIterator[Connection]:
    """Connect a pod to another that listens."""
    loop = asyncio.get_running_loop()
    with _open(lab, source, family) as client:
        await loop.sock_connect(client, (str(lab.address(destination, family)), PORT))
        accepted, peer = await loop.sock_accept(server)
        while peer != client.getsockname():  # of somebody who only tried
            accepted.close()
            accepted, peer = await loop.sock_accept(server)
        with accepted:
            yield Connection(client, accepted)


class Knocking:
    """A pod that tries to connect every few milliseconds: how often it did, and how often it got through."""

    def __init__(self) -> None:
        self.tries = 0
        self.successes = 0


@contextlib.asynccontextmanager
async def knocking(lab: Lab, source: str, destination: str) -> AsyncIterator[Knocking]:
    """Let a pod try all the while, in both families, without waiting for answers."""
    count = Knocking()

    async def knock(family: Family) -> None:
        address = (str(lab.address(destination, family)), PORT)
        with contextlib.ExitStack() as stack:
            clients: list[socket.socket] = []
            while True:
                client = stack.enter_context(_open(lab, source, family))
                client.connect_ex(address)
                count.tries += 1
                clients.append(client)
                if len(clients) > 50:
                    first = clients.pop(0)
                    count.successes += _is_connected(first)
                    first.close()
                await asyncio.sleep(0.005)

    tasks = [asyncio.create_task(knock(family)) for family in Family]
    try:
        yield count
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _is_connected(client: socket.socket) -> bool:
    try:
        client.getpeername()
    except OSError:
        return False
    return True
