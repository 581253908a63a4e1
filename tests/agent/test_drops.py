from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from agent import metrics
from agent.cli.drops import line
from agent.drops import DropWatch
from agent.objects.kinds import Keyed
from agent.objects.policy_objects import update_of
from felix.nft.drops import Drop, Drops
from inet.prefix import Family
from policy.compiler import Update
from policy.nftskeleton import NO_POLICYS_DOING
from tests.agent.policy_world import PolicyWorld


class Log:
    """Packets that were dropped, for ever after."""

    def __init__(self, *batches: Drops) -> None:
        self.batches_left = list(batches)

    async def batches(self) -> AsyncIterator[Drops]:
        for batch in self.batches_left:
            yield batch


@pytest.fixture(params=list(Family), ids=lambda family: family.label)
def world(request: pytest.FixtureRequest) -> PolicyWorld:
    world = PolicyWorld(request.param)
    engine = world.policy.engine
    for item in (*world.base(), world.pod("a", 2, app="a"), world.pod("b", 3, app="b")):
        engine.apply(_update(item))
    engine.apply(_update(world.allow("p", {"app": "b"}, {"app": "c"})))
    engine.flush()
    return world


def _update(item: Keyed) -> Update:
    update = update_of(item)
    assert update is not None
    return update


def watch(world: PolicyWorld, *batches: Drops) -> DropWatch:
    return DropWatch("n1", world.policy.engine, Log(*batches), now=lambda: 43201.0)


def drop(world: PolicyWorld, client: int, server: int, port: int | None = 80) -> Drop:
    return Drop("tortie ingress", world.address(client), world.address(server), 6, port, 1)


async def test_a_drop_is_told_with_pods_and_policy(world: PolicyWorld) -> None:
    told = watch(world, Drops(Counter({drop(world, 2, 3): 41}), 0))
    await told.run()
    (report,) = told.recent
    assert line(report) == "12:00:01  n1  x/a → x/b:80 TCP  ingress  NetworkPolicy x/p  no rule matched  ×41"  # noqa: RUF001 - so it is printed


async def test_somebody_unknown_is_told_by_address(world: PolicyWorld) -> None:
    told = watch(world, Drops(Counter({drop(world, 99, 3, None): 1}), 0))
    await told.run()
    assert line(told.recent[0]).startswith(f"12:00:01  n1  {world.text(99)} → x/b TCP  ingress  ")


@pytest.mark.parametrize("reason", NO_POLICYS_DOING)
async def test_what_no_policy_denied_is_told_with_its_reason_and_the_link_it_came_by(
    world: PolicyWorld, reason: str
) -> None:
    told = watch(world, Drops(Counter({drop(world, 99, 3)._replace(prefix=f"tortie {reason}"): 3}), 0))
    counted = metrics.DROPS.labels(reason, "", "")
    before = counted._value.get()
    await told.run()
    (report,) = told.recent
    assert (report.reason, report.direction, report.policy, report.interface) == (reason, "", "", "lo")
    assert line(report) == f"12:00:01  n1  {world.text(99)} → x/b:80 TCP  {NO_POLICYS_DOING[reason]}  on lo  ×3"  # noqa: RUF001 - so it is
    assert counted._value.get() - before == 3


async def test_a_link_that_is_gone_has_no_name(world: PolicyWorld) -> None:
    gone = drop(world, 99, 3)._replace(prefix="tortie spoofed", interface_in=2**31 - 1)
    told = watch(world, Drops(Counter({gone: 1}), 0))
    await told.run()
    assert line(told.recent[0]).endswith("  source is not the pod's own")


async def test_what_policy_allows_by_now_is_said_to_be(world: PolicyWorld) -> None:
    told = watch(world, Drops(Counter({drop(world, 3, 2): 1}), 0))
    await told.run()
    assert (told.recent[0].policy, told.recent[0].rule) == ("", "allowed by now")


async def test_a_packet_that_is_not_of_ip_is_told_without_names(world: PolicyWorld) -> None:
    told = watch(world, Drops(Counter({Drop("tortie egress", b"", b"", 0, None, 0): 1}), 0))
    await told.run()
    assert (told.recent[0].source, told.recent[0].policy) == ("?", "")


async def test_followers_get_each_report_and_those_who_left_none(world: PolicyWorld) -> None:
    told = watch(world, Drops(Counter({drop(world, 2, 3): 1}), 0))
    with told.following():
        pass
    with told.following() as queue:
        await told.run()
        assert (await asyncio.wait_for(queue.get(), 5)).destination == "x/b"
    assert not told._followers
