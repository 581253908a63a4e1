"""Two routers announce the same N prefixes; one dies: how long until every route uses only the other one."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final

from bench import load, network, probe, processes
from bench.kernelwatch import Arrivals, Recorder
from bench.measure import BenchError, Figures, Results, Settings
from bench.network import Network, Switch
from bench.peers import Sender
from bench.probe import Probe
from bench.sender import Session
from bench.subjects import NODE_ASN, START_S, Bird, Start, Subject, Tortie, pids
from inet.prefix import Family

NAME: Final = "failover"
TITLE: Final = "One of two next hops dies"
SURVIVOR: Final = ("last route on the survivor", "ms")
LOST: Final = ("loss at a packet each 0.1 ms", "ms")
CPU: Final = ("CPU", "s")
EVENTS: Final = ("route events", "")
MISSING: Final = ("routes missing in between", "")

CEASE, LINK_DOWN = "session closed by Cease", "link down"
_ROUTER_ASN: Final = 65100
_SUBJECTS: Final[tuple[Start, ...]] = (Tortie, Bird)
_AFTER_S: Final = 2.0  # watched after the event


def case_name(count: int, event: str, family: Family) -> str:
    """Return what a case is called."""
    return f"{count:,} routes, {event}, {family.label}"


def run(settings: Settings) -> Iterator[Results]:
    """Yield the figures of each case as it is done."""
    count = 1000 if settings.quick else 10_000
    for event, family in product((CEASE, LINK_DOWN), Family):
        results = Results()
        for start in _SUBJECTS:
            once = partial(_round, start, count, event, family)
            results.measure(case_name(count, event, family), start.name, settings.rounds, once)
        yield results


def _round(start: Start, count: int, event: str, family: Family) -> Figures:
    sessions = [
        Session(str(network.address(cable, 2, family)), str(network.address(cable, 1, family)), _ROUTER_ASN, NODE_ASN,
                count) for cable in (1, 2)
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(Network(2))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        for router in net.routers:
            probe.own_everything(router)
        subject = start(net, directory, sessions)
        stack.callback(subject.end)
        senders = [
            stack.enter_context(Sender(router, [session]))
            for router, session in zip(net.routers, sessions, strict=True)
        ]
        _load(net, subject, senders, count, family)
        wanted = list(load.prefixes(family, count))
        with Recorder(net.node, family) as recorder, Probe(net.node, net.routers, family, count, _AFTER_S) as stream:
            both = recorder.using({11, 12}, wanted)
            if both != count:
                raise BenchError(f"{both} of {count} routes have both next hops before the failure")
            stream.wait_flowing()
            cpu_before = processes.cpu_s(pids(subject))
            at = _fail(net, senders, event)
            lost = stream.lost()
            processes.until_quiet(pids(subject))
            cpu_after = processes.cpu_s(pids(subject))
        outcome = recorder.judge(wanted, dead=11)
        _verify(net, family, count)
    return {
        SURVIVOR: max(0.0, (outcome.done_at - at) / 1e6),
        LOST: lost * probe.INTERVAL_MS,
        CPU: cpu_after - cpu_before,
        EVENTS: outcome.route_events,
        MISSING: outcome.missing_most,
    }


def _load(net: Network, subject: Subject, senders: list[Sender], count: int, family: Family) -> None:
    subject.wait_established(len(senders))
    for sender in senders:
        sender.wait_up(START_S)
    with Arrivals(net.node, family, count) as arrivals:
        for sender in senders:
            sender.send()
        for sender in senders:
            sender.wait_sent()
        arrivals.wait(60.0)
    subject.wait_settled()
    processes.until_quiet(pids(subject))


def _fail(net: Network, senders: list[Sender], event: str) -> int:
    """Make the first router die; return when."""
    if event == CEASE:
        return senders[0].cease()
    switch = Switch(net.routers[0], "eth0")
    at = time.monotonic_ns()
    switch.off()
    return at


def _verify(net: Network, family: Family, count: int) -> None:
    """Ask the kernel by another program which way a packet to each prefix would go."""
    version = ["-6"] if family is Family.IPV6 else []
    lines = [f"route get {str(prefix).partition('/')[0]}" for prefix in load.prefixes(family, count)]
    said = network.run("ip", *version, "-n", net.node, "-batch", "-", text="\n".join(lines))
    survivor = f"via {network.address(2, 2, family)} dev eth2"
    right = said.count(survivor)
    if right != count:
        raise BenchError(f"ip route get shows {right} of {count} prefixes through the survivor")
