"""Starting programs in a namespace, and what they cost: CPU seconds and memory from /proc (proc(5))."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.measure import BenchError

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_QUIET_S: Final = 0.3
"""A subject that used no CPU for so long has done its work."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What some processes have used since they were started, and hold now. Memory in MB (10⁶ bytes)."""

    cpu_s: float
    rss_mb: float  # pages that several processes share count for each of them
    pss_mb: float  # pages that several processes share are divided among them
    peak_rss_mb: float  # the most each held at any time, added up


class Program:
    """A program running in a namespace, its output in a log."""

    def __init__(self, namespace: str, argv: Sequence[str], log: Path) -> None:
        self._name = argv[0]
        self._log = log
        with log.open("ab") as output:
            # ip replaces itself by the program, so that its process id is the program's.
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", namespace, *argv], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise BenchError with its last words if it has ended."""
        if self._process.poll() is not None:
            words = " ".join(self._log.read_text(errors="replace").split())
            raise BenchError(f"{self._name} ended with status {self._process.returncode}: ...{words[-300:]}")

    def end(self, within_s: float = 5.0) -> None:
        """Ask it to end, and kill it if it does not."""
        self._process.terminate()
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def descendants(pid: int) -> list[int]:
    """Return the process and all it started that still run."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += descendants(int(child))
    return found


def command_line(pid: int) -> str:
    """Return how a process was called, "" where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def cpu_s(pids: Collection[int]) -> float:
    """Return CPU seconds used so far, user and system, to 10 ms. Raises BenchError where one is gone."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            raise BenchError(f"process {pid} has ended") from None
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def usage(pids: Collection[int]) -> Usage:
    """Return what processes have used and hold. Raises BenchError where one is gone."""
    rss_kib = pss_kib = peak_kib = 0
    for pid in pids:
        rollup = _fields(pid, "smaps_rollup")
        rss_kib += rollup["Rss"]
        pss_kib += rollup["Pss"]
        peak_kib += _fields(pid, "status")["VmHWM"]
    return Usage(cpu_s(pids), rss_kib * 1024 / 1e6, pss_kib * 1024 / 1e6, peak_kib * 1024 / 1e6)


def _fields(pid: int, name: str) -> Mapping[str, int]:
    try:
        lines = Path(f"/proc/{pid}/{name}").read_text().splitlines()
    except OSError:
        raise BenchError(f"process {pid} has ended") from None
    words = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(value) for name, value, _ in words}


def until(condition: Callable[[], object], what: str, within_s: float = 20.0, every_s: float = 0.02) -> None:
    """Wait until a condition holds. Raises BenchError with `what` when it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"not within {within_s:g} s: {what}")
        time.sleep(every_s)


def until_quiet(pids: Collection[int], within_s: float = 60.0) -> None:
    """Wait until the processes have done what there was to do."""
    deadline = time.monotonic() + within_s
    before = cpu_s(pids)
    while True:
        time.sleep(_QUIET_S)
        now = cpu_s(pids)
        if now - before <= 1 / _TICKS:
            return
        if time.monotonic() > deadline:
            raise BenchError(f"still busy after {within_s:g} s: {', '.join(map(command_line, pids))}")
        before = now


def children_cpu_s() -> float:
    """Return the CPU seconds of our own children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
