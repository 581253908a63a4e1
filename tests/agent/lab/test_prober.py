"""The prober as the program that it is, on loopback."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.lab import prober
from agent.lab.prober import Tally
from agent.lab.wait import eventually
from inet.prefix import Family

LOOPBACK = {Family.IPV4: "127.0.0.1", Family.IPV6: "::1"}
PATIENCE_S = 30


# The program as it is, but for how long it waits at the end: this machine may be busy.
PATIENT = f"""
import sys
sys.path.insert(0, {str(Path(prober.__file__).parent)!r})
import prober
prober.STRAGGLERS_S = float(sys.argv[1])
prober.main(sys.argv[2:])
"""


@asynccontextmanager
async def program(*words: str, stragglers_s: float = PATIENCE_S) -> AsyncIterator[asyncio.subprocess.Process]:
    argv = [sys.executable, "-IS", "-c", PATIENT, str(stragglers_s), *words]
    process = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        assert process.stdin is not None
        process.stdin.close()


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)).decode()


async def ended(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """End a sender's input; return its report."""
    assert process.stdin is not None
    process.stdin.close()
    report: dict[str, Any] = json.loads(await line(process))
    assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
    return report


class Answering(asyncio.DatagramProtocol):
    """Keeps what came, by sender; answers with what it is told to make of it."""

    def __init__(self, answer: Callable[[int, int], int]) -> None:
        self._answer = answer  # beat, flow -> how many answers
        self.heard: dict[Any, list[tuple[int, int]]] = {}

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        beat, flow, _ = struct.unpack("!QHH", data)
        self.heard.setdefault(addr, []).append((beat, flow))
        for _ in range(self._answer(beat, flow)):
            self._transport.sendto(data, addr)

    def answer_all(self) -> None:
        for address, heard in self.heard.items():
            for beat, flow in heard:
                self._transport.sendto(struct.pack("!QHH", beat, flow, 0), address)

    @property
    def count(self) -> int:
        return sum(map(len, self.heard.values()))


@asynccontextmanager
async def answering(family: Family, answer: Callable[[int, int], int]) -> AsyncIterator[tuple[Answering, str]]:
    """Listen; yields what hears, and the port."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: Answering(answer), (LOOPBACK[family], 0))
    try:
        yield server, str(transport.get_extra_info("sockname")[1])
    finally:
        transport.close()


@asynccontextmanager
async def sending(
    family: Family, port: str, flows: int, *, stragglers_s: float = PATIENCE_S
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a sender that has begun."""
    async with program("send", LOOPBACK[family], port, "0.001", str(flows), stragglers_s=stragglers_s) as sender:
        assert await line(sender) == "\n"
        yield sender


async def test_what_comes_is_sent_back_to_whoever_sent_it(family: Family) -> None:
    kind = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
    async with program("echo", LOOPBACK[family]) as echo:
        port = int(await line(echo))
        with socket.socket(kind, socket.SOCK_DGRAM) as one, socket.socket(kind, socket.SOCK_DGRAM) as other:
            for number, each in enumerate((one, other, one)):
                each.settimeout(PATIENCE_S)
                each.sendto(b"packet %d" % number, (LOOPBACK[family], port))
                assert await asyncio.to_thread(each.recv, 64) == b"packet %d" % number
        assert echo.stdin is not None
        echo.stdin.close()
        assert await asyncio.wait_for(echo.wait(), PATIENCE_S) == 0


async def test_every_beat_has_a_packet_of_every_flow_and_each_flow_a_port_of_its_own(family: Family) -> None:
    async with (
        answering(family, lambda _beat, _flow: 1) as (server, port),
        sending(family, port, 4) as sender,
    ):
        await eventually(lambda: server.count >= 40, within_s=PATIENCE_S)
        report = await ended(sender)
    assert len(server.heard) == 4
    flows = sorted(server.heard.values(), key=lambda heard: heard[0][1])
    beats = report["sent"] // 4
    assert flows == [[(beat, flow) for beat in range(beats)] for flow in range(4)]


