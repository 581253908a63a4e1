"""How long a pod waits for its network: the whole ADD, and our plugin's part, which ends with policy in the kernel.

The conflist is the one that the agent writes, the plugins are real, and each pod is a network namespace; only the
container runtime around it is left out. A policy selects every pod. Beside it the same list without our plugin at its
end, which then lacks the wait for policy. As many ADDs at a time as there are CPUs and more share these, so CPU time is
told with every figure: ours is that of our plugin and of the agent.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from agent.cni.conflist import FILE_NAME, PLUGINS
from bench import cnichain, processes
from bench.cgroups import sharing
from bench.cnichain import Pod
from bench.measure import BenchError, Figures, Results, Settings

NAME: Final = "cni"
TITLE: Final = "CNI ADD, from the first plugin to the last"
WHOLE: Final = ("whole, p99", "ms")
OWN_PART: Final = ("our plugin, p99", "ms")
MORE: Final = ("whole, p99, more than without us", "ms")
MOST_WHOLE_MS: Final = 150
MOST_OWN_MS: Final = 20
MEMORY: Final = "/dev/shm"  # noqa: S108 - a directory of a name of its own is made there
"""Where files are kept: what is measured is not how long a disk, and host-local under its lock, may stall."""

_PROGRAMS: Final = [Path(__file__).parents[1] / "cni" / "bin" / name for name in PLUGINS]
_CIDRS: Final = {"IPv4": ["10.42.0.0/24"], "IPv4 and IPv6": ["10.42.0.0/24", "fd42::/64"]}
_PODS: Final = 100
_AT_A_TIME: Final = (1, 2, 4, 10)
_DELETED_AT_A_TIME: Final = 4
_DEADLINE_S: Final = 60.0
_WITH: Final = "Tortie"
_WITHOUT: Final = "without us"


def case_name(families: str, at_a_time: int, pods: int = _PODS) -> str:
    """Return what a case is called."""
    return f"{pods} pods, {families}, {'one by one' if at_a_time == 1 else f'{at_a_time} at a time'}"


CASES: Final = tuple(case_name(families, at_a_time) for families in _CIDRS for at_a_time in _AT_A_TIME)


def run(settings: Settings) -> Iterator[Results]:
    """Yield the figures of each choice of families and of each number of pods at a time."""
    pods = 10 if settings.quick else _PODS
    if not all(each.exists() for each in _PROGRAMS):
        yield Results(failures=["needs the plugins in cni/bin: make cni (needs Go)"])
        return
    for families, cidrs in _CIDRS.items():
        with _Node(cidrs, pods) as node:
            for at_a_time in _AT_A_TIME:
                results, case = Results(), case_name(families, at_a_time, pods)
                for subject, own in ((_WITH, True), (_WITHOUT, False)):
                    results.measure(case, subject, settings.rounds, partial(node.add_all, at_a_time, own=own))
                compare(case, results)
                yield results


def compare(case: str, results: Results) -> None:
    """Add what is ours of the whole, and say so where the plugins before ours take longer than all of it may."""
    whole = {each.subject: each.median for each in results.measurements if (each.quantity, each.unit) == WHOLE}
    if whole.keys() < {_WITH, _WITHOUT}:
        return
    more = whole[_WITH] - whole[_WITHOUT]
    results.take(case, _WITH, [{MORE: more}])
    if whole[_WITHOUT] > MOST_WHOLE_MS:
        results.notes.append(
            f"{case}: p99 is {whole[_WITHOUT]:.0f} ms without us, {whole[_WITH]:.0f} ms with us: the upstream plugins "
            f"alone exceed {MOST_WHOLE_MS} ms on {os.cpu_count()} CPUs"
        )


class _Node:
    """A node in a network namespace, its agent running, with pods that wait to be wired."""

    def __init__(self, cidrs: list[str], pods: int) -> None:
        self._name = f"bcni{os.getpid()}"
        self._cidrs = cidrs
        self._count = pods
        self._round = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=MEMORY)))
            for each in ("manifests", "net.d", "networks", "bin"):
                (self._directory / each).mkdir()
            for plugin in _PROGRAMS:
                shutil.copy2(plugin, self._directory / "bin")
            self._write_manifests()
            self._add_namespace(stack, self._name)
            _ip("-n", self._name, "link", "set", "lo", "up")
            _ip("-n", self._name, "link", "add", "up0", "type", "veth", "peer", "name", "up1")
            for link in ("up0", "up1"):
                _ip("-n", self._name, "link", "set", link, "up")
            _ip("netns", "exec", self._name, "iptables", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")  # as kubelets do
            for number in range(self._count):
                self._add_namespace(stack, self._netns(number))
            self._agent = self._start_agent(stack)
            self._chain = self._start_chain(stack)
            stack.enter_context(sharing({"kubepods": processes.descendants(self._agent), "runtime": [self._chain.pid]}))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _add_namespace(self, stack: contextlib.ExitStack, name: str) -> None:
        _ip("netns", "add", name)
        stack.callback(subprocess.run, ["ip", "netns", "del", name], capture_output=True, check=False)

    def _write_manifests(self) -> None:
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "n1"},
            "spec": {"podCIDRs": self._cidrs},
            "status": {"addresses": [{"type": "InternalIP", "address": each} for each in ("172.16.1.11", "fd16::11")]},
        }
        policy = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "closed", "namespace": "shop"},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
        }
        pods = [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"p{number}", "namespace": "shop", "uid": f"u{number}"},
                "spec": {"nodeName": "n1"},
            }
            for number in range(self._count)
        ]
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": [node, policy, *pods]})
        (self._directory / "manifests" / "all.json").write_text(text, encoding="utf-8")

    def _start_agent(self, stack: contextlib.ExitStack) -> int:
        """Start the agent and return its process id when pods can be wired."""
        log = stack.enter_context((self._directory / "agent.log").open("ab"))
        program = str(Path(sys.executable).with_name("tortie"))
        process = subprocess.Popen(
            [
                *("nsenter", f"--net=/run/netns/{self._name}", program, "agent", "--node", "n1", "--listen", ""),
                *("--config", str(self._directory / "manifests"), "--run-dir", str(self._directory / "run")),
                *("--cni-conf-dir", str(self._directory / "net.d")),
                *("--cni-state-dir", str(self._directory / "networks")),
            ],
            stdout=log,
            stderr=log,
        )
        stack.callback(process.wait, _DEADLINE_S)
        stack.callback(process.terminate)
        deadline = time.monotonic() + _DEADLINE_S
        while not (self._directory / "net.d" / FILE_NAME).exists():
            if process.poll() is not None or time.monotonic() > deadline:
                words = " ".join((self._directory / "agent.log").read_text(errors="replace").split())
                raise BenchError(f"the agent wrote no conflist: ...{words[-300:]}")
            time.sleep(0.05)
        return process.pid

    def _start_chain(self, stack: contextlib.ExitStack) -> subprocess.Popen[str]:
        chain = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self._name}", sys.executable, cnichain.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.enter_context(chain)
        return chain

    def _netns(self, number: int) -> str:
        return f"{self._name}p{number}"

    def add_all(self, at_a_time: int, *, own: bool) -> Figures:
        """Wire all pods and take them away; return what their ADDs took."""
        self._round += 1
        pods = [
            Pod(f"p{number}", f"u{number}", f"r{self._round}c{number}", f"/run/netns/{self._netns(number)}")
            for number in range(self._count)
        ]
        agent = processes.descendants(self._agent)
        processes.until_quiet(agent)
        before = processes.cpu_s(agent)
        took = self._run("ADD", pods, at_a_time, own=own)
        processes.until_quiet(agent)
        agent_cpu = processes.cpu_s(agent) - before
        self._run("DEL", pods, _DELETED_AT_A_TIME, own=own)
        whole = [each["whole"] * 1000 for each in took]
        figures = {("whole, p50", "ms"): statistics.median(whole), WHOLE: p99(whole)}
        if own:
            part = [each["own"] * 1000 for each in took]
            figures |= {("our plugin, p50", "ms"): statistics.median(part), OWN_PART: p99(part)}
            figures[_cpu("our plugin")] = 1000 * statistics.mean(each["own_cpu"] for each in took)
        figures[_cpu("agent")] = 1000 * agent_cpu / len(pods)
        figures[_cpu("other plugins")] = 1000 * statistics.mean(each["other_cpu"] for each in took)
        return figures

    def _run(self, command: str, pods: list[Pod], at_a_time: int, *, own: bool) -> list[Mapping[str, float]]:
        conflist = json.loads((self._directory / "net.d" / FILE_NAME).read_text(encoding="utf-8"))
        plugins = conflist["plugins"] if own else conflist["plugins"][:-1]
        job: dict[str, Any] = {
            "command": command,
            "plugins": plugins,
            "head": {"cniVersion": conflist["cniVersion"], "name": conflist["name"]},
            "bin_dir": str(self._directory / "bin"),
            "pods": [asdict(each) for each in pods],
            "at_a_time": at_a_time,
        }
        assert self._chain.stdin is not None  # noqa: S101 - asked for
        assert self._chain.stdout is not None  # noqa: S101 - asked for
        self._chain.stdin.write(json.dumps(job) + "\n")
        self._chain.stdin.flush()
        line = self._chain.stdout.readline()
        if not line:
            raise BenchError(f"{command} failed: the plugin's words are above")
        took: list[Mapping[str, float]] = json.loads(line)
        return took


def _cpu(of: str) -> tuple[str, str]:
    return f"CPU of {of}, for each ADD", "ms"


def p99(values: Iterable[float]) -> float:
    """Return the value that 99 % do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(0.99 * len(ordered)) - 1)]


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"ip {' '.join(arguments)}: {done.stderr}")
