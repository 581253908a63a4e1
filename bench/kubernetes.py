"""A cluster's API as the source of everything: reading it, hearing of changes, and what watching costs the server.

A real API server and etcd on loopback hold 10,000 pods of 4 KB, then others 100,000. Their own part in what is measured
is in it: they share the machine's processors with the agent. Needs what scripts/kubernetes-assets builds.
"""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench import processes
from bench.kubernetes_cluster import node_name, populate, relabel
from bench.kubernetes_watches import watching
from bench.measure import BenchError, Figures, Results, Settings
from felix.namespaces import entered
from tests.kubernetes import assets
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.node import AgentNode

NAME: Final = "kubernetes"
TITLE: Final = "Objects from the Kubernetes API"
PODS: Final = 10_000
MANY_PODS: Final = 100_000
POLICIES: Final = 100
SUBJECT: Final = "Tortie"

READ: Final = ("listed, decoded, indexed", "s")
READ_CPU: Final = ("CPU of it", "CPU s")
MORE: Final = ("RSS more", "MB")
AGENT: Final = ("agent + ExaBGP + bridge, RSS", "MB")
LATENCY: Final = ("watch event to kernel, p99", "ms")
LATENCY_MEDIAN: Final = ("watch event to kernel, median", "ms")
REQUESTS: Final = ("requests beside watches", "a minute")

_SETTLE_S: Final = 15.0
"""What changed before has been reported by then."""
_NETLINK_NETFILTER: Final = 12
_NFNLGRP_NFTABLES: Final = 7


def case_name(pods: int) -> str:
    """Return what a case is called."""
    return f"{pods:,} pods"


def run(settings: Settings) -> Iterator[Results]:
    """Yield figures as they come."""
    if reason := assets.missing(*assets.SERVER):
        yield Results(notes=[f"left out: {reason}"])
        return
    pods = 500 if settings.quick else PODS
    with tempfile.TemporaryDirectory(prefix="bench-") as name, Cluster.started(Path(name)) as cluster:
        cluster.install_crds()
        populate(cluster, pods, POLICIES)
        results = Results()
        results.measure(case_name(pods), SUBJECT, settings.rounds, lambda: _read(cluster))
        yield results
        yield _agent(cluster, Path(name) / "node", pods, settings)
        yield watching(cluster, 50 if settings.quick else 1000)
    many = 2_000 if settings.quick else MANY_PODS
    with tempfile.TemporaryDirectory(prefix="bench-") as name, Cluster.started(Path(name)) as cluster:
        cluster.install_crds()
        populate(cluster, many, POLICIES)
        results = Results()
        results.measure(case_name(many), SUBJECT, 1, lambda: _read(cluster))
        yield results


def _read(cluster: Cluster) -> Figures:
    argv = [sys.executable, "-m", "bench.kubernetes_reader", str(cluster.kubeconfig()), node_name(0)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise BenchError(done.stderr[-500:])
    found = json.loads(done.stdout)
    return {READ: found["wall_s"], READ_CPU: found["cpu_s"], MORE: found["rss_more_mb"]}


def _agent(cluster: Cluster, directory: Path, pods: int, settings: Settings) -> Results:
    """A whole agent: how soon the kernel follows, what it holds, what it asks for when nothing happens."""
    results = Results()
    directory.mkdir()
    with AgentNode.built(cluster, directory, node_name(0)) as node:
        node.start()
        node.until(lambda status: status.policy.in_kernel and status.policy.pods, "policy in the kernel")
        results.measure(case_name(pods), SUBJECT, 1, lambda: _latency(cluster, node, 20 if settings.quick else 200))
        results.measure(case_name(pods), SUBJECT, 1, lambda: _rest(node, 10.0 if settings.quick else 60.0))
    return results


def _latency(cluster: Cluster, node: AgentNode, changes: int) -> Figures:
    """Relabel pods of other nodes that policies here speak of, one at a time; the relay saw each event pass."""
    with entered(node.namespace):
        kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        kernel.bind((0, 1 << (_NFNLGRP_NFTABLES - 1)))
    kernel.settimeout(10.0)
    found = []
    with contextlib.closing(kernel):
        for number in range(changes):
            other = 150 + 3 * number  # a pod of tier web: it leaves the sets it is in, or comes back
            tier = None if number % 2 == 0 else "web"
            relabel(cluster, other - 3 * (number % 2), "", {"metadata": {"labels": {"tier": tier}}})
            try:
                kernel.recv(65536)
                at = time.monotonic()
            except TimeoutError:
                raise BenchError("a change did not reach the kernel") from None
            found.append((at - node.relay.passed_at) * 1e3)
            time.sleep(0.05)  # the rest of this change's messages
            _drain(kernel)
    return {LATENCY: statistics.quantiles(found, n=100)[98], LATENCY_MEDIAN: statistics.median(found)}


def _drain(kernel: socket.socket) -> None:
    kernel.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            kernel.recv(65536)
    kernel.settimeout(10.0)


def _rest(node: AgentNode, window_s: float) -> Figures:
    """What it asks for in a while in which nothing happens, and what it holds then."""
    time.sleep(_SETTLE_S)
    before = _requests(node)
    time.sleep(window_s)
    asked = _requests(node) - before
    pids = subprocess.run(["ip", "netns", "pids", node.namespace], check=True, capture_output=True, text=True).stdout
    return {REQUESTS: asked * 60 / window_s, AGENT: processes.usage([int(pid) for pid in pids.split()]).rss_mb}


def _requests(node: AgentNode) -> float:
    """Return the requests but for watches so far, as the agent counts them."""
    with entered(node.namespace), socket.create_connection(("127.0.0.1", 9797), 10) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    lines = (line for line in text.splitlines() if line.startswith("tortie_api_requests_total{"))
    return sum(float(line.rpartition(" ")[2]) for line in lines if 'verb="watch"' not in line)
