"""What one node's change costs the agents of all others, in a cluster of 5,000: CPU, and how long nothing else runs.

A whole agent runs in a namespace, on the real kernel; only the wire and the API server are not there. Objects come as
the JSON that a watch brings. `python -m bench.nodes WAY COUNT` is the part that runs inside the namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from unittest import mock

import msgspec
import structlog

from agent import daemon
from agent.datastore import Batch, DatastoreHealth
from agent.datastore.feed import Feed
from agent.datastore.kubernetes.source import Source as Known
from agent.datastore.kubernetes.wire import reader_of
from agent.garbage import collect_seldom
from agent.objects.kinds import Keyed
from agent.objects.model import Key
from agent.objects.problem import Problem
from agent.source import Source
from bench.measure import BenchError, Figures, Results, Settings
from bench.network import batch
from bench.network import run as run_program
from bgp.path import AsPath, Attributes
from bgp.speaker import EndOfRib, Update
from bgp.speaker.fake import FakeSpeaker
from inet.prefix import Family, IPAddress, Prefix

NAME: Final = "nodes"
TITLE: Final = "One node's change in a large cluster"
NODES: Final = 5000
MANY: Final = 500
TIMES: Final = 5
MOST_MS: Final = 10.0

_ROOT: Final = Path(__file__).parent.parent
_OWN: Final = "n0"
_QUIET_S: Final = 0.3
_LATER_S: Final = 8.0  # by then what waits for more changes has been done
_ROUTERS: Final = {
    Family.IPV4: (ip_address("172.20.255.1"), ip_address("172.20.255.2")),
    Family.IPV6: (ip_address("fd20::ffff:1"), ip_address("fd20::ffff:2")),
}

WAYS: Final[dict[str, dict[str, Any]]] = {
    "BGP with two routers": {},
    "BGP with two routers, Fallback": {"encapsulation": {"mode": "Fallback"}},
    "Direct": {"nodeRoutes": "Direct"},
    "Direct, Always in VXLAN": {"nodeRoutes": "Direct", "encapsulation": {"mode": "Always"}},
}
"""What NetworkConfiguration says, by the name of the case."""

ADDED, DELETED = "a node comes", "a node goes"
ADDRESS, CIDR = "another address", "another pod CIDR"
LABEL, CHOSEN = "a label nobody asks for", "a label that a BGPPeer chooses by"
HEARTBEAT, BURST = "a heartbeat", f"{MANY} nodes come at once"
CHANGES: Final = (HEARTBEAT, LABEL, CHOSEN, ADDRESS, CIDR, DELETED, ADDED)


def case_name(way: str, count: int) -> str:
    """Return what a case is called."""
    return f"{count:,} nodes, {way}"


def cpu(change: str) -> tuple[str, str]:
    """Return what the CPU time of a change is called."""
    return (f"{change}: CPU", "ms")


def step(change: str) -> tuple[str, str]:
    """Return what the longest step of a change is called."""
    return (f"{change}: longest step", "ms")


START: Final = ("start: CPU", "s")
LATER: Final = ("looked at again afterwards, once for many: CPU", "ms")
MEMORY: Final = ("RSS", "MB")


LIMITS: Final = {
    (case_name(way, NODES), quantity): MOST_MS
    for way in WAYS
    for each in CHANGES
    for quantity in (cpu(each), step(each))
}
"""What Tortie must not exceed, by case and quantity."""


def run(settings: Settings) -> Iterator[Results]:
    """Yield the figures of each way."""
    count = 200 if settings.quick else NODES
    for way in WAYS:
        results = Results()
        results.measure(case_name(way, count), "Tortie", 1, partial(_measure, way, count))
        yield results


def _measure(way: str, count: int) -> Figures:
    name = f"tbn{os.getpid()}"
    run_program("ip", "netns", "add", name)
    try:
        batch(
            name,
            [
                "link set lo up",
                "link add eth0 type veth peer name eth1",
                "addr add 172.20.0.1/16 dev eth0",
                "addr add fd20::1/64 dev eth0 nodad",
                "link set eth0 up",
                "link set eth1 up",
                "route add default via 172.20.255.1",
                "route add default via fd20::ffff:1",
            ],
        )
        argv = ["ip", "netns", "exec", name, sys.executable, "-m", "bench.nodes", way, str(count)]
        done = subprocess.run(argv, cwd=_ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(done.stderr[-1000:].strip())
        return {(quantity, unit): value for quantity, unit, value in json.loads(done.stdout)}
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


# The cluster


def _address(number: int, family: Family, way: str) -> str:
    """Return a node's address: on this node's link with Direct, behind the routers otherwise."""
    link = 0 if WAYS[way].get("nodeRoutes") == "Direct" or number == 0 else 4
    if family is Family.IPV4:
        return f"172.{20 + link}.{number // 250}.{number % 250 + 1}"
    return f"fd2{link}::{number + 1:x}"


def _cidr(number: int, family: Family) -> str:
    return f"10.{64 + number // 256}.{number % 256}.0/24" if family is Family.IPV4 else f"fd42:0:0:{number:x}::/64"


class _Cluster:
    """The objects, as the API server has them."""

    def __init__(self, way: str, count: int) -> None:
        self.nodes = {number: self._node(number, way) for number in range(count)}
        self._way = way
        self._version = 0

    def _node(self, number: int, way: str) -> dict[str, Any]:
        name, cidrs = f"n{number}", [_cidr(number, family) for family in Family]
        images = [{"names": [f"registry.example/image-{each}:1.2.3"], "sizeBytes": 10**8} for each in range(50)]
        conditions = [
            {"type": kind, "status": "False", "lastHeartbeatTime": "2026-11-01T00:00:00Z", "reason": "AsItShouldBe"}
            for kind in ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
        ]
        addresses = [{"type": "InternalIP", "address": _address(number, family, way)} for family in Family]
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "uid": f"{number:08x}-0000-4000-8000-000000000000",
                "creationTimestamp": f"2026-01-01T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}Z",
                "labels": {
                    "kubernetes.io/hostname": name,
                    "kubernetes.io/arch": "amd64",
                    "kubernetes.io/os": "linux",
                    "topology.kubernetes.io/zone": f"zone-{number % 3}",
                    "rack": f"rack-{number // 40}",
                },
                "annotations": {"node.alpha.kubernetes.io/ttl": "0"},
            },
            "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
            "status": {
                "addresses": [*addresses, {"type": "Hostname", "address": name}],
                "conditions": conditions,
                "images": images,
            },
        }

    def add(self, number: int) -> dict[str, Any]:
        """Return a new node."""
        self.nodes[number] = self._node(number, self._way)
        return self.touched(number)

    def touched(self, number: int) -> dict[str, Any]:
        """Return a node under a new resourceVersion."""
        self._version += 1
        self.nodes[number]["metadata"]["resourceVersion"] = str(self._version)
        return self.nodes[number]

    def change(self, kind: str, number: int, time: int) -> dict[str, Any]:
        """Have something happen to a node that stays."""
        node = self.touched(number)
        if kind == HEARTBEAT:
            node["status"]["conditions"][0]["lastHeartbeatTime"] = f"2026-11-01T00:00:{time:02}Z"
        elif kind == LABEL:
            node["metadata"]["labels"]["changed"] = str(time)
        elif kind == CHOSEN:
            node["metadata"]["labels"]["uplink"] = "fast"
        elif kind == ADDRESS:
            for entry, family in zip(node["status"]["addresses"], Family, strict=False):
                entry["address"] = _address(number + 6000, family, self._way)
        elif kind == CIDR:
            node["spec"]["podCIDRs"] = [_cidr(number + 6000, family) for family in Family]
            node["spec"]["podCIDR"] = node["spec"]["podCIDRs"][0]
        return node


def _ours(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "tortie.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def _settings(way: str) -> Iterator[dict[str, Any]]:
    yield _ours("NetworkConfiguration", "default", WAYS[way])
    yield _ours("BGPConfiguration", "default", {"nodeMesh": {"enabled": False}})
    yield _ours("BGPNodeProfile", "fast", {"nodeSelector": {"matchLabels": {"uplink": "fast"}}, "localASN": 64999})
    yield _ours(
        "BGPPeer",
        "fast",
        {"nodeSelector": {"matchLabels": {"uplink": "fast"}}, "peer": {"address": "172.20.255.9"}, "peerASN": 65100},
    )
    for family, addresses in _ROUTERS.items():
        for number, address in enumerate(addresses, 1):
            spec = {"peer": {"address": str(address)}, "peerASN": 65100, "families": [family.label]}
            yield _ours("BGPPeer", f"tor-{number}-{family.label.lower()}", spec)


class _Store:
    """A datastore as the Kubernetes API's, without the server: `agent.datastore.kubernetes` but for connections."""

    def __init__(self) -> None:
        self._feed = Feed()
        self._known: dict[str, Known] = {}

    def hear(self, document: dict[str, Any], *, is_deleted: bool = False) -> None:
        """Take what a watch brings."""
        kind = document["kind"]
        known = self._known.setdefault(kind, Known(kind, self))
        item = reader_of(kind)(msgspec.Raw(msgspec.json.encode(document)))
        if is_deleted:
            known.delete(item.key)
        else:
            known.put(item)

    def listed(self) -> None:
        """Say that this was all there is."""
        self._feed.listed()

    def changed(self, item: Keyed) -> None:
        """Tell of an object."""
        self._feed.put(item)

    def deleted(self, key: Key) -> None:
        """Tell that an object is gone."""
        self._feed.delete(key)

    def set_problems(self, origin: str, *problems: Problem) -> None:
        """Tell what is wrong with something."""
        self._feed.set_problems(origin, problems)

    def progressed(self) -> None:
        """Do nothing."""

    async def start(self) -> None:
        """Do nothing: objects come when they come."""

    def batches(self) -> AsyncIterator[Batch]:
        """Tell what there is, then what changes."""
        return self._feed.batches()

    def health(self) -> DatastoreHealth:
        """Say that all is well."""
        return DatastoreHealth("bench", self._feed.full_lists > 0)

    async def stop(self) -> None:
        """End the batches."""
        self._feed.close()


