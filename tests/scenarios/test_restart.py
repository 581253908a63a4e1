"""What a node is made of stops and starts: no packet between pods is lost, and no route of any machine is touched."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

import pytest

from agent.lab.kernelroutes import kernel_routes
from agent.lab.lab import Lab
from agent.lab.processes import Process
from agent.lab.traffic import RouteEvents, Stream, route_events, traffic
from agent.lab.wait import eventually
from inet.prefix import Family
from tests.scenarios import nodes
from tests.scenarios.scenes import MESH, RACKS
from tests.scenarios.stage import Stage, on

pytestmark = [pytest.mark.interop, on(MESH, RACKS)]

PODS: Final = {"mesh": ("p2", "p4", "p5"), "racks": ("p2", "p3")}
"""The pods that p1 talks with: on a node like ours, on BIRD's and FRR's; in the same rack, in the other one."""


async def restart_agent(lab: Lab, *, by: signal.Signals) -> None:
    """Stop n1's agent and start it again."""
    await lab.restart("n1", by)


async def kill_part(lab: Lab, *, part: Callable[[Lab, str], Process]) -> None:
    """Kill one of the processes that n1's agent keeps, and wait until it has noticed."""
    before = (await nodes.status(lab, "n1")).speaker_restarts
    part(lab, "n1").send(signal.SIGKILL)
    await eventually(partial(nodes.status, lab, "n1"), lambda report: report.speaker_restarts > before)


FAULTS: Final[Mapping[str, Callable[[Lab], Awaitable[None]]]] = {
    "agent-stopped": partial(restart_agent, by=signal.SIGTERM),
    "agent-killed": partial(restart_agent, by=signal.SIGKILL),
    "exabgp-killed": partial(kill_part, part=nodes.exabgp_of),
    "bridge-killed": partial(kill_part, part=nodes.bridge_of),
}


@asynccontextmanager
async def watched(lab: Lab, stage: Stage) -> AsyncIterator[tuple[list[Stream], Mapping[str, RouteEvents]]]:
    """Send between p1 and other pods every 10 ms, in both families, and record every route event of every machine."""
    streams: list[Stream] = []
    async with AsyncExitStack() as stack:
        events = await stack.enter_async_context(route_events(lab, *lab.plan.nodes, *lab.topology.routers))
        for pod in PODS[stage.scene.name]:
            both = await stack.enter_async_context(traffic(lab, "p1", pod, flows=stage.scene.ways))
            streams += both.values()
        yield streams, events


def lost(streams: list[Stream]) -> list[str]:
    """Return what was lost."""
    return [str(stream) for stream in streams if stream.lost]


def touched(events: Mapping[str, RouteEvents]) -> list[str]:
    """Return what was done to routes."""
    return [str(recorder) for recorder in events.values() if recorder.lines]


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_restart_loses_no_packet_and_touches_no_route(net: Lab, stage: Stage, fault: str) -> None:
    before = frozenset(await kernel_routes(net, "n1"))
    async with watched(net, stage) as (streams, events):
        await FAULTS[fault](net)
        await stage.settled(net)
    assert not lost(streams)
    assert not touched(events)
    assert frozenset(await kernel_routes(net, "n1")) == before
    assert all(stream.sent > 50 for stream in streams)


async def test_without_graceful_restart_the_same_restart_is_felt(net: Lab, stage: Stage) -> None:
    """The control: the test above is not blind."""
    await stage.without_graceful_restart(net)
    async with watched(net, stage) as (streams, events):
        await FAULTS["agent-killed"](net)
        await stage.settled(net)
    assert {stream.family for stream in streams if stream.lost} == set(Family)
    assert touched(events)


STOP_S: Final = 2
"""What is promised. It is half a second's work."""


async def test_sigterm_ends_the_agent_within_two_seconds_and_leaves_its_routes(net: Lab, stage: Stage) -> None:
    agent, exabgp, bridge = nodes.agent_of(net, "n1"), nodes.exabgp_of(net, "n1"), nodes.bridge_of(net, "n1")
    before = {machine: frozenset(await kernel_routes(net, machine)) for machine in net.plan.nodes}
    async with watched(net, stage) as (streams, events):
        agent.send(signal.SIGTERM)
        assert await agent.ended(within_s=STOP_S)
        assert not exabgp.is_alive  # the agent has waited for it
        assert await bridge.ended(within_s=STOP_S)
        for machine, routes in before.items():
            assert frozenset(await kernel_routes(net, machine)) == routes
        assert any(route.protocol == "97" for route in before["n1"])
        await net.start("n1")
        await stage.settled(net)
    assert not lost(streams)
    assert not touched(events)
