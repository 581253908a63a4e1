"""How long policy decisions take and how much they hold: synthetic clusters through the incremental engine.

Run as `python bench/policy.py [--json]`. Objects are made while they are applied, as a datastore would hand them over;
making them is timed apart and not counted. Loading is given in CPU seconds (of one thread), single changes in wall
time, memory as the process's resident set, all of it.
"""

from __future__ import annotations

import gc
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from policy.compiler import Engine, Update
from policy.networkpolicy import decode_network_policy
from policy.nft import render, render_change
from policy.objects import NAMESPACE_NAME_LABEL, NamedPort, Namespace, Pod
from policy.policies import Policy

NODE: Final = "node-0"
HTTP: Final = (NamedPort("http", 6, 8080),)


class Shape(NamedTuple):
    """A synthetic cluster: pods dealt over namespaces and nodes, `replicas` of them alike in labels."""

    pods: int
    policies: int
    namespaces: int
    local_pods: int
    replicas: int = 10
    unique_labels: bool = False


def namespaces(shape: Shape) -> Iterator[Namespace]:
    for number in range(shape.namespaces):
        name = f"team-{number}"
        yield Namespace(
            name, {NAMESPACE_NAME_LABEL: name, "tenant": f"t{number % 50}", "env": ("prod", "dev")[number % 2]}
        )


def pod(shape: Shape, number: int, **labels: str) -> Pod:
    per_namespace = -(-shape.pods // shape.namespaces)
    space, within = divmod(number, per_namespace)
    app = within // shape.replicas
    every = shape.pods // shape.local_pods
    is_local = number % every == 0 and number // every < shape.local_pods
    own = {
        "app": f"app-{app}",
        "tier": ("web", "api", "db")[app % 3],
        "pod-template-hash": f"{(space * 7919 + app) & 0xFFFFFFFF:08x}",
        **({"statefulset.kubernetes.io/pod-name": f"app-{app}-{number}"} if shape.unique_labels else {}),
        **labels,
    }
    return Pod(
        namespace=f"team-{space}",
        name=f"app-{app}-{number:06d}",
        labels=own,
        addresses=((0x0A000000 + number).to_bytes(4), (0xFD << 120 | number).to_bytes(16)),
        ports=HTTP,
        node=NODE if is_local else f"node-{1 + number % 2499}",
    )


def raw_policy(shape: Shape, number: int) -> dict[str, Any]:
    space, nth = number % shape.namespaces, number // shape.namespaces
    peers: list[dict[str, Any]] = [{"podSelector": {"matchLabels": {"app": f"app-{(nth + 1) % 25}"}}}]
    match nth % 4:
        case 0:
            peers.append({"namespaceSelector": {"matchLabels": {"tenant": f"t{space % 50}"}}})
        case 1:
            peers.append(
                {"ipBlock": {"cidr": f"172.{16 + nth % 16}.0.0/16", "except": [f"172.{16 + nth % 16}.1.0/24"]}}
            )
        case 2:
            only = {"matchLabels": {NAMESPACE_NAME_LABEL: f"team-{(space + 1) % shape.namespaces}"}}
            peers.append({"namespaceSelector": only, "podSelector": {"matchLabels": {"tier": "web"}}})
    ports: list[dict[str, Any]] = [{"port": 8080 + nth}, {"port": 9000, "endPort": 9010}]
    if nth % 5 == 0:
        ports.append({"port": "http"})
    selected = {"matchExpressions": [{"key": "app", "operator": "In", "values": [f"app-{nth}", f"app-{nth + 5}"]}]}
    return {
        "metadata": {"namespace": f"team-{space}", "name": f"policy-{nth}"},
        "spec": {
            "podSelector": {} if nth == 0 else selected,
            "policyTypes": ["Ingress", "Egress"] if nth % 2 else ["Ingress"],
            "ingress": [{"from": peers, "ports": ports}],
            **({"egress": [{"to": peers}]} if nth % 2 else {}),
        },
    }


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def apply(engine: Engine, updates: Sequence[Update]) -> float:
    begin = time.process_time()
    for update in updates:
        engine.apply(update)
    return time.process_time() - begin


def load(shape: Shape) -> tuple[Engine, dict[str, Any]]:
    """Fill an engine from nothing; objects are made in batches outside the clock, and let go."""
    before = rss_mib()
    engine = Engine(NODE)
    applying = apply(engine, list(namespaces(shape)))
    for first in range(0, shape.pods, 1000):
        applying += apply(engine, [pod(shape, each) for each in range(first, min(first + 1000, shape.pods))])
    decoding = time.process_time()
    policies: list[Policy] = [decode_network_policy(raw_policy(shape, each)) for each in range(shape.policies)]
    decoding = time.process_time() - decoding
    applying += apply(engine, policies)
    begin = time.process_time()
    delta = engine.flush()
    flushing = time.process_time() - begin
    begin = time.process_time()
    text = render(engine.ruleset)
    rendering = time.process_time() - begin
    peak = (
        int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line).split()[1])
        / 1024
    )
    return engine, {
        "shape": shape._asdict(),
        "apply_cpu_s": round(applying, 3),
        "flush_cpu_s": round(flushing, 3),
        "total_cpu_s": round(applying + flushing, 3),
        "decode_policies_cpu_s": round(decoding, 3),
        "render_cpu_s": round(rendering, 3),
        "text_kib": len(text) // 1024,
        "chains": len(delta.chains_added),
        "sets": len(delta.sets_added),
        "elements": sum(map(len, delta.members_added.values())),
        "rss_before_mib": round(before, 1),
        "rss_mib": round(rss_mib(), 1),
        "peak_mib": round(peak, 1),
    }