# The agent


class _Steps:
    """How long, in CPU time of the thread, the event loop was busy with one thing at most."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        run_one = asyncio.Handle._run  # noqa: SLF001 - the one place where every step passes

        def timed(handle: asyncio.Handle) -> None:
            began = time.thread_time()
            run_one(handle)
            self.longest_s = max(self.longest_s, time.thread_time() - began)

        asyncio.Handle._run = timed  # type: ignore[method-assign,assignment]  # noqa: SLF001 - as said

    def take(self) -> float:
        """Return the longest in ms, and begin anew."""
        longest, self.longest_s = self.longest_s, 0.0
        return longest * 1000


async def _quiet() -> float:
    """Wait until nothing happens any more; return the CPU time by then."""
    looks = [time.process_time()]
    while len(looks) < 3 or looks[-1] - looks[-3] > 0.002 * _QUIET_S:
        await asyncio.sleep(_QUIET_S / 2)
        looks.append(time.process_time())
    return looks[-1]


class _Agent:
    """An agent that runs, and what is told to it."""

    def __init__(self, way: str, count: int, store: _Store, speaker: FakeSpeaker, steps: _Steps) -> None:
        self._cluster = _Cluster(way, count)
        self._count = count
        self._way = way
        self._store = store
        self._speaker = speaker
        self._steps = steps
        self._number = count // 2  # of the node that something happens to

    async def start(self) -> dict[tuple[str, str], float]:
        """Have everything told that there is; return what it took."""
        began = time.process_time()
        for document in [*_settings(self._way), *self._cluster.nodes.values()]:
            self._store.hear(document)
        self._store.listed()
        await _quiet()
        for family, routers in _ROUTERS.items():
            prefixes = [Prefix.parse(_cidr(number, family)) for number in self._cluster.nodes if number]
            for router in routers:
                self._hear_router(router, family, prefixes)
        return {START: await _quiet() - began}

    def _hear_router(self, router: IPAddress, family: Family, prefixes: list[Prefix]) -> None:
        self._speaker.bring_up(router)
        if WAYS[self._way].get("nodeRoutes") != "Direct":
            said = Attributes(next_hop=router, as_path=AsPath((65100, 65001)))
            self._speaker.hear(Update(router, said, tuple(prefixes)))
        self._speaker.hear(EndOfRib(router, family))

    async def change(self, kind: str) -> dict[tuple[str, str], float]:
        """Have something happen to some nodes, one after the other; return the medians."""
        used, longest = [], []
        for time_ in range(TIMES):
            self._number += 1
            number = self._number
            if kind == ADDED:
                document = self._cluster.add(self._count + time_)
            elif kind == DELETED:
                document = self._cluster.nodes.pop(number)
            else:
                document = self._cluster.change(kind, number, time_)
            found = await self._cost(partial(self._store.hear, document, is_deleted=kind == DELETED))
            used.append(found[0])
            longest.append(found[1])
        return {cpu(kind): statistics.median(used), step(kind): statistics.median(longest)}

    async def burst(self) -> dict[tuple[str, str], float]:
        """Have many nodes come within a few milliseconds, each by an event of its own."""
        documents = [self._cluster.add(self._count + 100 + each) for each in range(MANY)]

        async def tell() -> None:
            for document in documents:
                self._store.hear(document)
                await asyncio.sleep(0)

        telling: list[asyncio.Task[None]] = []
        used, longest = await self._cost(lambda: telling.append(asyncio.create_task(tell())))
        return {cpu(BURST): used, step(BURST): longest}

    async def later(self) -> dict[tuple[str, str], float]:
        """Have an address change, and wait for what follows when more changes have gathered."""
        await asyncio.sleep(_LATER_S)
        self._store.hear(self._cluster.change(ADDRESS, self._number + 1, 0))
        began = await _quiet()
        await asyncio.sleep(_LATER_S)
        return {LATER: (time.process_time() - began) * 1000}

    async def _cost(self, happen: Callable[[], None]) -> tuple[float, float]:
        """Return the CPU time that something costs, and the longest step of it, in ms."""
        began = await _quiet()
        self._steps.take()
        happen()
        await asyncio.sleep(0)
        return (await _quiet() - began) * 1000, self._steps.take()


async def _inside(way: str, count: int) -> dict[tuple[str, str], float]:
    store, speaker, steps = _Store(), FakeSpeaker(), _Steps()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        stack.enter_context(mock.patch.object(daemon, "ExaBGPSpeaker", return_value=speaker))
        stack.enter_context(mock.patch.object(daemon, "_open_source", return_value=Source(store)))
        options = daemon.Options(config=None, node=_OWN, run_dir=directory, listen=None)
        async with daemon.assemble(options) as parts:
            running = [asyncio.create_task(part()) for part in parts]
            agent = _Agent(way, count, store, speaker, steps)
            found = await agent.start()
            for kind in CHANGES:
                found |= await agent.change(kind)
            found |= await agent.burst()
            found |= await agent.later()
            found[MEMORY] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
            for each in running:
                each.cancel()
            await asyncio.gather(*running, return_exceptions=True)
    return found


def _main() -> None:
    way, count = sys.argv[1], int(sys.argv[2])
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    collect_seldom()
    found = asyncio.run(_inside(way, count))
    print(json.dumps([[quantity, unit, value] for (quantity, unit), value in found.items()]))


if __name__ == "__main__":
    _main()
