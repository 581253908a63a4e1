"""Policy: from objects to rules in the kernel, all at once, change by change, and for a long time.

Each case is a process of its own, in a network namespace of its own: `python -m bench.policy CASE [--quick]` prints
its figures as JSON. Loading is given in CPU seconds, single changes as the time from an object that is handed over to
the kernel written, memory as the process's resident set, all of it. Objects are made outside the clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from agent.__main__ import LEAN
from agent.datastore import Batch
from agent.enforcement import NodePolicy
from agent.garbage import collect_seldom
from agent.objects.kinds import KINDS, Keyed, decode, key_of
from agent.objects.model import Key
from agent.objects.policy_objects import PolicyObject
from agent.policy_kernel import open_policy_kernel
from agent.policy_table import content_of
from bench import processes
from bench.cluster import NODE, Shape, namespaces, pod, raw_policy
from bench.measure import BenchError, Figures, Results, Settings
from bench.network import Network
from bench.network import run as run_program
from felix.nft.enforcement import Enforcement
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.library import Library
from policy.compiler import Engine, Update
from policy.networkpolicy import decode_network_policy
from policy.nft import render
from policy.objects import NAMESPACE_NAME_LABEL, Namespace, Pod

NAME: Final = "policy"
TITLE: Final = "Policy: compiled and written"

COMPILE: Final = ("cold compile", "CPU s")
MEMORY: Final = ("RSS after it", "MB")
LOAD: Final = ("load into the kernel", "CPU s")
P50: Final = ("median", "ms")
P99: Final = ("99th percentile", "ms")
CPU_P99: Final = ("99th percentile of CPU time", "ms")  # which does not wait for anybody else on the machine
CPU: Final = ("CPU", "% of a core")
GROWTH: Final = ("growth of the largest RSS, fourth quarter over third", "MB")

_ROOT: Final = Path(__file__).parent.parent
_FELIX: Final = "Felix, as published"
SMALL: Final = "10,000 pods, 1,000 policies"
LARGE: Final = "250,000 pods, 10,000 policies"
COLD: Final = {SMALL: Shape(10_000, 1_000, 100, 100), LARGE: Shape(250_000, 10_000, 1_000, 200)}
CHANGES: Final = Shape(50_000, 12_000, 1_000, 100)
NEW_POD, FIRST_POD, LABEL, MEMBER, NAMESPACE = (
    "a new pod of this node, 12,000 policies",
    "a new pod, the first that needs sets of 40,000 addresses",
    "one pod label, 12,000 policies",
    "one pod into a set of 20,000",
    "a namespace label that moves 500 pods",
)
EVENTS: Final = "1,000 pod events a second, 12,000 policies"
CHURN: Final = "churn of pods, labels and policies"


def run(settings: Settings) -> Iterator[Results]:
    """Yield the figures of each case as it is done."""
    for case in COLD:
        results = Results()
        quick = settings.quick
        results.measure(case, "Tortie", settings.rounds, partial(_child, case, COMPILE, MEMORY, LOAD, quick=quick))
        results.measure(case, "nft -f", settings.rounds, partial(_child, f"nft {case}", LOAD, quick=quick))
        if case == LARGE:
            results.take(case, _FELIX, [{COMPILE: 3.39, MEMORY: 374.0}])
        yield results
    for case, what in (
        (NEW_POD, "new"),
        (FIRST_POD, "first"),
        (LABEL, "label"),
        (MEMBER, "member"),
        (NAMESPACE, "namespace"),
    ):
        results = Results()
        results.measure(case, "Tortie", 1, partial(_child, what, P50, P99, CPU_P99, quick=settings.quick))
        if what == "member":
            results.measure(case, "nft -f", 1, partial(_child, "nft member", P50, P99, CPU_P99, quick=settings.quick))
        yield results
    results = Results()
    results.measure(EVENTS, "Tortie", 1, partial(_child, "events", CPU, quick=settings.quick))
    results.measure(CHURN, "Tortie", 1, partial(_child, "churn", MEMORY, GROWTH, quick=settings.quick))
    yield results


def _child(case: str, *quantities: tuple[str, str], quick: bool) -> Figures:
    with Network(0) as net:
        argv = [sys.executable, "-m", "bench.policy", case, *(["--quick"] if quick else [])]
        command = ["ip", "netns", "exec", net.node, *argv]
        environment = LEAN | os.environ
        done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(done.stderr.strip()[-500:] or f"ended with status {done.returncode}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {quantity: found[quantity[0]] for quantity in quantities}


# In the child


def _rss_mb() -> float:
    return processes.usage([_own_pid()]).rss_mb


def _own_pid() -> int:
    return int(Path("/proc/self").readlink().name)


def _policies(shape: Shape) -> Iterator[dict[str, Any]]:
    return (raw_policy(shape, each) for each in range(shape.policies))


def _filled(shape: Shape) -> tuple[Engine, float]:
    """Return an engine with a cluster in it, and the CPU seconds that took. Objects are made a few at a time."""
    engine = Engine(NODE)
    taken = 0.0

    def apply(updates: Sequence[Update]) -> None:
        nonlocal taken
        begin = time.process_time()
        for update in updates:
            engine.apply(update)
        taken += time.process_time() - begin

    apply(list(namespaces(shape)))
    for first in range(0, shape.pods, 1000):
        apply([pod(shape, each) for each in range(first, min(first + 1000, shape.pods))])
    apply([decode_network_policy(raw) for raw in _policies(shape)])
    begin = time.process_time()
    engine.flush()
    return engine, taken + time.process_time() - begin


async def _cold(shape: Shape) -> dict[str, float]:
    engine, compiled_s = _filled(shape)
    memory = _rss_mb()
    content = content_of(engine.ruleset)
    with contextlib.closing(KernelRuleTable(Library())) as table:
        begin = time.process_time()
        report = await Enforcement(table).sync(content)
        loaded_s = time.process_time() - begin
    if report.refusals:
        raise BenchError(str(report.refusals[0]))
    return {COMPILE[0]: compiled_s, MEMORY[0]: memory, LOAD[0]: loaded_s}


def _cold_nft(shape: Shape) -> dict[str, float]:
    text = render(_filled(shape)[0].ruleset)
    began = processes.children_cpu_s()
    run_program("nft", "-f", "-", text=text)
    return {LOAD[0]: processes.children_cpu_s() - began}


def _keyed(value: Pod | Namespace, namespace: str = "") -> PolicyObject:
    return PolicyObject(Key(type(value).__name__, namespace, value.name), value)


def _keyed_pod(value: Pod) -> PolicyObject:
    return _keyed(value, value.namespace)


def _manifest(kind: str, raw: dict[str, Any]) -> Keyed:
    return decode(KINDS[kind], key_of(KINDS[kind], raw), raw)


def _node() -> Keyed:
    status = {"addresses": [{"type": "InternalIP", "address": "172.16.1.11"}]}
    return _manifest("Node", {"metadata": {"name": NODE}, "spec": {"podCIDRs": ["10.255.0.0/24"]}, "status": status})


def _crowd(number: int) -> Pod:
    return Pod("crowd", f"crowd-{number}", {"app": "crowd"}, ((0x0B000000 + number).to_bytes(4),), (), f"node-{number}")


def _crowd_labels(tenant: str) -> PolicyObject:
    return _keyed(Namespace("crowd", {NAMESPACE_NAME_LABEL: "crowd", "tenant": tenant}))


def _watching() -> Iterator[Keyed]:
    """Yield policies of a local pod whose peers are every pod of a tier, and those of a tenant's namespaces."""
    for name, peer in (
        ("web", {"namespaceSelector": {}, "podSelector": {"matchLabels": {"tier": "web"}}}),
        ("tenant", {"namespaceSelector": {"matchLabels": {"tenant": "crowd"}}}),
    ):
        spec = {"podSelector": {}, "ingress": [{"from": [peer]}]}
        yield _manifest("NetworkPolicy", {"metadata": {"name": name, "namespace": "team-0"}, "spec": spec})


