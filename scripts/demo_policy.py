"""The demo's chapter on policy: who reaches a pod before and after a NetworkPolicy, why not, and who was cut off."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from agent.lab.lab import Lab
from agent.lab.namespaces import CommandError
from agent.lab.wait import eventually
from inet.prefix import Family

PORT = 8080

POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: b1-in}
spec:
  podSelector: {matchLabels: {app: b1}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: a2}}}]
    ports: [{port: 8080}]
"""

_SERVER = f"""
import socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        while said := self.request.recv(1): self.request.sendall(said)
class Server(socketserver.ThreadingTCPServer):
    address_family, allow_reuse_address, daemon_threads = __import__("socket").AF_INET6, True, True
Server(("::", {PORT}), Echo).serve_forever()
"""

_TRY = """
import socket, sys
socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=0.5)
"""

_TALK = """
import socket, sys, time
end = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2)
print("connected", flush=True)
while end.sendall(b"!") is None and end.recv(1): time.sleep(0.02)
"""

Verdict = Callable[[bool, str], None]
Tortie = Callable[..., Awaitable[None]]


async def show_policy(lab: Lab, *, say: Callable[[str], None], verdict: Verdict, tortie: Tortie) -> None:
    """Write a policy while connections are established, and take it away again."""
    manifest = lab.state.config / "policy.yaml"
    async with _running(lab, "b1", _SERVER):
        await eventually(lambda: _reaches(lab, "a1"), what="b1 listens")
        async with _talking(lab, "a1") as doomed, _talking(lab, "a2") as kept:
            say(POLICY)
            manifest.write_text(POLICY)
            cuts = asyncio.gather(*map(_lasted, doomed))
            try:
                await eventually(lambda: _is_kept_out(lab, "a1"), what="the policy in force")
                verdict(await _reaches(lab, "a2"), "a2 is allowed: a new connection, IPv4 and IPv6")
                verdict(await _is_kept_out(lab, "a1"), "a1 is denied: no new connection, IPv4 or IPv6")
                lasted = max(await asyncio.wait_for(cuts, 5))
                text = f"a1's established connections are cut, {lasted:.2f} s after the file was written"
                verdict(is_good=True, text=text)
                verdict(all(each.returncode is None for each in kept), "a2's go on")
                await tortie(lab, "n3", "policy", "explain", "a1", "b1", f"{PORT}/TCP")
                await tortie(lab, "n3", "drops")
            finally:
                cuts.cancel()
                manifest.unlink()
        await eventually(lambda: _reaches(lab, "a1"), what="the policy gone")
        verdict(is_good=True, text="without the policy a1 is allowed again")


async def _lasted(process: asyncio.subprocess.Process) -> float:
    """Return after how many seconds a program ended."""
    began = time.monotonic()
    await process.wait()
    return time.monotonic() - began


@contextlib.asynccontextmanager
async def _running(lab: Lab, pod: str, program: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *lab.command(pod, [sys.executable, "-c", program, *arguments]),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@contextlib.asynccontextmanager
async def _talking(lab: Lab, pod: str) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Let a pod talk to b1 over a connection in each family, for as long as it lasts."""
    async with contextlib.AsyncExitStack() as stack:
        talkers = [
            await stack.enter_async_context(_running(lab, pod, _TALK, str(lab.address("b1", family)), str(PORT)))
            for family in Family
        ]
        for talker in talkers:
            if talker.stdout is not None:
                await talker.stdout.readline()
        yield talkers


async def _tries(lab: Lab, pod: str) -> list[bool]:
    async def succeeds(family: Family) -> bool:
        try:
            await lab.run(pod, sys.executable, "-c", _TRY, str(lab.address("b1", family)), str(PORT))
        except CommandError:
            return False
        return True

    return await asyncio.gather(*(succeeds(family) for family in Family))


async def _reaches(lab: Lab, pod: str) -> bool:
    return all(await _tries(lab, pod))


async def _is_kept_out(lab: Lab, pod: str) -> bool:
    return not any(await _tries(lab, pod))
