"""Wishes to be drained, kept; what they do to announcements is seen on the whole routing loop."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.draining import COMMAND, TAINT, DrainError, Draining
from bgp.import_rules import GRACEFUL_SHUTDOWN
from tests.agent.routing_world import World, running

WALL = 1_700_000_000.0


def draining_of(world: World, directory: Path) -> Draining:
    """An agent's wishes, as it finds them when it starts."""
    return Draining(world.routing, directory / "drain.json", now=world.now, wall=lambda: WALL + world.time)


async def two_peers(world: World) -> None:
    """A mesh peer of ours and a router of another AS."""
    await world.with_routers(11)
    await world.configure(mesh_enabled=True)
    for peer in (2, 11):
        await world.up(peer)


async def test_a_draining_node_is_everybodys_last_choice_and_then_withdrawn(world: World, tmp_path: Path) -> None:
    await two_peers(world)
    draining_of(world, tmp_path).drain(30, "")
    await world.settle()
    told = {number: world.speaker.adj_rib_out[world.host(number)][world.cidr(1)] for number in (2, 11)}
    assert all(GRACEFUL_SHUTDOWN in attributes.communities for attributes in told.values())
    assert (told[2].local_pref, told[11].local_pref) == (0, None)
    await world.pass_time(29)
    assert world.speaker.adj_rib_out[world.host(2)]
    await world.pass_time(1)
    assert not world.speaker.adj_rib_out[world.host(2)]
    assert not world.speaker.adj_rib_out[world.host(11)]


async def test_undrain_announces_as_before(world: World, tmp_path: Path) -> None:
    await two_peers(world)
    before = {number: dict(world.speaker.adj_rib_out[world.host(number)]) for number in (2, 11)}
    for seconds in (0, 60):
        draining = draining_of(world, tmp_path)
        draining.drain(30, "")
        await world.pass_time(seconds)
        draining.undrain()
        await world.settle()
        assert {number: world.speaker.adj_rib_out[world.host(number)] for number in (2, 11)} == before


async def test_what_a_transit_node_passes_on_goes_the_same_way(world: World, tmp_path: Path) -> None:
    await world.with_routers(11, 12, nodes={"n1": world.node(1, is_transit=True)}, pod_cidrs=(world.cidr(2),))
    for router in (11, 12):
        await world.up(router)
        await world.hear(router, [])
    await world.hear(11, [world.cidr(2)], path=[65100, 65002], communities=((65000, 7),))
    draining_of(world, tmp_path).drain(30, "")
    await world.settle()
    told = world.speaker.adj_rib_out[world.host(12)][world.cidr(2)]
    assert told.communities == ((65000, 7), GRACEFUL_SHUTDOWN)
    await world.pass_time(30)
    assert not world.speaker.adj_rib_out[world.host(12)]
    await world.hear(11, [world.cidr(3)], path=[65100, 65003])
    assert not world.speaker.adj_rib_out[world.host(12)]


async def test_an_agent_that_restarts_in_the_middle_goes_on_where_it_was(world: World, tmp_path: Path) -> None:
    draining_of(world, tmp_path).drain(30, "cable work")
    world.time += 10
    async with running(World(world.family)) as after:
        after.time = world.time
        draining_of(after, tmp_path)
        await after.configure()
        await after.up(2)
        assert GRACEFUL_SHUTDOWN in after.speaker.adj_rib_out[after.host(2)][after.cidr(1)].communities
        await after.pass_time(20)
        assert not after.speaker.adj_rib_out[after.host(2)]


async def test_an_agent_that_restarts_drained_announces_nothing_first(world: World, tmp_path: Path) -> None:
    draining_of(world, tmp_path).drain(0, "")
    async with running(World(world.family)) as after:
        draining_of(after, tmp_path)
        await after.configure()
        await after.up(2)
        assert not [word for word in after.speaker.log if word[0] == "announce"]


async def test_a_taint_drains_until_it_goes(world: World, tmp_path: Path) -> None:
    await two_peers(world)
    draining = draining_of(world, tmp_path)
    draining.follow(world.node(1, drain_wait_s=20.0))
    await world.pass_time(10)
    draining.follow(world.node(1, drain_wait_s=20.0))  # heard of again: it does not begin anew
    await world.pass_time(10)
    assert not world.speaker.adj_rib_out[world.host(2)]
    with pytest.raises(DrainError, match=r"taint tortie\.dev/drain; remove that"):
        draining.undrain()
    draining.follow(world.node(1))
    await world.settle()
    assert world.speaker.adj_rib_out[world.host(2)][world.cidr(1)].communities == ()


async def test_a_command_is_not_ended_by_the_end_of_a_taint(world: World, tmp_path: Path) -> None:
    draining = draining_of(world, tmp_path)
    draining.drain(60, "")
    draining.follow(world.node(1, drain_wait_s=20.0))
    assert world.routing.drain.wishes.keys() == {COMMAND, TAINT}
    draining.follow(world.node(1))
    assert world.routing.drain.wishes.keys() == {COMMAND}


async def test_what_is_not_drained_cannot_be_undrained(world: World, tmp_path: Path) -> None:
    with pytest.raises(DrainError, match="the node is not drained"):
        draining_of(world, tmp_path).undrain()


async def test_a_drain_that_cannot_be_remembered_says_so_and_happens(world: World, tmp_path: Path) -> None:
    draining = Draining(world.routing, tmp_path / "nowhere" / "drain.json", now=world.now)
    with pytest.raises(DrainError, match=r"a restart will not know: .*No such file"):
        draining.drain(60, "")
    assert world.routing.drain.wishes


async def test_a_broken_file_is_no_drain(world: World, tmp_path: Path) -> None:
    (tmp_path / "drain.json").write_text("{half")
    draining_of(world, tmp_path)
    assert not world.routing.drain.wishes
