"""How long a pod waits for its network where a real container runtime starts it: containerd, 100 sandboxes.

The whole is what containerd says it took, from asking for the network to the result. Our part is that of our plugin's
processes, of each from its fork to its end, as the kernel tells it. The runtime, its shims and runc use the CPUs
meanwhile: more pods at a time than there are CPUs show what it costs to wait for one. `bench.cni` takes the plugins
alone, and compares with the same list without ours.
"""

from __future__ import annotations

import os
import re
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from bench import processes
from bench.cgroups import sharing
from bench.cni import MEMORY, OWN_PART, WHOLE, case_name, p99
from bench.cnichain import OWN
from bench.exits import Exit, Exits
from bench.measure import BenchError, Figures, Results, Settings
from tests.containerd.machine import Machine, missing

NAME: Final = "pods"
TITLE: Final = "a pod's network, through containerd"

_CIDRS: Final = {"IPv4": ("10.42.0.0/24",), "IPv4 and IPv6": ("10.42.0.0/24", "fd42::/64")}
_AT_A_TIME: Final = (1, 2, 10)
_REMOVED_AT_A_TIME: Final = 4
CASES: Final = tuple(case_name(families, at_a_time) for families in _CIDRS for at_a_time in _AT_A_TIME)
_SAID: Final = re.compile(r'time="([^"]+)" level=debug msg="(begin cni setup|cni result)\b.* podsandboxid=(\w+)')
_SLACK_S: Final = 0.002  # between two clocks: containerd's log and our hearing of an end


class Wired(NamedTuple):
    """When containerd asked for a pod's network, and when it had it: seconds, on the clock of `time.time`."""

    asked: float
    had: float


def run(settings: Settings) -> Iterator[Results]:
    """Yield the figures of each choice of families, for each number of pods at a time."""
    if reason := missing():
        yield Results(failures=[reason])
        return
    for families, cidrs in _CIDRS.items():
        results = Results()
        with (
            tempfile.TemporaryDirectory(prefix="bench-", dir=MEMORY) as directory,
            Machine.started(Path(directory), f"bpods{os.getpid()}", cidrs) as machine,
            sharing({"kubepods": processes.descendants(machine.agent_pid), "runtime": [machine.containerd_pid]}),
            Exits(OWN) as exits,
        ):
            machine.give_policy("closed", {"podSelector": {}, "policyTypes": ["Ingress"]})
            pods = 10 if settings.quick else 100
            for at_a_time in _AT_A_TIME:
                case = case_name(families, at_a_time, pods)
                results.measure(case, "Tortie", settings.rounds, partial(_start_all, machine, exits, pods, at_a_time))
        yield results


def _start_all(machine: Machine, exits: Exits, pods: int, at_a_time: int) -> Figures:
    """Start sandboxes and take them away; return what containerd and the kernel say of their networks."""
    names = [f"p{number}" for number in range(pods)]
    machine.give_pods(*names)
    agent = processes.descendants(machine.agent_pid)
    processes.until_quiet(agent)
    exits.take()
    read = len(machine.log("containerd"))
    with ThreadPoolExecutor(at_a_time) as pool:
        sandboxes = list(pool.map(machine.runtime.run, names))
    processes.until_quiet(agent)
    wired = wired_in(machine.log("containerd")[read:])
    if len(wired) != pods:
        raise BenchError(f"containerd tells of {len(wired)} networks of {pods} pods")
    parts = own_parts(wired, exits.take())
    with ThreadPoolExecutor(_REMOVED_AT_A_TIME) as pool:
        list(pool.map(machine.runtime.remove, sandboxes))
    machine.take_all()
    whole = [1000 * (each.had - each.asked) for each in wired]
    own = [1000 * each for each in parts]
    return {
        ("whole, p50", "ms"): statistics.median(whole),
        WHOLE: p99(whole),
        ("our plugin, p50", "ms"): statistics.median(own),
        OWN_PART: p99(own),
    }


def wired_in(log: str) -> list[Wired]:
    """Return the networks of which containerd's log tells the beginning and the end."""
    told: dict[str, dict[str, float]] = {}
    for moment, what, sandbox in _SAID.findall(log):
        # Nanoseconds are more than `datetime` reads.
        at = datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", moment.replace("Z", "+00:00"))).timestamp()
        told.setdefault(sandbox, {})[what] = at
    return [Wired(each["begin cni setup"], each["cni result"]) for each in told.values() if len(each) == 2]


def own_parts(wired: Sequence[Wired], exits: Sequence[Exit]) -> list[float]:
    """Return for each pod the seconds of our plugin: it runs last, and first where pods have IPv6.

    Which run was whose is told by time alone: the last of a pod ends right before containerd has the result, the first
    begins right after it asked. Raises BenchError where there are not as many runs as that.
    """
    if len(exits) % len(wired) or not exits:
        raise BenchError(f"{OWN} ran {len(exits)} times for {len(wired)} pods")
    left = sorted(exits)
    parts = {}
    for pod in sorted(wired, key=lambda each: each.had):
        last = max((each for each in left if each.ended <= pod.had + _SLACK_S), default=left[0])
        left.remove(last)
        parts[pod] = last.took
    left.sort(key=lambda each: each.ended - each.took)
    for pod, first in zip(sorted(wired), left, strict=False):
        parts[pod] += first.took
    return [parts[each] for each in wired]
