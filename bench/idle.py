"""What it costs to do nothing: sessions up, a route from each peer, then silence but for keepalives.

The peers are one sender with as many iBGP sessions, to Tortie the nodes of a mesh. All subjects idle at the same
time, each in a network of its own. One window of a minute is an average of its own: there are no further rounds.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench import network, processes
from bench.measure import BenchError, Figures, Results, Settings
from bench.network import Network
from bench.peers import Sender
from bench.processes import Usage
from bench.sender import Session
from bench.subjects import NODE_ASN, Bird, GoBgp, Start, Subject, Tortie, pids
from inet.prefix import Family

NAME: Final = "idle"
TITLE: Final = "Idle, keepalives only"
CPU: Final = ("CPU", "% of a core")
MEMORY: Final = ("RSS", "MB")
PROPORTIONAL: Final = ("PSS (shared pages divided)", "MB")

_SUBJECTS: Final[tuple[Start, ...]] = (Tortie, Bird, GoBgp)
_SETTLE_S: Final = 5.0


def case_name(peers: int, part: str = "") -> str:
    """Return what a case is called."""
    return f"{peers} mesh peers{f', {part}' if part else ''}"


def run(settings: Settings) -> Iterator[Results]:
    """Yield the figures of each number of peers."""
    window_s = 10.0 if settings.quick else 60.0
    for peers in (4,) if settings.quick else (4, 50, 100):
        yield _together(peers, window_s)


def _together(peers: int, window_s: float) -> Results:
    results = Results()
    with contextlib.ExitStack() as stack:
        subjects = []
        for start in _SUBJECTS:
            try:
                subjects.append(_start(stack, start, peers))
            except (BenchError, RuntimeError, OSError) as error:
                results.failures.append(f"{start.name}, {case_name(peers)}: {error}")
        time.sleep(_SETTLE_S)
        before = {subject.name: {pid: processes.cpu_s([pid]) for pid in pids(subject)} for subject in subjects}
        time.sleep(window_s)
        for subject in subjects:
            try:
                _add(results, subject, peers, before[subject.name], window_s)
            except BenchError as error:
                results.failures.append(f"{subject.name}, {case_name(peers)}: {error}")
    return results


def _start(stack: contextlib.ExitStack, start: Start, peers: int) -> Subject:
    net = stack.enter_context(Network(1, hosts=peers))
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
    node = str(network.address(1, 1, Family.IPV4))
    sessions = [
        Session(str(network.address(1, 2 + number, Family.IPV4)), node, NODE_ASN, NODE_ASN,
                prefixes=(f"10.42.{number}.0/24",), at_once=True) for number in range(peers)
    ]  # fmt: skip
    subject = start(net, directory, sessions)
    stack.callback(subject.end)
    stack.enter_context(Sender(net.routers[0], sessions))
    subject.wait_established(peers)
    subject.wait_settled()
    return subject


def _add(results: Results, subject: Subject, peers: int, before: dict[int, float], window_s: float) -> None:
    parts = subject.parts()
    if set(parts.values()) != before.keys():
        raise BenchError(f"processes were replaced while idle: {before.keys()} became {parts}")
    used = {part: processes.usage([pid]) for part, pid in parts.items()}
    cpu = {part: 100 * (used[part].cpu_s - before[pid]) / window_s for part, pid in parts.items()}
    results.take(case_name(peers), subject.name, [_figures(sum(cpu.values()), *used.values())])
    if len(parts) > 1:
        for part, usage in used.items():
            results.take(case_name(peers, part), subject.name, [_figures(cpu[part], usage)])


def _figures(cpu_percent: float, *used: Usage) -> Figures:
    return {
        CPU: cpu_percent,
        MEMORY: sum(each.rss_mb for each in used),
        PROPORTIONAL: sum(each.pss_mb for each in used),
    }