def updates(engine: Engine, shape: Shape) -> Iterator[tuple[str, dict[str, float]]]:
    """Time single changes: input to delta, and with the elements that a kernel writer would get."""
    chance = random.Random(1)  # noqa: S311 - a repeatable load, no secret

    def timed(make: Iterator[Update]) -> dict[str, float]:
        samples = []
        for update in make:
            begin = time.perf_counter()
            engine.apply(update)
            render_change(engine.flush())
            samples.append((time.perf_counter() - begin) * 1e6)
        samples.sort()
        return {
            "p50_us": round(statistics.median(samples), 1),
            "p99_us": round(samples[int(len(samples) * 0.99)], 1),
            "max_us": round(samples[-1], 1),
        }

    numbers = [chance.randrange(shape.pods) for _ in range(2000)]
    yield "remote pod label change", timed(pod(shape, each, tier="changed") for each in numbers if each % 1250)
    yield "remote pod label change back", timed(pod(shape, each) for each in numbers)
    every = shape.pods // shape.local_pods
    local = [chance.randrange(shape.local_pods) * every for _ in range(500)]
    yield "local pod label change", timed(pod(shape, each, app=f"app-{at % 25}") for at, each in enumerate(local))
    yield "local pod label change back", timed(pod(shape, each) for each in local)
    spaces = [chance.randrange(shape.namespaces) for _ in range(200)]
    yield (
        "namespace label change",
        timed(
            Namespace(f"team-{each}", {NAMESPACE_NAME_LABEL: f"team-{each}", "tenant": f"t{(each + at) % 50}"})
            for at, each in enumerate(spaces)
        ),
    )
    changed = [chance.randrange(shape.policies) for _ in range(1000)]

    def edited() -> Iterator[Update]:
        for at, each in enumerate(changed):
            raw = raw_policy(shape, each)
            raw["spec"]["ingress"][0]["ports"].append({"port": 20000 + at})
            yield decode_network_policy(raw)

    yield "policy change", timed(edited())


SHAPES: Final = {
    "10,000 pods, 1,000 policies": Shape(10_000, 1_000, 100, 100),
    "250,000 pods, 10,000 policies": Shape(250_000, 10_000, 1_000, 200),
    "250,000 pods, no two labels alike": Shape(250_000, 10_000, 1_000, 200, unique_labels=True),
}


def measure(name: str) -> dict[str, Any]:
    shape = SHAPES[name]
    engine, figures = load(shape)
    gc.collect()
    gc.freeze()  # as an agent does once it is in sync: a collection that walks a quarter of a million pods takes 100 ms
    figures["updates"] = dict(updates(engine, shape))
    return figures


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] in SHAPES:
        print(json.dumps(measure(sys.argv[1])))
        return
    results = {}
    for name in SHAPES:  # a process each, so that no one's memory is another's
        done = subprocess.run([sys.executable, __file__, name], check=True, capture_output=True, text=True)
        results[name] = json.loads(done.stdout)
    if "--json" in sys.argv:
        print(json.dumps(results))
        return
    for name, figures in results.items():
        print(name)
        for key, value in figures.items():
            if key not in {"updates", "shape"}:
                print(f"    {key:28} {value}")
        for what, times in figures["updates"].items():
            print(f"    {what:28} " + "  ".join(f"{name} {value:9.1f}" for name, value in times.items()))


if __name__ == "__main__":
    main()
