"""After a restart: what the table says of pods that no object speaks of."""

from __future__ import annotations

import pytest

from agent.objects.kinds import Keyed
from felix.monitor import LinkChanged
from inet.prefix import Family
from tests.agent.policy_world import PolicyWorld, enforcing

NUMBERS = range(2, 12)


def pods(world: PolicyWorld, *numbers: int) -> list[Keyed]:
    return [world.pod(f"p{number}", number, app="web") for number in numbers]


@pytest.fixture(params=list(Family), ids=lambda family: family.label)
async def restarted(request: pytest.FixtureRequest) -> PolicyWorld:
    """A node with ten pods under rules, whose links are there, and whose agent has just started anew."""
    world = PolicyWorld(request.param)
    world.kernel.links = {world.address(number): number for number in NUMBERS}
    async with enforcing(world):
        await world.tell(*world.base(), *pods(world, *NUMBERS), world.allow("web", {"app": "web"}))
        assert world.policy.is_in_kernel
    world.kernel.table.written.clear()
    return PolicyWorld(world.family, world.kernel)


async def tell_few(world: PolicyWorld, full_lists: int = 1) -> None:
    await world.tell(*world.base(), *pods(world, 2, 3), world.allow("web", {"app": "web"}), full_lists=full_lists)


async def test_most_living_pods_missing_leaves_the_table_as_it_is_and_says_so(restarted: PolicyWorld) -> None:
    async with enforcing(restarted) as world:
        await tell_few(world)
        assert world.kernel.table.written == []
        assert world.verdict("to", 9) is not None
        assert "8 of 10 pods that are alive on this node are missing" in world.policy.problems[0]
        assert not world.policy.is_in_kernel


async def test_a_second_full_list_without_them_is_believed(restarted: PolicyWorld) -> None:
    async with enforcing(restarted) as world:
        await tell_few(world)
        await tell_few(world, full_lists=2)
        assert world.verdict("to", 9) is None
        assert world.verdict("to", 2) is not None
        assert world.policy.problems == []
        assert world.policy.is_in_kernel


async def test_the_missing_objects_come_and_nothing_was_ever_written(restarted: PolicyWorld) -> None:
    async with enforcing(restarted) as world:
        await tell_few(world)
        await world.tell(*pods(world, *NUMBERS))
        assert world.policy.is_in_kernel
        assert world.kernel.table.written == []


async def test_after_the_first_minutes_what_is_missing_is_gone(restarted: PolicyWorld) -> None:
    async with enforcing(restarted) as world:
        await tell_few(world)
        await world.pass_time(301)
        assert world.verdict("to", 9) is None
        assert world.policy.is_in_kernel


async def test_pods_whose_links_are_gone_were_alive_no_more(restarted: PolicyWorld) -> None:
    restarted.kernel.links = {restarted.address(number): number for number in (2, 3)}
    async with enforcing(restarted) as world:
        await tell_few(world)
        assert world.verdict("to", 9) is None
        assert world.policy.is_in_kernel


async def test_pods_that_die_while_they_are_held_are_let_go(restarted: PolicyWorld) -> None:
    async with enforcing(restarted) as world:
        await tell_few(world)
        world.kernel.links = {world.address(number): number for number in (2, 3)}
        world.policy.hear([LinkChanged(13, "veth13", is_up=True)])
        await world.settle()
        assert world.verdict("to", 9) is None
        assert world.policy.is_in_kernel