async def test_what_is_not_answered_is_lost_and_an_answer_twice_is_one(family: Family) -> None:
    def answers(beat: int, flow: int) -> int:
        return 0 if (beat, flow) == (2, 1) else 2

    began = time.time()
    async with (
        answering(family, answers) as (server, port),
        sending(family, port, 2, stragglers_s=2) as sender,
    ):
        await eventually(lambda: server.count >= 20, within_s=PATIENCE_S)
        report = await ended(sender)
    ((when, flow, why),) = report["lost"]
    assert (flow, why) == (1, "no answer")
    assert began - 1 < when < time.time() + 1


async def test_nobody_there_loses_everything(family: Family) -> None:
    async with answering(family, lambda _beat, _flow: 0) as (_, port):
        pass  # the port is free again, and nobody's
    async with sending(family, port, 2, stragglers_s=0.2) as sender:
        report = await ended(sender)
    assert len(report["lost"]) == report["sent"] > 0
    assert {why for _, _, why in report["lost"]} <= {"no answer", "Connection refused"}


class Refusing(socket.socket):
    """Reports with every call that an earlier packet was refused."""

    def send(self, *_: object) -> int:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    def recv(self, *_: object) -> bytes:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")


def test_a_packet_that_could_not_be_sent_says_why_and_stays_lost() -> None:
    tally = Tally()
    with Refusing(socket.AF_INET, socket.SOCK_DGRAM) as refusing:
        prober._send_one(refusing, 3, 1, tally)
        prober._receive(refusing, tally)
    (((beat, flow), (when, why)),) = tally.outstanding.items()
    assert (beat, flow, why, tally.sent) == (3, 1, "Connection refused", 1)
    assert abs(time.time() - when) < PATIENCE_S


async def test_an_answer_that_comes_after_the_last_packet_still_counts(family: Family) -> None:
    async with answering(family, lambda _beat, _flow: 0) as (server, port), sending(family, port, 1) as sender:
        await eventually(lambda: server.count >= 5, within_s=PATIENCE_S)
        assert sender.stdin is not None
        sender.stdin.close()
        report = asyncio.create_task(ended(sender))
        while not report.done():
            server.answer_all()
            await asyncio.wait((report,), timeout=0.05)
        assert report.result()["lost"] == []


def waiting_bytes(family: Family, port: int) -> int:
    """Return what waits to be read at a port, as the kernel counts it (/proc/net/udp: tx_queue:rx_queue)."""
    lines = Path("/proc/net", "udp" if family is Family.IPV4 else "udp6").read_text().splitlines()[1:]
    fields = next(fields for fields in map(str.split, lines) if fields[1].endswith(f":{port:04X}"))
    return int(fields[4].partition(":")[2], 16)


@pytest.mark.skipif(os.geteuid() != 0, reason="a buffer beyond net.core.rmem_max needs root")
async def test_an_echo_that_gets_no_processor_for_a_while_loses_nothing(family: Family) -> None:
    async with program("echo", LOOPBACK[family]) as echo:
        port = await line(echo)
        async with sending(family, port.strip(), 4) as sender:
            echo.send_signal(signal.SIGSTOP)
            await eventually(lambda: waiting_bytes(family, int(port)), (1 << 20).__le__, what="packets that wait")
            echo.send_signal(signal.SIGCONT)
            report = await ended(sender)
    assert report["lost"] == []


@pytest.mark.parametrize("words", [(), ("echo",), ("send", "127.0.0.1"), ("probe", "127.0.0.1")])
def test_other_words_are_told_how_it_is_used(words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit, match=r"echo ADDRESS \| send ADDRESS PORT INTERVAL_S FLOWS"):
        prober.main(list(words))


def test_losses_are_reported_in_the_order_of_their_sending() -> None:
    tally = Tally(sent=9, outstanding={(2, 0): (3.0, "late"), (1, 1): (2.5, "b"), (1, 0): (2.0, "a")})
    assert tally.report() == {"sent": 9, "lost": [[2.0, 0, "a"], [2.5, 1, "b"], [3.0, 0, "late"]]}


def test_it_starts_without_anything_but_the_standard_library() -> None:
    lines = Path(prober.__file__).read_text().splitlines()
    imported = {text.split()[1].partition(".")[0] for text in lines if text.startswith(("import ", "from "))}
    assert imported <= sys.stdlib_module_names
