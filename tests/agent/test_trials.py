"""When tunnels that the other end may know nothing of are tried, and what follows from an answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from agent.trials import TunnelTrials
from bgp.config import Encapsulation, EncapsulationMode, NodeRoutes
from felix.trials import FakeTrials
from inet.prefix import Family
from tests.agent.routing_world import World, running

ALWAYS = Encapsulation(EncapsulationMode.ALWAYS)


class Running:
    """Trials that look as often as the test says."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.kernel = FakeTrials()
        self.pauses: list[float] = []
        self._go = asyncio.Semaphore(0)
        self.trials = TunnelTrials(world.carrier, self.kernel, world.routing.wake, self._sleep)

    async def _sleep(self, seconds: float) -> None:
        if seconds:
            self.pauses.append(seconds)
            await self._go.acquire()
        else:
            await asyncio.sleep(0)

    async def look(self) -> None:
        self._go.release()
        await self.world.settle()


@pytest.fixture(params=list(Family), ids=lambda family: family.label)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    world = World(request.param)
    async with running(world):
        yield world


@pytest.fixture
async def trying(world: World) -> AsyncIterator[Running]:
    trying = Running(world)
    task = asyncio.create_task(trying.trials.run())
    yield trying
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def is_tunnel(world: World, number: int) -> bool:
    wrappings = world.carrier.wrappings()
    return any(wrappings.of(hop) for hop in world.kernel()[world.cidr(number)])


async def test_a_tunnel_is_tried_until_it_is_answered_and_then_used(world: World, trying: Running) -> None:
    await world.configure(mesh_enabled=False, node_routes=NodeRoutes.DIRECT)
    assert trying.pauses == []
    await world.configure(encapsulation=ALWAYS)
    await trying.look()
    assert len(trying.kernel.tried) == 2
    assert not is_tunnel(world, 2)
    trying.kernel.answering = {world.cidr(2).packed}
    await trying.look()
    assert (is_tunnel(world, 2), is_tunnel(world, 3)) == (True, False)
    await trying.look()
    assert {each.far_end for each in trying.kernel.tried} == {world.cidr(3).packed}
    trying.kernel.answering = {world.cidr(3).packed}
    await trying.look()
    assert is_tunnel(world, 3)
    assert trying.pauses == sorted(trying.pauses)


async def test_nothing_is_left_of_trials_when_none_is_to_be_made(world: World, trying: Running) -> None:
    await world.configure(mesh_enabled=False, node_routes=NodeRoutes.DIRECT)
    await world.configure(encapsulation=ALWAYS)
    await trying.look()
    assert trying.kernel.tried
    await world.configure(encapsulation=Encapsulation())
    await trying.look()
    assert trying.kernel.tried == []
    pauses = len(trying.pauses)
    await world.configure(encapsulation=ALWAYS)
    await trying.look()
    assert len(trying.pauses) > pauses
    assert trying.kernel.tried


async def test_routes_that_cannot_be_read_are_said_once(world: World, trying: Running) -> None:
    async def fail(_: object) -> set[bytes]:
        raise OSError(1, "no")

    trying.kernel.answered = fail  # type: ignore[method-assign] # as a kernel that refuses
    await world.configure(mesh_enabled=False, node_routes=NodeRoutes.DIRECT)
    await world.configure(encapsulation=ALWAYS)
    await trying.look()
    await trying.look()
    assert not is_tunnel(world, 2)