class _Agent:
    """A node's policy with a cluster in the kernel."""

    def __init__(self, policy: NodePolicy) -> None:
        self._policy = policy

    async def tell(self, *items: Keyed, gone: Iterable[Keyed] = ()) -> tuple[float, float]:
        """Have objects in force; return how many seconds that took, and of CPU time."""
        batch = Batch({each.key: each for each in items}, frozenset(each.key for each in gone), (), full_lists=1)
        begin, cpu = time.perf_counter(), time.process_time()
        self._policy.take(batch)
        await self._policy.written()
        taken = time.perf_counter() - begin, time.process_time() - cpu
        if self._policy.error:
            raise BenchError(self._policy.error)
        return taken


@contextlib.asynccontextmanager
async def _agent(shape: Shape) -> AsyncIterator[_Agent]:
    with open_policy_kernel() as kernel:
        policy = NodePolicy(NODE, kernel)
        task = asyncio.create_task(policy.run())
        agent = _Agent(policy)
        first: list[Keyed] = [_node(), *map(_keyed, namespaces(shape)), _crowd_labels("none")]
        first += [_keyed_pod(pod(shape, each)) for each in range(shape.pods)]
        first += [_keyed_pod(_crowd(each)) for each in range(500)]
        first += [_manifest("NetworkPolicy", raw) for raw in _policies(shape)]
        await agent.tell(*first, *_watching())
        first.clear()
        yield agent
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _percentiles(samples: Sequence[tuple[float, float]]) -> dict[str, float]:
    wall, cpu = (sorted(each) for each in zip(*samples, strict=True))
    at = int(len(wall) * 0.99)
    return {P50[0]: wall[len(wall) // 2] * 1000, P99[0]: wall[at] * 1000, CPU_P99[0]: cpu[at] * 1000}


async def _changes(what: str, shape: Shape, count: int) -> dict[str, float]:
    chance = random.Random(1)  # noqa: S311 - a repeatable load, no secret
    samples: list[tuple[float, float]] = []
    every = shape.pods // shape.local_pods
    async with _agent(shape) as agent:
        for turn in range(count):
            number = chance.randrange(shape.pods)
            match what:
                case "new" | "first":  # the first pod alone has policies whose peers are a third of the cluster
                    nth = 0 if what == "first" else chance.randrange(1, shape.local_pods)
                    local = _keyed_pod(pod(shape, nth * every))
                    await agent.tell(gone=[local])
                    samples.append(await agent.tell(local))
                case "label":
                    samples.append(await agent.tell(_keyed_pod(pod(shape, number, tier="changed"))))
                    samples.append(await agent.tell(_keyed_pod(pod(shape, number))))
                case "member":
                    newcomer = Pod("crowd", f"new-{turn}", {"tier": "web"}, ((0x0C000000 + turn).to_bytes(4),))
                    samples.append(await agent.tell(_keyed_pod(newcomer)))
                case _:
                    samples.append(await agent.tell(_crowd_labels("crowd" if turn % 2 == 0 else "none")))
    return _percentiles(samples)


def _nft_members(count: int) -> dict[str, float]:
    """Add elements one by one with the command, where the table has what a node of that cluster has."""
    ruleset = _filled(CHANGES)[0].ruleset
    run_program("nft", "-f", "-", text=render(ruleset))
    name = max((each for each in ruleset.sets if each.startswith("pods4")), key=lambda each: len(ruleset.members[each]))
    samples = []
    for number in range(count):
        begin, cpu = time.perf_counter(), processes.children_cpu_s()
        run_program("nft", f"add element inet tortie {name} {{ 12.0.{number // 256}.{number % 256} }}")
        samples.append((time.perf_counter() - begin, processes.children_cpu_s() - cpu))
    return _percentiles(samples)


async def _events(shape: Shape, seconds: float) -> dict[str, float]:
    chance = random.Random(2)  # noqa: S311 - a repeatable load, no secret
    async with _agent(shape) as agent:
        numbers = [chance.randrange(shape.pods) for _ in range(int(seconds * 1000))]
        tiers = ("web", "api", "db", "changed")
        events = [_keyed_pod(pod(shape, each, tier=tiers[at % 4])) for at, each in enumerate(numbers)]
        began, cpu = time.monotonic(), time.process_time()
        for at in range(0, len(events), 10):
            await agent.tell(*events[at : at + 10])
            await asyncio.sleep(max(0.0, began + at / 1000 - time.monotonic()))
        wall = max(time.monotonic() - began, seconds)
        return {CPU[0]: 100 * (time.process_time() - cpu) / wall}


async def _churn(shape: Shape, events: int) -> dict[str, float]:
    """Let everything change, go and come back; memory may settle in the first half, and must not grow in the second."""
    chance = random.Random(3)  # noqa: S311 - a repeatable load, no secret
    memory: list[float] = []
    every = shape.pods // shape.local_pods
    async with _agent(shape) as agent:
        # What was read at the start shares more than what comes later, and a table that things were taken out of
        # and put into again becomes twice as large, once: let everything be of the second kind.
        for parity in (0, 1):
            for first in range(parity, shape.pods, 500):
                numbers = list(range(first, min(first + 500, shape.pods)))
                changed = (_keyed_pod(pod(shape, each, tier="changed")) for each in numbers[::2])
                await agent.tell(*changed, gone=[_keyed_pod(pod(shape, each)) for each in numbers[1::2]])
                await agent.tell(*(_keyed_pod(pod(shape, each)) for each in numbers))
        for turn in range(events // 200):
            numbers = [chance.randrange(shape.pods) for _ in range(90)]
            pods = [_keyed_pod(pod(shape, each, tier=f"churn-{chance.randrange(50)}")) for each in numbers]
            local = _keyed_pod(pod(shape, chance.randrange(shape.local_pods) * every))
            edited = chance.randrange(shape.policies)
            raw = raw_policy(shape, edited)
            raw["spec"]["ingress"][0]["ports"].append({"port": 20000 + turn % 20000})
            await agent.tell(*pods[45:], _manifest("NetworkPolicy", raw), gone=[*pods[:45], local])
            as_before = _manifest("NetworkPolicy", raw_policy(shape, edited))
            await agent.tell(*(_keyed_pod(pod(shape, each)) for each in numbers), local, as_before)
            if turn % 10 == 9:
                memory.append(_rss_mb())
    # A set of 20,000 comes and goes with its only user: 2 MB up and down. So the most is compared with the most.
    quarter = len(memory) // 4 or 1
    third, fourth = max(memory[-2 * quarter : -quarter] or memory), max(memory[-quarter:])
    return {MEMORY[0]: fourth, GROWTH[0]: max(0.0, fourth - third)}


def main(arguments: Sequence[str]) -> None:
    """Measure a case and print what was found."""
    case, quick = arguments[0], "--quick" in arguments
    small = Shape(1_000, 100, 10, 10)
    changes, count = (small, 20) if quick else (CHANGES, 1000)
    work: dict[str, Callable[[], Any]] = {
        **{name: partial(_cold, small if quick else shape) for name, shape in COLD.items()},
        **{f"nft {name}": partial(_cold_nft, small if quick else shape) for name, shape in COLD.items()},
        **{what: partial(_changes, what, changes, count) for what in ("new", "label", "member", "namespace")},
        "first": partial(_changes, "first", changes, count // 10),
        "nft member": partial(_nft_members, 5 if quick else 50),
        "events": partial(_events, changes, 1 if quick else 60),
        "churn": partial(_churn, changes, 5_000 if quick else 300_000),
    }
    collect_seldom()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    found = work[case]()
    sys.stdout.write(json.dumps(asyncio.run(found) if asyncio.iscoroutine(found) else found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
