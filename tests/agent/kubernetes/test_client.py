"""The client against a server that stops knowing it, or that it stops knowing, while requests are on their way."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
import subprocess
from asyncio.sslproto import SSLProtocol
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import Configuration

from agent.kubernetes.client import Client, Request, Resource
from agent.kubernetes.errors import Refused, Unreachable
from felix.namespaces import entered

PODS = Request("list", Resource("", "v1", "pods"))
NODES = Request("list", Resource("", "v1", "nodes"))

WAYS_TO_END = ("it hung up", "Connection reset by peer")
"""... a connection, as its end is read or written to first."""


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
    """Knows the second token alone, or whom it is told to. Requests for nodes wait until they may be answered."""

    def __init__(self, known: Collection[str | None] = ("Bearer token-2",)) -> None:
        self.known = known
        self.asked = asyncio.Semaphore(0)
        self.may_answer = asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        if request.path.endswith("/nodes"):
            self.asked.release()
            await self.may_answer.wait()
        is_known = request.headers.get("Authorization") in self.known
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


def certificate(directory: Path, name: str) -> Path:
    """Return a new certificate of 127.0.0.1, signed by itself, with its key in the same file."""
    file = directory / f"{name}.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
    command += ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(file), "-out", "-"]
    made = subprocess.run(command, check=True, capture_output=True, text=True)
    file.write_text(file.read_text() + made.stdout)
    return file


class TrustingAccess:
    """Reads the file of what is trusted each time, as that of a pod, in which a kubelet replaces it."""

    def __init__(self, url: str, trusted: Path) -> None:
        self._url = url
        self._trusted = trusted

    def __str__(self) -> str:
        return "trust"

    async def load(self) -> Configuration:
        made = Configuration(host=self._url)
        made.ssl_ca_cert = str(self._trusted)
        return made


async def test_a_certificate_authority_that_is_replaced_in_its_file_is_believed_without_a_restart(
    tmp_path: Path,
) -> None:
    before, after = certificate(tmp_path, "before"), certificate(tmp_path, "after")
    trusted = tmp_path / "ca.crt"
    trusted.write_text(before.read_text())
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(after)
    application = web.Application()
    application.router.add_get("/{path:.*}", Server(known=(None,)).answer)
    listening = TestServer(application, scheme="https")
    await listening.start_server(ssl=tls)
    async with asyncio.timeout(30), listening:
        client = Client(TrustingAccess(str(listening.make_url("/")).rstrip("/"), trusted))  # type: ignore[arg-type] # as far as it goes
        with pytest.raises(Unreachable, match="certificate verify failed"):
            await client.send(PODS)
        trusted.write_text(after.read_text())
        assert await client.send(PODS) == b"{}"
        await client.close()


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        ("http://127.0.0.1:1", "cannot connect to 127.0.0.1:1: Connection refused"),
        ("http://[::1]:1", "cannot connect to [::1]:1: Connection refused"),
    ],
)
async def test_why_a_server_cannot_be_reached_is_said_in_words(server: str, reason: str) -> None:
    class ElsewhereAccess:
        async def load(self) -> Configuration:
            return Configuration(host=server)

    client = Client(ElsewhereAccess())  # type: ignore[arg-type]  # as far as it goes
    with pytest.raises(Unreachable) as unreachable:
        await client.send(PODS)
    await client.close()
    assert str(unreachable.value) == reason


async def test_a_server_that_takes_connections_and_says_nothing_costs_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What holds itself would stay for days, as seldom as the agent has rings looked for."""
    monkeypatch.setattr("agent.kubernetes.client.CONNECT_S", 0.05)
    handshakes: WeakSet[SSLProtocol] = WeakSet()

    class Watched(SSLProtocol):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            handshakes.add(self)
            begun.append(1)

    begun: list[int] = []
    monkeypatch.setattr("asyncio.sslproto.SSLProtocol", Watched)
    trusted = certificate(tmp_path, "silent")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(TrustingAccess(f"https://127.0.0.1:{silent.getsockname()[1]}", trusted))  # type: ignore[arg-type] # as far as it goes
        gc.disable()
        try:
            for _ in range(5):
                with pytest.raises(Unreachable, match="no answer in time"):
                    await client.send(PODS)
            await asyncio.sleep(0)  # what was aborted ends a turn of the loop later
            await asyncio.sleep(0)
            assert len(begun) == 5
            assert not handshakes
        finally:
            gc.enable()
        await client.close()


async def test_a_server_that_hangs_up_on_a_handshake_is_said_to(tmp_path: Path) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    trusted = certificate(tmp_path, "curt")
    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as curt:
        port = curt.sockets[0].getsockname()[1]
        client = Client(TrustingAccess(f"https://127.0.0.1:{port}", trusted))  # type: ignore[arg-type] # as far as it goes
        with pytest.raises(Unreachable) as unreachable:
            await client.send(PODS)
        await client.close()
    assert str(unreachable.value) in {f"cannot connect to 127.0.0.1:{port}: {why}" for why in WAYS_TO_END}


@pytest.fixture
def namespace() -> Iterator[str]:
    if os.geteuid() != 0:
        pytest.skip("needs root for network namespaces")
    name = f"client{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.kernel
async def test_a_watch_whose_packets_are_lost_ends_by_itself(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody says that the connection is no more, and a watch sends nothing of its own accord."""
    keepalive = zip((socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT), (1, 1, 2), strict=True)
    monkeypatch.setattr("agent.kubernetes.client._KEEPALIVE", tuple(keepalive))

    async def watched(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first\n")
        await is_over.wait()
        return response

    is_over = asyncio.Event()
    application = web.Application()
    application.router.add_get("/{path:.*}", watched)
    with entered(namespace):  # this thread, and with it this loop
        async with asyncio.timeout(30), TestServer(application) as listening:
            client = Client(NumberedAccess(listening))  # type: ignore[arg-type] # as far as it goes
            async with client.stream(PODS) as blocks:
                assert await anext(blocks) == b"first\n"
                lost = "table inet lost { chain inwards { type filter hook input priority 0; drop; }; }"
                command = ["ip", "netns", "exec", namespace, "nft", lost]
                await asyncio.to_thread(subprocess.run, command, check=True)
                with pytest.raises(Unreachable, match="the answer broke off"):
                    await anext(blocks)
            await client.close()
            is_over.set()
