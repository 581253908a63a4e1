"""One network for the tests of a module: built by the first, left by each as found, given up by one that fails."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import yaml

from agent.lab.kernelroutes import kernel_routes
from agent.lab.lab import Lab, tear_down
from agent.lab.namespaces import CommandError
from agent.lab.speakers import DaemonError
from agent.lab.state import State, default_root
from agent.lab.status import look
from agent.lab.topology import parse
from agent.lab.wait import eventually
from agent.report import PeerReport
from tests.lab import missing, show_logs
from tests.scenarios import nodes
from tests.scenarios.scenes import Scene

SETTLE_DEADLINE_S: Final = 90
_numbers = itertools.count(1)


def on(*scenes: Scene) -> pytest.MarkDecorator:
    """Have every test of a module play in each of these scenes."""
    return pytest.mark.parametrize("stage", scenes, indirect=True, scope="module", ids=lambda scene: scene.name)


class Stage:
    """A scene, and its lab while there is one."""

    def __init__(self, scene: Scene, directory: Path) -> None:
        self.scene = scene
        self._directory = directory
        self._lab: Lab | None = None
        self._is_whole = False  # nothing was built or mended since everything was looked at

    async def enter(self) -> Lab:
        """Return the lab with everything in it working. Skips the test where it cannot be built."""
        if lacking := missing(self.scene.topology):
            pytest.skip(lacking)
        if self._lab is None:
            self._lab, self._is_whole = await self._build(), False
        await self.settled(self._lab, look_everywhere=not self._is_whole)
        self._is_whole = True
        return self._lab

    async def leave(self) -> None:
        """Undo what a test did to manifests, links and processes."""
        if self._lab is None:
            return
        lab, faults = self._lab, self._lab.faults()
        for machine in faults.off:
            await lab.power_on(machine)
        for number in faults.cut | faults.silent:
            cable = lab.plan.cables[number]
            await lab.heal_link(cable.a.machine, cable.b.machine)
        self._is_whole = not (faults.off or faults.cut or faults.silent)
        for machine in (*lab.plan.speakers, *self.scene.sessions):
            if not lab.is_running(machine):
                self._is_whole = False
                await _stop_rest(lab, machine)
                await lab.start(machine)
        before = {node: await nodes.batches_taken(lab, node) for node in self.scene.sessions}
        if self._write_manifests(lab.manifests):
            for node, count in before.items():
                await eventually(partial(nodes.batches_taken, lab, node), count.__lt__, what=f"{node} has read all")

    async def close(self, *, show: bool = False) -> None:
        """Take the lab away; `show` its logs first."""
        lab, self._lab = self._lab, None
        if lab is not None:
            if show:
                show_logs(lab.state)
            await tear_down(lab.state)

    async def settled(self, lab: Lab, *, look_everywhere: bool = True) -> None:
        """Wait until nothing is amiss, as our nodes see it or, if wanted, at every machine."""
        what = f"every session up and every route in place ({self.scene.name})"
        probe = partial(self.amiss, lab, look_everywhere=look_everywhere)
        await eventually(probe, [].__eq__, within_s=SETTLE_DEADLINE_S, what=what)

    async def without_graceful_restart(self, lab: Lab) -> None:
        """Have no node offer it any more, until the test ends."""
        (cluster,) = self.scene.manifests["cluster.yaml"]
        changed = {**cluster, "spec": {**cluster["spec"], "gracefulRestart": {"enabled": False}}}
        before = {node: await nodes.peers(lab, node) for node in self.scene.sessions}
        (lab.manifests / "cluster.yaml").write_text(yaml.safe_dump(changed))
        for node, peers in before.items():
            await eventually(partial(_are_renewed, lab, node, peers), within_s=30, what=f"new sessions of {node}")
        await self.settled(lab)

    async def amiss(self, lab: Lab, *, look_everywhere: bool) -> list[str]:
        """Return what is not as it has to be."""
        found = [text for node in self.scene.sessions for text in await _amiss_at_node(self.scene, lab, node)]
        if found or not look_everywhere:
            return found
        seen = await look(lab)
        return [
            *(f"{machine.name} is {machine.state}" for machine in seen.machines if machine.state == "ended"),
            *(f"{link.a}-{link.b} is {link.state}" for link in seen.links if link.state != "up"),
            *(
                f"{session.machine} has {session.peer} {session.state}"
                for session in seen.sessions
                if session.state != "Established"
            ),
            *await _kernels_amiss(self.scene, lab),
        ]

    async def _build(self) -> Lab:
        name = f"s{os.getpid()}-{next(_numbers)}"
        directory = self._directory / name
        directory.mkdir()
        self._write_manifests(directory)
        try:
            return await Lab.up(parse({**self.scene.topology, "name": name, "manifests": str(directory)}))
        except BaseException:
            if (state := State(default_root() / name)).path.exists():
                await tear_down(state)
            raise

    def _write_manifests(self, directory: Path) -> bool:
        """Make the manifests those of the scene; whether anything was different."""
        found = {path.name: path.read_text() for path in directory.iterdir()}
        wanted = {name: yaml.safe_dump_all(objects) for name, objects in self.scene.manifests.items()}
        for name in found.keys() - wanted.keys():
            (directory / name).unlink()
        for name, text in wanted.items():
            if found.get(name) != text:
                (directory / name).write_text(text)
        return found != wanted


async def _amiss_at_node(scene: Scene, lab: Lab, node: str) -> list[str]:
    try:
        report = await nodes.status(lab, node)
    except DaemonError as error:
        return [str(error)]
    found = [f"{node}: {problem}" for problem in report.problems]
    if not report.ready:
        found += [f"{node}: {it.reason}: {it.message}" for it in report.conditions]
    if report.sessions_established != scene.sessions[node]:
        found.append(f"{node}: {report.sessions_established} of {scene.sessions[node]} sessions")
    if report.sessions_pending:
        found.append(f"{node} has {report.sessions_pending} sessions to change")
    stale = sum(family.stale for peer in (await nodes.peers(lab, node)).values() for family in peer.families)
    if stale:
        found.append(f"{node} has {stale} stale paths")
    rows = await nodes.installed(lab, node)
    for prefix in _foreign_pods(lab, node):
        if prefix not in rows or len(rows[prefix].via) != scene.ways or rows[prefix].state != "in kernel":
            found.append(f"{node} has {rows.get(prefix)} for {prefix}")
    if report.restarting:
        found.append(f"{node} waits for {', '.join(report.waiting_for)}")
    if report.routes_pending:
        found.append(f"{node} has {report.routes_pending} routes to write")
    return found


def _foreign_pods(lab: Lab, node: str) -> set[str]:
    return {str(cidr) for other, facts in lab.plan.nodes.items() for cidr in facts.pod_cidrs if other != node}


async def _kernels_amiss(scene: Scene, lab: Lab) -> list[str]:
    """Every node has a way, or as many as there are routers, to the pods of every other node."""
    found = []
    for machine in lab.plan.nodes:
        try:
            last_wins = sorted(await kernel_routes(lab, machine), key=lambda route: route.metric, reverse=True)
        except CommandError as error:
            return [str(error)]
        ways = {route.prefix: len(route.ways) for route in last_wins}
        found += [
            f"{machine} has {ways.get(prefix, 0)} ways to {prefix}"
            for prefix in _foreign_pods(lab, machine)
            if ways.get(prefix) != scene.ways
        ]
    return found


async def _are_renewed(lab: Lab, node: str, before: Mapping[str, PeerReport]) -> bool:
    return all(report.flaps > before[peer].flaps for peer, report in (await nodes.peers(lab, node)).items())


async def _stop_rest(lab: Lab, machine: str) -> None:
    """Stop what is left of a daemon of several processes."""
    if list(lab.state.processes(machine)):
        await lab.kill(machine)
