from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator

import pytest

from bench import load, network
from bench.kernelwatch import Arrivals, Failover, Recorder
from bench.measure import BenchError
from bench.network import Network, Switch
from inet.prefix import Family, Prefix

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and ip (iproute2)"),
]

COUNT = 200
FIRST = 11  # ifindex of eth1


@pytest.fixture
def net() -> Iterator[Network]:
    with Network(2) as network:
        yield network


def hop(cable: int, family: Family) -> str:
    return f"nexthop via {network.address(cable, 2, family)} dev eth{cable}"


def batch(net: Network, family: Family, lines: list[str]) -> None:
    version = "-4" if family is Family.IPV4 else "-6"
    network.run("ip", version, "-n", net.node, "-batch", "-", text="\n".join(lines))


def both(family: Family) -> list[str]:
    hops = f"{hop(1, family)} {hop(2, family)}"
    return [f"route add {prefix} {hops}" for prefix in load.prefixes(family, COUNT)]


def route_by_group(net: Network, family: Family) -> None:
    network.run("ip", "netns", "exec", net.node, "sysctl", "-qw", "net.ipv4.nexthop_compat_mode=0")
    batch(net, family, [f"nexthop add id {cable} {hop(cable, family).removeprefix('nexthop ')}" for cable in (1, 2)])
    network.batch(net.node, ["nexthop add id 3 group 1/2"])
    batch(net, family, [f"route add {prefix} nhid 3" for prefix in load.prefixes(family, COUNT)])


def eventually(recorder: Recorder, wanted: list[Prefix]) -> Failover:
    """Judge until it is good, or the deadline has passed."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return recorder.judge(wanted, dead=FIRST)
        except BenchError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def test_arrivals_end_with_the_last_route(net: Network, family: Family) -> None:
    lines = both(family)
    with Arrivals(net.node, family, COUNT) as arrivals:
        batch(net, family, lines[:-1])
        with pytest.raises(BenchError, match=f"{COUNT - 1} of {COUNT}"):
            arrivals.wait(0.1)
        before = time.monotonic_ns()
        batch(net, family, lines[-1:])
        first, last = arrivals.wait(5)
    assert first < before < last < time.monotonic_ns()


def test_routes_rewritten_one_by_one_are_done_with_the_last_one(net: Network, family: Family) -> None:
    batch(net, family, both(family))
    wanted = list(load.prefixes(family, COUNT))
    with Recorder(net.node, family) as recorder:
        lines = [f"route replace {prefix} {hop(2, family).removeprefix('nexthop ')}" for prefix in wanted]
        batch(net, family, lines[:-1])
        with pytest.raises(BenchError, match="1 routes still use the dead next hop"):
            eventually_all_but_one(recorder, wanted)
        before = time.monotonic_ns()
        batch(net, family, lines[-1:])
        outcome = eventually(recorder, wanted)
    assert before < outcome.done_at < time.monotonic_ns()
    assert (outcome.route_events, outcome.missing_most) == (COUNT, 0)


def eventually_all_but_one(recorder: Recorder, wanted: list[Prefix]) -> None:
    """Give the recorder time to hear of all but the last route, then judge."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(BenchError):
            recorder.judge(wanted[:-1], dead=FIRST)
            break
    recorder.judge(wanted, dead=FIRST)


def test_routes_that_were_gone_for_a_while_are_counted(net: Network, family: Family) -> None:
    batch(net, family, both(family))
    wanted = list(load.prefixes(family, COUNT))
    with Recorder(net.node, family) as recorder:
        batch(net, family, [f"route del {prefix}" for prefix in wanted[:7]])
        batch(net, family, [f"route replace {prefix} {hop(2, family).removeprefix('nexthop ')}" for prefix in wanted])
        outcome = eventually(recorder, wanted)
    assert outcome.missing_most == 7


def test_a_group_edited_in_place_moves_all_its_routes_without_a_route_event(net: Network, family: Family) -> None:
    route_by_group(net, family)
    wanted = list(load.prefixes(family, COUNT))
    with Recorder(net.node, family) as recorder:
        with pytest.raises(BenchError, match=f"{COUNT} routes still use the dead next hop"):
            recorder.judge(wanted, dead=FIRST)
        before = time.monotonic_ns()
        network.batch(net.node, ["nexthop replace id 3 group 2"])
        outcome = eventually(recorder, wanted)
    assert before < outcome.done_at
    assert outcome.route_events == 0


def test_a_hop_that_the_kernel_takes_out_of_a_group_is_seen(net: Network, family: Family) -> None:
    route_by_group(net, family)
    wanted = list(load.prefixes(family, COUNT))
    with Recorder(net.node, family) as recorder:
        before = time.monotonic_ns()
        Switch(net.routers[0], "eth0").off()
        outcome = eventually(recorder, wanted)
    assert before < outcome.done_at
