"""Learned routes: from the first UPDATE of one router to the last of N routes in the kernel."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final

from bench import network, processes
from bench.kernelwatch import Arrivals
from bench.measure import Figures, Results, Settings
from bench.network import Network
from bench.peers import Sender
from bench.sender import Session
from bench.subjects import NODE_ASN, START_S, Bird, GoBgp, Start, Tortie, cpu_by_part, pids
from inet.prefix import Family

NAME: Final = "arrival"
TITLE: Final = "Learned routes: from the first UPDATE to the last route in the kernel"
LAST_ROUTE: Final = ("last route in the kernel", "ms")
CPU: Final = ("CPU", "s")
MEMORY: Final = ("RSS afterwards", "MB")
PEAK: Final = ("RSS at most", "MB")

_ROUTER_ASN: Final = 65100
_DEADLINE_S: Final = 120.0
_SUBJECTS: Final[tuple[Start, ...]] = (Tortie, Bird, GoBgp)


def case_name(count: int, family: Family, *, own_med: bool) -> str:
    """Return what a case is called."""
    return f"{count:,} {'each its own MED' if own_med else 'equal attributes'}, {family.label}"


def run(settings: Settings) -> Iterator[Results]:
    """Yield the figures of each case as it is done."""
    counts = (1000,) if settings.quick else (10_000, 100_000)
    for count, own_med, family in product(counts, (False, True), Family):
        results = Results()
        case = case_name(count, family, own_med=own_med)
        for start in _SUBJECTS:
            once = partial(_round, start, count, family, own_med=own_med)
            results.measure(case, start.name, settings.rounds, once)
        yield results


def _round(start: Start, count: int, family: Family, *, own_med: bool) -> Figures:
    is_gobgp = start is GoBgp
    node, router, sink = (str(network.address(1, host, family)) for host in (1, 2, 3))
    loaded = Session(router, node, _ROUTER_ASN, NODE_ASN, count, own_med, marker=is_gobgp)
    sessions = [loaded, Session(sink, node, _ROUTER_ASN + 1, NODE_ASN)] if is_gobgp else [loaded]
    with Network(1, hosts=2) as net, tempfile.TemporaryDirectory(prefix="bench-") as directory:
        subject = start(net, Path(directory), sessions)
        try:
            with Sender(net.routers[0], sessions) as sender:
                subject.wait_established(len(sessions))
                sender.wait_up(START_S)
                processes.until_quiet(pids(subject))
                with Arrivals(net.node, family, count) as arrivals:
                    before = cpu_by_part(subject)
                    sender.send()
                    first, _ = sender.wait_sent(_DEADLINE_S)
                    last = sender.wait_marker(1, _DEADLINE_S) if is_gobgp else arrivals.wait(_DEADLINE_S)[1]
                processes.until_quiet(pids(subject))
                after = cpu_by_part(subject)
                used = processes.usage(pids(subject))
                subject.verify(family, count)
        finally:
            subject.end()
    cpu_s = {part: after[part] - before[part] for part in after}
    parts = {(f"CPU of {part}", "s"): value for part, value in cpu_s.items()} if len(cpu_s) > 1 else {}
    return {
        LAST_ROUTE: (last - first) / 1e6,
        CPU: sum(cpu_s.values()),
        **parts,
        MEMORY: used.rss_mb,
        PEAK: used.peak_rss_mb,
    }
