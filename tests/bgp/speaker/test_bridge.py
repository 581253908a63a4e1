"""The bridge as a program: it never blocks, keeps everything in order, and ends with either side."""

from __future__ import annotations

import fcntl
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgp.speaker.exabgp.process import bridge_command

DEADLINE_S = 20.0


class Bridge:
    """A running bridge between the test as ExaBGP (pipes) and the test as the agent (socket)."""

    def __init__(self, directory: Path) -> None:
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(directory / "s"))
        server.listen()
        self.process = subprocess.Popen(
            bridge_command(directory / "s"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        server.settimeout(DEADLINE_S)
        self.agent, _ = server.accept()
        self.agent.settimeout(DEADLINE_S)
        server.close()

    def exabgp_says(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def exabgp_hears(self, count: int) -> bytes:
        assert self.process.stdout is not None
        heard = b""
        while len(heard) < count:
            assert select.select([self.process.stdout], [], [], DEADLINE_S)[0]
            heard += self.process.stdout.read(count - len(heard))
        return heard

    def agent_hears(self, count: int) -> bytes:
        heard = bytearray()
        while len(heard) < count:
            data = self.agent.recv(1 << 16)
            assert data
            heard += data
        return bytes(heard)


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Bridge]:
    made = Bridge(tmp_path)
    yield made
    made.process.kill()
    made.process.communicate()
    made.agent.close()


def test_it_carries_both_ways(bridge: Bridge) -> None:
    bridge.exabgp_says(b"event\n")
    assert bridge.agent_hears(6) == b"event\n"
    bridge.agent.sendall(b"command\n")
    assert bridge.exabgp_hears(8) == b"command\n"


def test_exabgp_is_never_kept_waiting_by_an_agent_that_does_not_read(bridge: Bridge) -> None:
    assert bridge.process.stdin is not None
    line = b"x" * 1023 + b"\n"
    count = 20_000  # 20 MB, far more than every buffer between the two
    began = time.monotonic()
    for _ in range(count):
        writable = select.select([], [bridge.process.stdin], [], DEADLINE_S)[1]
        assert writable, "the bridge does not read"
        bridge.exabgp_says(line)
    assert time.monotonic() - began < DEADLINE_S
    assert bridge.agent_hears(count * len(line)) == line * count


def test_an_exabgp_that_does_not_read_does_not_stop_its_own_events(bridge: Bridge) -> None:
    commands = b"c" * (4 << 20)
    bridge.agent.settimeout(0)
    sent = 0
    give_up = time.monotonic() + DEADLINE_S
    while sent < len(commands):
        assert time.monotonic() < give_up
        select.select([], [bridge.agent], [], 1)
        sent += bridge.agent.send(commands[sent : sent + 65536])
    bridge.agent.settimeout(DEADLINE_S)
    bridge.exabgp_says(b"event\n")
    assert bridge.agent_hears(6) == b"event\n"
    assert bridge.exabgp_hears(len(commands)) == commands


def test_it_makes_the_pipes_large(bridge: Bridge) -> None:
    bridge.exabgp_says(b"x")
    bridge.agent_hears(1)
    assert bridge.process.stdin is not None
    assert bridge.process.stdout is not None
    for pipe in (bridge.process.stdin, bridge.process.stdout):
        assert fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) == 1 << 20


def test_it_ends_with_exabgp_after_passing_on_the_last_words(bridge: Bridge) -> None:
    assert bridge.process.stdin is not None
    bridge.exabgp_says(b"last words\n")
    bridge.process.stdin.close()
    bridge.process.stdin = None
    assert bridge.agent_hears(11) == b"last words\n"
    assert bridge.agent.recv(1) == b""
    bridge.process.wait(DEADLINE_S)


def test_it_ends_with_the_agent(bridge: Bridge) -> None:
    bridge.agent.close()
    bridge.process.wait(DEADLINE_S)


def test_it_imports_little() -> None:
    command = bridge_command(Path("/nowhere"))
    told = subprocess.run(
        [sys.executable, "-X", "importtime", *command[command.index(sys.executable) + 1 :]],
        capture_output=True,
        text=True,
        check=False,
    ).stderr
    loaded = {line.rpartition("|")[2].strip() for line in told.splitlines()}
    assert "socket" in loaded
    assert not loaded & {"asyncio", "json", "re", "site", "subprocess", "typing", "logging", "bgp"}
