"""Reads a cluster once as an agent does, policy's index included, and prints what that took as JSON.

python -m bench.kubernetes_reader KUBECONFIG NODE
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from pathlib import Path

import agent.daemon  # noqa: F401 - what an agent has in memory before it begins
from agent.datastore.kubernetes.datastore import KubernetesDatastore
from agent.garbage import collect_seldom
from agent.kubernetes.access import Access
from agent.kubernetes.client import Client
from agent.namespace import OWN_NAMESPACE
from agent.objects.kinds import Keyed
from agent.objects.model import Key
from agent.objects.policy_objects import update_of
from bench import processes
from policy.compiler import Engine


async def _read(kubeconfig: Path, node: str) -> dict[str, float]:
    client = Client(Access(kubeconfig))
    await client.served()  # the library and a connection are there
    store = KubernetesDatastore(client, node, OWN_NAMESPACE)
    engine, objects = Engine(node), dict[Key, Keyed]()
    gc.collect()
    before, began, cpu = processes.usage([_own_pid()]), time.monotonic(), time.process_time()
    await store.start()
    async for batch in store.batches():
        for key, item in batch.changed.items():
            objects[key] = item
            if (update := update_of(item)) is not None:
                engine.apply(update)
        if batch.is_synced:
            break
    engine.flush()
    took, took_cpu = time.monotonic() - began, time.process_time() - cpu
    gc.collect()
    after = processes.usage([_own_pid()])
    await store.stop()
    return {
        "pods": sum(key.kind == "Pod" for key in objects),
        "wall_s": took,
        "cpu_s": took_cpu,
        "rss_before_mb": before.rss_mb,
        "rss_more_mb": after.rss_mb - before.rss_mb,
        "peak_mb": after.peak_rss_mb,
    }


def _own_pid() -> int:
    return int(Path("/proc/self").readlink().name)


if __name__ == "__main__":
    collect_seldom()
    print(json.dumps(asyncio.run(_read(Path(sys.argv[1]), sys.argv[2]))))
