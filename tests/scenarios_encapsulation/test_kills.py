"""Agents that are killed in the middle of changes: nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from typing import Final

import pytest

from agent.lab.traffic import route_events, traffic
from agent.lab.wait import eventually
from tests.scenarios import nodes
from tests.scenarios.manifests import bgp_configuration
from tests.scenarios_encapsulation.network import ALWAYS, NEVER, PATIENCE_S, Net

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

MOMENTS: Final = (0, 1, 2, 4, 5, 6)
"""How many routes of it have changed when an agent is killed; there are as many in each change, in some order."""


async def test_not_one_packet_is_lost_while_an_agent_is_killed_in_the_middle_of_changes(net: Net) -> None:
    await net.configure(**NEVER)
    await net.both_become("direct")
    await net.all_reach(("a1", "b1"))
    wishes = itertools.cycle((ALWAYS, NEVER))
    async with traffic(net.lab, "a1", "b1") as streams, route_events(net.lab, "n1") as events:
        for number, (moment, wish) in enumerate(zip(MOMENTS, wishes, strict=False)):
            happened = len(events["n1"].lines)
            net.write(bgp_configuration(maxPaths=number + 1), **wish)
            # With all of a change done before the moment comes there is nothing to wait for.
            with contextlib.suppress(TimeoutError):
                await eventually(
                    lambda moment=moment, happened=happened: len(events["n1"].lines) >= happened + moment,
                    every_s=0.001,
                    within_s=10,
                )
            await net.lab.restart("n1", signal.SIGKILL)
            await net.both_become("VXLAN" if wish is ALWAYS else "direct")
        await asyncio.sleep(0)
    for each in streams.values():
        assert not each.lost, str(each)


async def test_not_one_packet_is_lost_while_both_agents_and_their_speakers_are_killed(net: Net) -> None:
    """From routes of Node objects to those of BGP and back, each change cut short."""
    await net.configure(**NEVER)
    await net.both_become("direct")
    await net.all_reach(("a1", "b1"))

    async def kill_exabgp() -> None:
        async def kill() -> bool:
            nodes.exabgp_of(net.lab, "n2").send(signal.SIGKILL)
            return True

        await eventually(kill, within_s=PATIENCE_S, what="a speaker to kill")

    async with traffic(net.lab, "a1", "b1") as streams:
        for wish in ({"nodeRoutes": "BGP"} | ALWAYS, {"nodeRoutes": "BGP"} | NEVER, ALWAYS, NEVER):
            net.write(**wish)
            await asyncio.gather(net.lab.restart("n1", signal.SIGKILL), kill_exabgp())
            await net.lab.restart("n2", signal.SIGKILL)
            await net.both_become("VXLAN" if wish["encapsulation"]["mode"] == "Always" else "direct")
    for each in streams.values():
        assert not each.lost, str(each)
