"""Steady traffic between two machines of a lab, and what of it was lost, when.

    async with traffic(lab, "a1", "b1") as streams:
        await lab.restart("n1")
    assert not streams[Family.IPV4].lost

Every beat (10 ms) sends a packet of each of several flows, which spread over equal ways as flows do; an answer
counts, so both directions are watched.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from agent.lab import prober
from agent.lab.lab import Lab
from agent.lab.wait import eventually
from inet.prefix import Family


@dataclass(frozen=True, slots=True)
class Loss:
    """A packet that was not answered."""

    sent_at: datetime  # UTC
    flow: int
    why: str

    def __str__(self) -> str:
        return f"{self.sent_at:%H:%M:%S.%f} flow {self.flow} {self.why}"


@dataclass(slots=True)
class Stream:
    """Traffic of one family from one machine to another. Counts are there once the block has ended."""

    source: str
    destination: str
    family: Family
    interval_s: float
    flows: int
    sent: int = 0
    lost: Sequence[Loss] = field(default_factory=tuple)

    @property
    def lost_s(self) -> float:
        """The time's worth of packets lost, averaged over the flows, in seconds."""
        return len(self.lost) * self.interval_s / self.flows

    def __str__(self) -> str:
        summary = f"{self.family.label} {self.source} → {self.destination}: {self.sent} sent, {len(self.lost)} lost"
        if not self.lost:
            return summary
        return f"{summary} ({self.lost_s * 1000:.0f} ms' worth; first {self.lost[0]}, last {self.lost[-1]})"


@asynccontextmanager
async def traffic(
    lab: Lab,
    source: str,
    destination: str,
    *,
    families: Iterable[Family] | None = None,
    interval_s: float = 0.01,
    flows: int = 4,
) -> AsyncIterator[Mapping[Family, Stream]]:
    """Send while the block runs. Families default to those of the lab. Raises LookupError where there is no address.

    Packets flow before the block begins, whether or not they arrive.
    """
    streams = {}
    async with AsyncExitStack() as stack:
        senders = {}
        for family in families if families is not None else lab.topology.enabled_families:
            address = str(lab.address(destination, family))
            echo = await stack.enter_async_context(_program(lab, destination, "echo", address))
            port = (await _line(echo)).strip()
            words = ("send", address, port, str(interval_s), str(flows))
            senders[family] = await stack.enter_async_context(_program(lab, source, *words))
            streams[family] = Stream(source, destination, family, interval_s, flows)
        await asyncio.gather(*(_line(sender) for sender in senders.values()))
        yield streams
        for sender in senders.values():
            _end_input(sender)
        for family, sender in senders.items():
            report = json.loads(await _rest(sender))
            streams[family].sent = report["sent"]
            streams[family].lost = tuple(
                Loss(datetime.fromtimestamp(when, UTC), flow, why) for when, flow, why in report["lost"]
            )


@asynccontextmanager
async def _program(lab: Lab, machine: str, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    argv = lab.command(machine, [sys.executable, "-IS", str(Path(prober.__file__)), *words])
    process = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        _end_input(process)
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _line(process: asyncio.subprocess.Process) -> str:
    """Return what a program prints next. Raises OSError when it ended instead."""
    if process.stdout is None or not (line := await process.stdout.readline()):
        raise OSError("the prober ended early")
    return line.decode()


async def _rest(process: asyncio.subprocess.Process) -> bytes:
    """Return everything else a program prints until it ends."""
    return b"" if process.stdout is None else await process.stdout.read()


def _end_input(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()


@dataclass(slots=True)
class RouteEvents:
    """What the kernel of one machine said about its routes, a line an event (`ip -ts -o monitor route`)."""

    machine: str
    lines: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([f"{self.machine}: {len(self.lines)} route events", *self.lines])


@asynccontextmanager
async def route_events(lab: Lab, *machines: str) -> AsyncIterator[Mapping[str, RouteEvents]]:
    """Record every route event of both families while the block runs, none lost at either end."""
    async with AsyncExitStack() as stack:
        recorders = {}
        for machine in machines:
            recorders[machine] = await stack.enter_async_context(_recording(lab, machine))
        yield recorders


@asynccontextmanager
async def _recording(lab: Lab, machine: str) -> AsyncIterator[RouteEvents]:
    process = await asyncio.create_subprocess_exec(
        *lab.command(machine, ["ip", "-ts", "-o", "monitor", "route"]), stdout=asyncio.subprocess.PIPE
    )
    events = RouteEvents(machine)
    reading = asyncio.create_task(_collect(process, events))
    try:
        await eventually(lambda: _queued(process.pid) is not None, what=f"ip monitor on {machine} listening")
        yield events
        await eventually(lambda: not _queued(process.pid), what=f"ip monitor on {machine} has read everything")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await reading


async def _collect(process: asyncio.subprocess.Process, events: RouteEvents) -> None:
    while process.stdout is not None and (line := await process.stdout.readline()):
        events.lines.append(line.decode(errors="replace").strip())


def _queued(pid: int) -> int | None:
    """Return how many bytes a process has still to read from its netlink socket; None: it does not listen yet."""
    try:
        lines = Path(f"/proc/{pid}/net/netlink").read_text().splitlines()[1:]
    except FileNotFoundError:
        return None
    for fields in map(str.split, lines):
        _, _, port_id, groups, queued, *_ = fields
        if int(port_id) == pid and int(groups, 16):
            return int(queued)
    return None
