from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Container

import pytest

from agent.policy_cutter import LOOK_REST
from felix.conntrack import Flow
from inet.prefix import Family
from tests.agent.policy_world import FakePolicyKernel, PolicyWorld, enforcing


class SlowKernel(FakePolicyKernel):
    """Takes its time over connections: as long as it is held."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0
        self.may_look = asyncio.Event()
        self.may_look.set()

    async def flows(self, addresses: Container[bytes]) -> list[Flow]:
        self.looks += 1
        await self.may_look.wait()
        return await super().flows(addresses)


@pytest.fixture
async def kernel() -> SlowKernel:
    return SlowKernel()


@pytest.fixture(params=list(Family), ids=lambda family: family.label)
async def world(request: pytest.FixtureRequest, kernel: SlowKernel) -> AsyncIterator[PolicyWorld]:
    async with enforcing(PolicyWorld(request.param, kernel)) as built:
        await built.tell(*built.base(), built.pod("a", 2, app="a"), built.pod("b", 3, app="b"))
        await built.pass_time(10)
        yield built


async def test_a_new_pod_does_not_wait_for_a_look_at_connections(world: PolicyWorld, kernel: SlowKernel) -> None:
    kernel.connections = [world.flow(2, 3)]
    kernel.may_look.clear()
    world.take(world.allow("p", {"app": "b"}))
    await asyncio.wait_for(world.policy.written(), 10)
    world.take(world.pod("c", 4))
    await asyncio.wait_for(world.policy.written(), 10)
    assert world.verdict("to", 4) is not None
    assert kernel.cut_ones == []
    kernel.may_look.set()
    await world.settle()
    assert kernel.cut_ones == [world.flow(2, 3)]


async def test_after_a_look_there_is_a_rest_that_is_as_long_as_looking_took_many_times(
    world: PolicyWorld, kernel: SlowKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def take_a_second(addresses: Container[bytes]) -> list[Flow]:
        world.time += 1
        return await FakePolicyKernel.flows(kernel, addresses)

    monkeypatch.setattr(kernel, "flows", take_a_second)
    await world.tell(world.allow("p", {"app": "b"}))
    kernel.connections = [world.flow(3, 2)]
    await world.tell(world.allow("q", {"app": "a"}))
    assert kernel.cut_ones == []
    await world.pass_time(LOOK_REST)
    assert kernel.cut_ones == [world.flow(3, 2)]


async def test_what_makes_nobody_doubtful_makes_nobody_look(world: PolicyWorld, kernel: SlowKernel) -> None:
    before = kernel.looks
    await world.tell(world.pod("c", 4))
    assert kernel.looks == before
