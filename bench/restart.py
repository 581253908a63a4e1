"""What restarts cost: agent and ExaBGP ended in several ways under steady traffic between pods of two nodes.

A lab of two nodes behind two BIRD routers. Lost packets are those of a stream with a packet every 10 ms; route
events are what `ip monitor route` shows on both nodes. The control run has graceful restart switched off
everywhere: it must lose packets, or the others prove nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

import yaml

from agent.cli import client
from agent.lab.lab import Lab
from agent.lab.state import LabError
from agent.lab.topology import parse
from agent.lab.traffic import route_events, traffic
from agent.lab.wait import eventually
from agent.report import StatusReport
from bench import processes
from bench.measure import BenchError, Figures, Results, Settings
from inet.prefix import Family

NAME: Final = "restart"
TITLE: Final = "Restarts under traffic between pods of two nodes, four flows of a packet each 10 ms"
EVENTS: Final = ("route events on both nodes", "")

_NODES: Final = ("n1", "n2")
_ROUTERS: Final = ("tor-1", "tor-2")
_AFTER_S: Final = 3.0  # for late consequences: End-of-RIB, sweeps, retries

_numbers = itertools.count()

_Fault: TypeAlias = Callable[[Lab], Awaitable[None]]


def lost(family: Family) -> tuple[str, str]:
    """Return the quantity of packets lost."""
    return f"packets lost, {family.label}", ""


async def _stop_agent(lab: Lab) -> None:
    await lab.restart("n1", signal.SIGTERM)


async def _kill_agent(lab: Lab) -> None:
    await lab.restart("n1", signal.SIGKILL)


async def _kill_exabgp(lab: Lab) -> None:
    await _signal_exabgp(lab, signal.SIGKILL)
    await eventually(lambda: _status(lab, "n1"), lambda status: status.speaker_restarts == 1, what="ExaBGP restarted")


async def _terminate_exabgp(lab: Lab) -> None:
    # It stays, on purpose: whoever stops a service sends this to all of its processes, and ExaBGP goes with the agent.
    await _signal_exabgp(lab, signal.SIGTERM)


async def _signal_exabgp(lab: Lab, number: signal.Signals) -> None:
    agents = [process.pid for _, program, process in lab.state.processes("n1") if program == "agent"]
    speakers = [pid for pid in processes.descendants(agents[0]) if "server.py" in processes.command_line(pid)]
    if len(speakers) != 1:
        raise BenchError(f"the agent has {len(speakers)} ExaBGP processes")
    os.kill(speakers[0], number)


CASES: Final[dict[str, tuple[_Fault, bool]]] = {
    "agent stopped and started": (_stop_agent, True),
    "agent killed and started": (_kill_agent, True),
    "ExaBGP sent SIGTERM": (_terminate_exabgp, True),
    "ExaBGP killed": (_kill_exabgp, True),
    "control without graceful restart: agent killed and started": (_kill_agent, False),
}


def run(settings: Settings) -> Iterator[Results]:
    """Yield the figures of each way to restart."""
    for case, (fault, graceful) in CASES.items():
        results = Results()
        rounds = 1 if settings.quick else settings.rounds

        def once(fault: _Fault = fault, *, graceful: bool = graceful) -> Figures:
            try:
                return asyncio.run(_round(fault, graceful=graceful))
            except LabError as error:
                raise BenchError(str(error)) from None

        results.measure(case, "Tortie", rounds, once)
        found = [each for each in results.measurements if each.quantity.startswith("packets lost")]
        if not graceful and not all(all(each.values) for each in found):
            results.failures.append(f"{case}: nothing was lost, so the other cases prove nothing")
        yield results


async def _round(fault: _Fault, *, graceful: bool) -> Figures:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        manifests = Path(directory) / "manifests"
        manifests.mkdir()
        topology = parse(_topology(f"tb{os.getpid()}x{next(_numbers)}", manifests, graceful=graceful))
        root = Path(directory) / "labs"
        try:
            lab = await Lab.up(topology, root=root)
            (manifests / "bgp.yaml").write_text(_manifests(lab, graceful=graceful))
            await _settled(lab)
            async with route_events(lab, *_NODES) as events, traffic(lab, "a1", "b1") as streams:
                await asyncio.sleep(0.5)
                await fault(lab)
                await asyncio.sleep(_AFTER_S)
                await _settled(lab)
        finally:
            with suppress(LabError):  # nothing was built
                await Lab.find(topology.name, root=root).down()
    found: dict[tuple[str, str], float] = {lost(family): len(stream.lost) for family, stream in streams.items()}
    return found | {EVENTS: sum(len(each.lines) for each in events.values())}


async def _status(lab: Lab, node: str) -> StatusReport:
    try:
        return await asyncio.to_thread(client.ask, lab.run_directory(node) / "agent.sock", "status", StatusReport)
    except client.UnreachableError as error:
        raise OSError(str(error)) from None  # which `eventually` takes for "not yet"


async def _settled(lab: Lab) -> None:
    """Wait until both nodes have all sessions and have ended their restart."""

    async def ask() -> list[StatusReport]:
        return [await _status(lab, node) for node in _NODES]

    def are_settled(found: list[StatusReport]) -> bool:
        # A session for each router and family, and a route for each family.
        return all(
            each.sessions_established == 4 and each.routes_installed >= 4 and not each.restarting for each in found
        )

    await eventually(ask, are_settled, within_s=60, every_s=0.1, what="both nodes settled")


def _topology(name: str, manifests: Path, *, graceful: bool) -> dict[str, object]:
    router = {"daemon": "bird", "asn": 65100, "gracefulRestart": graceful}
    nodes = {
        "n1": {"podCIDRs": ["10.42.0.0/24", "fd42:0:0:0::/64"], "pods": ["a1"]},
        "n2": {"podCIDRs": ["10.42.1.0/24", "fd42:0:0:1::/64"], "pods": ["b1"]},
    }
    links = [[node, router] for node in nodes for router in _ROUTERS]
    return {
        "name": name,
        "routers": dict.fromkeys(_ROUTERS, router),
        "nodes": nodes,
        "links": links,
        "manifests": str(manifests),
    }


def _manifests(lab: Lab, *, graceful: bool) -> str:
    head = {"apiVersion": "tortie.dev/v1alpha1"}
    settings = {
        "localASN": 65001,
        "nodeMesh": {"enabled": False},
        "gracefulRestart": {"enabled": graceful},
        "timers": {"holdTimeSeconds": 9},
    }
    objects: list[dict[str, object]] = [
        {**head, "kind": "BGPConfiguration", "metadata": {"name": "default"}, "spec": settings}
    ]
    for node in _NODES:
        for router in _ROUTERS:
            for family in Family:
                spec = {
                    "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": node}},
                    "peer": {"address": str(lab.address(router, family, towards=node))},
                    "peerASN": 65100,
                    "families": [family.label],
                }
                name = f"{node}-{router}-{family.label.lower()}"
                objects.append({**head, "kind": "BGPPeer", "metadata": {"name": name}, "spec": spec})
    return yaml.safe_dump_all(objects, sort_keys=False)
