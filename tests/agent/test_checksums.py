"""When it is tried out whether checksums in tunnels arrive whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from agent.checksums import PAUSES_S, ChecksumKeeper
from bgp.config import Encapsulation, EncapsulationMode, NodeRoutes, TunnelType
from felix.offload import Verdict
from inet.prefix import Family, IPAddress
from tests.agent.routing_world import World, running
from tests.agent.tunnel_world import ALWAYS, device


class Trial:
    def __init__(self, world: World) -> None:
        self.asked: list[Sequence[IPAddress]] = []
        self.device = device(world).name
        self.verdict = Verdict.UNKNOWN
        self.keeper = ChecksumKeeper(world.carrier, self.find)

    async def find(self, interface: str, far_ends: Sequence[IPAddress]) -> Verdict:
        assert interface == self.device
        self.asked.append(far_ends)
        return self.verdict


@pytest.fixture(params=list(Family), ids=lambda family: family.label)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    world = World(request.param)
    async with running(world):
        yield world


async def test_the_far_ends_of_tunnels_are_asked_until_it_is_known(world: World) -> None:
    trial = Trial(world)
    await trial.keeper.look()
    assert trial.asked == []
    await world.configure(encapsulation=ALWAYS, mesh_enabled=False)
    for _ in range(2):
        await trial.keeper.look()
    ends = [world.cidr(number).packed for number in (2, 3)]
    assert [[end.packed for end in asked] for asked in trial.asked] == [ends, ends]
    trial.verdict = Verdict.WORKS
    for _ in range(2):
        await trial.keeper.look()
    assert len(trial.asked) == 3
    assert trial.keeper.verdict is Verdict.WORKS
    assert not world.tunnels.has_broken_checksums


async def test_an_end_that_is_tried_is_asked_since_it_may_not_answer_for_that(world: World) -> None:
    await world.configure(mesh_enabled=False, node_routes=NodeRoutes.DIRECT)
    await world.configure(encapsulation=ALWAYS)
    trial = Trial(world)
    await trial.keeper.look()
    assert [{end.packed for end in asked} for asked in trial.asked] == [{world.cidr(2).packed, world.cidr(3).packed}]


async def test_what_was_found_broken_is_kept_for_the_device_that_comes_after(world: World) -> None:
    await world.configure(encapsulation=ALWAYS, mesh_enabled=False)
    trial = Trial(world)
    trial.verdict = Verdict.BROKEN
    await trial.keeper.look()
    assert world.tunnels.has_broken_checksums
    assert trial.keeper.verdict is Verdict.BROKEN


async def test_ip_in_ip_has_nothing_to_try(world: World) -> None:
    await world.configure(encapsulation=Encapsulation(EncapsulationMode.ALWAYS, TunnelType.IPIP), mesh_enabled=False)
    trial = Trial(world)
    await trial.keeper.look()
    assert trial.asked == []


async def test_a_node_that_nobody_answers_asks_less_and_less_often(world: World) -> None:
    await world.configure(encapsulation=ALWAYS, mesh_enabled=False)
    trial = Trial(world)
    pauses: list[float] = []

    class EnoughError(Exception):
        pass

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 8:
            world.tunnels.break_(device(world), "gone")
            await world.tunnels.mend()
        if len(pauses) == 9:
            raise EnoughError

    keeper = ChecksumKeeper(world.carrier, trial.find, sleep)
    with pytest.raises(EnoughError):
        await keeper.run()
    assert pauses == [PAUSES_S[0], PAUSES_S[0], *PAUSES_S[1:], PAUSES_S[-1], PAUSES_S[-1], PAUSES_S[0]]
