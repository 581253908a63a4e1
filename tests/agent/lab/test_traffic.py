"""Traffic and route events of a lab whose machines are this one, or one namespace."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from agent.lab import traffic as module
from agent.lab.namespaces import inside, run
from agent.lab.traffic import Loss, RouteEvents, Stream, route_events, traffic
from agent.lab.wait import eventually
from inet.prefix import Family

LOOPBACK = {Family.IPV4: "127.0.0.1", Family.IPV6: "::1"}


class Here:
    """As much of a lab as traffic needs."""

    def __init__(self, namespace: str = "", families: Sequence[Family] = tuple(Family)) -> None:
        self._namespace = namespace
        self._families = families
        self.commands: list[tuple[str, list[str]]] = []

    @property
    def topology(self) -> Here:
        return self

    @property
    def enabled_families(self) -> Sequence[Family]:
        return self._families

    def address(self, machine: str, family: Family) -> str:
        if family not in self._families:
            raise LookupError(f"{machine} has no {family.label} address")
        return LOOPBACK[family]

    def command(self, machine: str, argv: Sequence[str]) -> list[str]:
        self.commands.append((machine, list(argv)))
        return inside(self._namespace, argv) if self._namespace else list(argv)


def lab(**settings: Any) -> Any:
    return Here(**settings)


def stream(lost: int, flows: int = 4) -> Stream:
    moments = (datetime(2026, 11, 21, 12, 0, second, 5000, tzinfo=UTC) for second in range(lost))
    losses = tuple(Loss(moment, 1, "no answer") for moment in moments)
    return Stream("a1", "b1", Family.IPV6, 0.01, flows, sent=400, lost=losses)


def test_a_stream_without_loss_says_so_shortly() -> None:
    assert str(stream(0)) == "IPv6 a1 → b1: 400 sent, 0 lost"
    assert stream(0).lost_s == 0


def test_what_was_lost_is_told_as_time_of_one_flow_with_the_first_and_the_last() -> None:
    assert stream(6).lost_s == pytest.approx(0.015)
    assert stream(6, flows=1).lost_s == pytest.approx(0.06)
    assert str(stream(6)) == (
        "IPv6 a1 → b1: 400 sent, 6 lost (15 ms' worth; "
        "first 12:00:00.005000 flow 1 no answer, last 12:00:05.005000 flow 1 no answer)"
    )


def test_route_events_are_shown_a_line_each() -> None:
    assert str(RouteEvents("n1", ["one", "two"])) == "n1: 2 route events\none\ntwo"


async def test_nothing_is_lost_between_two_that_hear_each_other() -> None:
    here = lab()
    async with traffic(here, "a1", "b1", interval_s=0.002, flows=3) as streams:
        assert list(streams) == list(Family)
        await run(["true"])
    for family, found in streams.items():
        assert (found.source, found.destination, found.family) == ("a1", "b1", family)
        assert (found.interval_s, found.flows) == (0.002, 3)
        assert found.sent >= 3
        assert not found.lost, str(found)
    echoes = [machine for machine, argv in here.commands if "echo" in argv]
    senders = [machine for machine, argv in here.commands if "send" in argv]
    assert (echoes, senders) == (["b1", "b1"], ["a1", "a1"])


async def test_what_is_not_answered_is_lost(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    before = datetime.now(UTC)
    monkeypatch.setattr(module.asyncio, "create_subprocess_exec", of_a_deaf_echo(module.asyncio.create_subprocess_exec))
    async with traffic(lab(), "a1", "b1", families=[family], flows=1) as streams:
        pass
    found = streams[family]
    assert len(found.lost) == found.sent > 0
    assert all(before <= loss.sent_at <= datetime.now(UTC) and loss.flow == 0 for loss in found.lost)


DEAF = """
import socket, sys
deaf = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
deaf.bind((sys.argv[1], 0))
print(deaf.getsockname()[1], flush=True)
sys.stdin.read()
"""


def of_a_deaf_echo(real: Any) -> Any:
    """Return what starts, in place of an echo, a program that listens and says nothing."""

    async def start(*argv: str, **settings: Any) -> Any:
        if "echo" in argv:
            argv = (argv[0], "-c", DEAF, argv[-1])
        return await real(*argv, **settings)

    return start


async def test_only_the_families_asked_for_are_sent(family: Family) -> None:
    async with traffic(lab(), "a1", "b1", families=[family]) as streams:
        assert list(streams) == [family]
    async with traffic(lab(families=[family]), "a1", "b1") as streams:
        assert list(streams) == [family]


async def test_a_machine_without_an_address_is_an_error() -> None:
    with pytest.raises(LookupError, match="b1 has no IPv6 address"):
        async with traffic(lab(families=[Family.IPV4]), "a1", "b1", families=list(Family)):
            pass


async def test_a_prober_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOOPBACK, Family.IPV4, "192.0.2.1")  # nobody's here
    with pytest.raises(OSError, match="the prober ended early"):
        async with traffic(lab(), "a1", "b1", families=[Family.IPV4]):
            pass


async def test_no_prober_is_left_behind_when_the_block_fails() -> None:
    processes: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        real = module.asyncio.create_subprocess_exec

        async def start(*argv: str, **settings: Any) -> Any:
            processes.append(await real(*argv, **settings))
            return processes[-1]

        patch.setattr(module.asyncio, "create_subprocess_exec", start)
        with pytest.raises(ZeroDivisionError):
            async with traffic(lab(), "a1", "b1"):
                raise ZeroDivisionError
    assert len(processes) == 4
    assert all(process.returncode is not None for process in processes)


@pytest.mark.kernel
class TestRouteEvents:
    @pytest.fixture
    def namespace(self) -> Iterator[str]:
        if os.geteuid() != 0:
            pytest.skip("network namespaces need root")
        name = f"ttraffic{os.getpid()}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        try:
            subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
            yield name
        finally:
            subprocess.run(["ip", "netns", "del", name], check=True)

    async def test_every_event_of_the_block_is_recorded_and_none_from_outside_it(
        self, namespace: str, family: Family
    ) -> None:
        def address(number: int) -> str:
            return f"192.0.2.{number}" if family is Family.IPV4 else f"2001:db8::{number}"

        async def add(number: int) -> None:
            await run(["ip", "-n", namespace, "route", "add", "blackhole", address(number)])

        await add(1)
        async with route_events(lab(namespace=namespace), "n1") as events:
            for number in range(2, 12):
                await add(number)
        await add(12)
        lines = events["n1"].lines
        assert len(lines) == 10, str(events["n1"])
        assert all("blackhole" in line and line.startswith("[") for line in lines)  # with the time
        shown = [line.split("blackhole ")[1].split()[0] for line in lines]
        assert shown == [address(number) for number in range(2, 12)]

    async def test_a_program_is_known_to_listen_once_it_does(self, namespace: str) -> None:
        argv = inside(namespace, ["ip", "monitor", "route"])
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.DEVNULL)
        try:
            assert await eventually(lambda: module._queued(process.pid), lambda queued: queued is not None) == 0
        finally:
            process.kill()
            await process.wait()
        assert module._queued(process.pid) is None

    async def test_machines_are_recorded_apart(self, namespace: str) -> None:
        async with route_events(lab(namespace=namespace), "n1", "n2") as events:
            pass
        assert {machine: found.lines for machine, found in events.items()} == {"n1": [], "n2": []}
