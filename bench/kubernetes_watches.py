"""What the watches of many nodes cost one API server: an agent's beside those of kube-proxy.

The clients are simulated by a small Go program (bench/watchers): an agent's with a connection for each watch, as
aiohttp has them, kube-proxy's on one HTTP/2 connection, as client-go has them. Pods are watched as where policies speak
of pods on every node, the most an agent ever watches.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from agent.datastore.kubernetes.wire import resource_of
from agent.objects.kinds import KINDS
from bench import processes
from bench.kubernetes_cluster import relabel
from bench.measure import BenchError, Figures, Results
from tests.kubernetes.cluster import ADMIN, ApiError, Cluster

MEMORY: Final = ("API server, RSS more", "MB")
BEGIN: Final = ("API server, to begin", "CPU s")
IDLE: Final = ("API server, nothing happens", "% of a core")
CHANGES: Final = ("API server, for 100 changes", "CPU s")

_CHANGES: Final = 100
_WINDOW_S: Final = 10.0
_WATCH: Final = "watch=true&allowWatchBookmarks=true&timeoutSeconds=3600"
_SOURCE: Final = Path(__file__).parent / "watchers"


def watching(cluster: Cluster, agents: int) -> Results:
    """Measure both, one after the other, each on a server started anew."""
    case = f"{agents:,} nodes watching"
    if shutil.which("go") is None:
        return Results(notes=[f"{case}: left out, needs Go"])
    results = Results()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        program = Path(name) / "watchers"
        build = ["go", "build", "-buildvcs=false", "-o", str(program), "."]
        subprocess.run(build, cwd=_SOURCE, check=True, env=os.environ | {"CGO_ENABLED": "0"})
        own = [f"{resource_of(kind).path()}?{_WATCH}" for kind in KINDS.values() if _is_watched(cluster, kind.name)]
        own = [path + "&fieldSelector=spec.nodeName!%3D" if path.startswith("/api/v1/pods") else path for path in own]
        theirs = [
            f"/api/v1/services?{_WATCH}",
            f"/apis/discovery.k8s.io/v1/endpointslices?{_WATCH}",
            f"/apis/networking.k8s.io/v1/servicecidrs?{_WATCH}",
            f"/api/v1/nodes?{_WATCH}&fieldSelector=metadata.name%3Dnode-1",
        ]

        def change_pods(number: int) -> None:
            relabel(cluster, number, "", {"metadata": {"labels": {"changed": str(time.time_ns())}}})

        def change_endpoints(_: int) -> None:
            cluster.apply(_endpoints(time.time_ns()))

        tortie = partial(_cost, cluster, [program, "-http1"], agents, own, change_pods)
        kube_proxy = partial(_cost, cluster, [program], agents, theirs, change_endpoints)
        results.measure(case, "Tortie", 1, tortie)
        results.measure(case, "kube-proxy", 1, kube_proxy)
    return results


def _is_watched(cluster: Cluster, name: str) -> bool:
    kind = KINDS[name]
    if kind.is_written_by_agents or name == "Secret":
        return False
    with contextlib.suppress(ApiError):
        return bool(cluster.request("GET", f"{resource_of(kind).path()}?limit=1"))
    return False


def _endpoints(number: int) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "bench", "namespace": "default", "labels": {"kubernetes.io/service-name": "bench"}},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": [f"10.0.{number % 250}.{each}"], "conditions": {"ready": True}} for each in range(1, 20)
        ],
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    }


def _cost(
    cluster: Cluster, program: Sequence[str | Path], agents: int, paths: Sequence[str], change: Callable[[int], None]
) -> Figures:
    cluster.stop("kube-apiserver")
    cluster.start_api()
    server = [cluster.pid("kube-apiserver")]
    change(1)
    processes.until_quiet(server, 120.0)
    before = processes.usage(server)
    version = cluster.request("GET", "/api/v1/namespaces?limit=1")["metadata"]["resourceVersion"]
    argv = [*map(str, program), "-server", cluster.url, "-token", f"{ADMIN}-token", "-agents", str(agents)]
    argv += [f"{path}&resourceVersion={version}" for path in paths]
    with _running(argv) as clients:
        if clients.stdout is None or clients.stdout.readline().strip() != b"ready":
            raise BenchError("the watches did not begin")
        began = processes.usage(server)
        time.sleep(_WINDOW_S)
        rested = processes.cpu_s(server)
        time.sleep(_WINDOW_S)
        idle = processes.cpu_s(server) - rested
        for number in range(_CHANGES):
            change(number)
        processes.until_quiet(server, 120.0)
        changed = processes.usage(server)
    return {
        MEMORY: changed.rss_mb - before.rss_mb,
        BEGIN: began.cpu_s - before.cpu_s,
        IDLE: idle / _WINDOW_S * 100,
        CHANGES: changed.cpu_s - rested - idle,
    }


@contextlib.contextmanager
def _running(argv: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()
