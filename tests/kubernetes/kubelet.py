"""The part of a kubelet that runs commands in containers, as the API server speaks with it: pods/exec over a WebSocket.

A real kubelet needs a container runtime. This one runs whatever it is told to in the place of a pod.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from aiohttp import WSCloseCode, web

PROTOCOL = "v4.channel.k8s.io"
Execute: TypeAlias = Callable[[str, Sequence[str]], Awaitable[tuple[int, bytes, bytes]]]
"""Runs a command in a pod's container: NAMESPACE/POD/CONTAINER and argv; gives status, output, errors."""


@contextlib.asynccontextmanager
async def kubelet(directory: Path, execute: Execute) -> AsyncIterator[int]:
    """Serve on loopback for as long as the block lasts; gives the port."""

    async def handle(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(protocols=[PROTOCOL])
        await connection.prepare(request)
        where = "/".join(request.match_info[each] for each in ("namespace", "pod", "container"))
        try:
            status, output, errors = await execute(where, request.query.getall("command"))
        except ConnectionAbortedError:  # the kubelet dies
            await connection.close(code=WSCloseCode.GOING_AWAY)
            return connection
        for start in range(0, len(output), 1000):
            await connection.send_bytes(b"\x01" + output[start : start + 1000])
        await connection.send_bytes(b"\x02" + errors)
        await connection.send_bytes(b"\x03" + json.dumps(ending(status)).encode())
        await connection.close()
        return connection

    app = web.Application()
    app.add_routes([web.get("/exec/{namespace}/{pod}/{container}", handle)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=_tls(directory))
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def ending(status: int) -> dict[str, object]:
    """Return how a command ended, as a kubelet says it."""
    if status == 0:
        return {"metadata": {}, "status": "Success"}
    if status < 0:
        return {"status": "Failure", "message": "container not found", "reason": "InternalError", "code": 500}
    causes = [{"reason": "ExitCode", "message": str(status)}]
    message = f"command terminated with non-zero exit code: exit status {status}"
    return {"status": "Failure", "message": message, "reason": "NonZeroExitCode", "details": {"causes": causes}}


def _tls(directory: Path) -> ssl.SSLContext:
    key, certificate = directory / "kubelet.key", directory / "kubelet.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=kubelet",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context
