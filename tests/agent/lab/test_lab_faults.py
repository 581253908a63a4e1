from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from agent.lab.namespaces import CommandError
from agent.lab.prober import STRAGGLERS_S
from agent.lab.state import LabError
from agent.lab.status import look
from agent.lab.traffic import route_events, traffic
from agent.lab.wait import eventually
from inet.prefix import Family
from tests.agent.lab.two_routers import has_carrier, loses_carrier, settled, two_routers, ways
from tests.lab import BuildLab

pytestmark = pytest.mark.interop


async def test_a_cut_link_takes_carrier_and_traffic_finds_the_other_way(lab: BuildLab) -> None:
    net = await lab(two_routers())
    await settled(net)
    await net.fail_link("n1", "r1")
    await loses_carrier(net, "n1")
    for prefix in ("10.42.1.0/24", "fd42:0:0:1::/64"):
        await eventually(partial(ways, net, "n1", prefix), {"eth1"}.__eq__)
    for prefix in ("10.42.0.0/24", "fd42::/64"):
        await eventually(partial(ways, net, "n2", prefix), {"eth1"}.__eq__)
    async with traffic(net, "a1", "b1") as streams:
        await net.run("a1", "ping", "-c5", "-i0.05", "-W2", "b1")
    assert not any(stream.lost for stream in streams.values()), [*map(str, streams.values())]
    await net.heal_link("n1", "r1")
    await settled(net)


async def test_a_silent_link_is_found_by_the_hold_timer(lab: BuildLab) -> None:
    net = await lab(two_routers(holdTimeSeconds=3))
    await settled(net)
    await net.fail_link("n1", "r1", silent=True)
    assert "NO-CARRIER" not in await net.run("n1", "ip", "link", "show", "eth0")
    peer = net.address("r1", Family.IPV4)
    down = await eventually(partial(net.sessions, "n1"), lambda them: not them[peer].is_established)
    assert "Hold timer expired" in down[peer].last_error
    await net.heal_link("n1", "r1")
    await settled(net)


async def test_packets_lost_are_counted_with_their_time(lab: BuildLab) -> None:
    topology = two_routers()
    topology["links"] = [["n1", "r1"], ["n2", "r1"]]
    del topology["routers"]["r2"]
    net = await lab(topology)
    for family in ("-4", "-6"):
        await eventually(partial(net.run, "a1", "ping", family, "-c1", "-W1", "b1"))
    async with traffic(net, "a1", "b1", flows=2) as streams:
        await net.run("a1", "ping", "-c5", "-i0.05", "-W2", "b1")
        began = datetime.now(UTC)
        await net.fail_link("n1", "r1", silent=True)
        with pytest.raises(CommandError, match="100% packet loss"):
            await net.run("a1", "ping", "-c5", "-i0.05", "-W0.1", "b1")
        await net.heal_link("n1", "r1")
        ended = datetime.now(UTC)
        await net.run("a1", "ping", "-c5", "-i0.05", "-W2", "b1")
    for stream in streams.values():
        assert 0 < len(stream.lost) < stream.sent, str(stream)
        assert {loss.flow for loss in stream.lost} == {0, 1}
        # A packet sent just before the fault may be lost by it, or its answer, which a busy machine is late with.
        assert all(began - timedelta(seconds=STRAGGLERS_S) < loss.sent_at < ended for loss in stream.lost), str(stream)


@pytest.mark.parametrize("daemon", ["bird", "frr"])
async def test_a_router_without_power_comes_back(lab: BuildLab, daemon: str) -> None:
    net = await lab(two_routers(daemon))
    await settled(net)
    await net.power_off("r1")
    await loses_carrier(net, "n2")
    await eventually(partial(ways, net, "n1", "10.42.1.0/24"), {"eth1"}.__eq__)
    status = await look(net)
    assert {machine.name: machine.state for machine in status.machines}["r1"] == "off"
    await net.restart("r1")
    await settled(net)


async def test_a_link_that_was_cut_stays_cut_when_its_machine_comes_back(lab: BuildLab) -> None:
    net = await lab(two_routers())
    await net.fail_link("n1", "r1")
    await net.power_off("r1")
    await net.power_on("r1")
    await loses_carrier(net, "n1")
    await eventually(partial(has_carrier, net, "n2"), what="n2 with carrier")


async def test_a_router_restarts_without_a_packet_lost(lab: BuildLab) -> None:
    net = await lab(two_routers())
    await settled(net)
    async with traffic(net, "a1", "b1") as streams, route_events(net, "n1", "n2") as events:
        await net.restart("r1")
        await settled(net)
    assert not any(stream.lost for stream in streams.values()), [*map(str, streams.values())]
    assert not any(recorder.lines for recorder in events.values()), [*map(str, events.values())]


async def test_without_graceful_restart_a_restart_is_seen(lab: BuildLab) -> None:
    """The control of the test above: it must not be blind."""
    net = await lab(two_routers(gracefulRestart=False))
    await settled(net)
    async with route_events(net, "n1") as events:
        await net.restart("r1")
        await settled(net)
    assert events["n1"].lines


async def test_a_killed_process_stays_dead_and_links_stay_up(lab: BuildLab) -> None:
    net = await lab(two_routers())
    await net.kill("r1")
    assert not net.is_running("r1")
    assert "NO-CARRIER" not in await net.run("n1", "ip", "link", "show", "eth0")
    with pytest.raises(LabError, match="nothing was started on r1"):
        await net.kill("r1")
    await net.start("r1")
    with pytest.raises(LabError, match="r1 runs already"):
        await net.start("r1")
