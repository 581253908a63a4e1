"""What a node of a lab says of itself, and the processes it is made of."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from agent.cli.client import RefusedError, UnreachableError, ask
from agent.lab import processes
from agent.lab.kernelroutes import KernelRoute, kernel_routes
from agent.lab.lab import Lab
from agent.lab.namespaces import CommandError
from agent.lab.processes import Process
from agent.lab.speakers import DaemonError
from agent.report import AdvertisedRoute, AvailableRoute, InstalledRoute, PeerReport, StatusReport

T = TypeVar("T")
TORTIE = str(Path(sys.executable).with_name("tortie"))


async def status(lab: Lab, node: str) -> StatusReport:
    """Return what `tortie status -o json` says. Raises DaemonError while nobody answers, as all of these do."""
    return await _ask(lab, node, "status", StatusReport)


async def peers(lab: Lab, node: str) -> Mapping[str, PeerReport]:
    """Return the sessions by peer address."""
    return {report.peer: report for report in await _ask(lab, node, "peers", list[PeerReport])}


async def available(lab: Lab, node: str, prefix: str) -> list[AvailableRoute]:
    """Return every path of a prefix, with what became of it."""
    return [row for row in await _ask(lab, node, "routes/available", list[AvailableRoute]) if row.prefix == prefix]


async def advertised(lab: Lab, node: str) -> list[AdvertisedRoute]:
    """Return everything announced, to whomever."""
    return await _ask(lab, node, "routes/advertised", list[AdvertisedRoute])


async def installed(lab: Lab, node: str) -> Mapping[str, InstalledRoute]:
    """Return our routes by prefix."""
    return {row.prefix: row for row in await _ask(lab, node, "routes/installed", list[InstalledRoute])}


async def _ask(lab: Lab, node: str, what: str, answer: type[T]) -> T:
    try:
        return await asyncio.to_thread(ask, lab.run_directory(node) / "agent.sock", what, answer)
    except (UnreachableError, RefusedError) as error:
        raise DaemonError(str(error)) from None


async def batches_taken(lab: Lab, node: str) -> float:
    """Return how many batches of changed objects a node has taken over. Raises OSError while nobody answers."""
    reader, writer = await asyncio.open_unix_connection(lab.run_directory(node) / "agent.sock")
    try:
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        lines = (await reader.read()).decode().splitlines()
    finally:
        writer.close()
        await writer.wait_closed()
    return next(float(line.split()[1]) for line in lines if line.startswith("tortie_object_changes_total "))


async def tortie(lab: Lab, node: str, *words: str) -> str:
    """Return what the command line prints on a node, whatever its exit status. Wide, so that no cell is folded."""
    try:
        return await lab.run(node, "env", "COLUMNS=300", TORTIE, *words)
    except CommandError as error:
        return error.text


async def counters(lab: Lab, machine: str, file: str, group: str) -> Mapping[str, int]:
    """Return a group of counters of a machine's kernel, of /proc/net/`file`."""
    lines = (await lab.run(machine, "cat", f"/proc/net/{file}")).splitlines()
    names, numbers = (line.split()[1:] for line in lines if line.startswith(f"{group}:"))
    return dict(zip(names, map(int, numbers), strict=True))


async def md5_failures(lab: Lab, machine: str) -> int:
    """Return how many TCP segments arrived at a machine signed with another password than its own."""
    return (await counters(lab, machine, "netstat", "TcpExt"))["TCPMD5Failure"]


def agent_of(lab: Lab, node: str) -> Process:
    """Return the agent's process."""
    return next(process for _, program, process in lab.state.processes(node) if program == "agent")


def exabgp_of(lab: Lab, node: str) -> Process:
    """Return the agent's ExaBGP. Raises OSError while there is none."""
    return _child(agent_of(lab, node), "server.py")


def bridge_of(lab: Lab, node: str) -> Process:
    """Return ExaBGP's bridge to the agent. Raises OSError while there is none."""
    return _child(exabgp_of(lab, node), "bridge.py")


def _child(parent: Process, program: str) -> Process:
    for children in Path(f"/proc/{parent.pid}/task").glob("*/children"):
        for pid in map(int, children.read_text().split()):
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            child = processes.find(pid)
            if child is not None and any(word.endswith(program) for word in words):
                return child
    raise FileNotFoundError(f"process {parent.pid} has no child {program}")


async def own_routes(lab: Lab, node: str) -> frozenset[KernelRoute]:
    """Return a node's kernel routes of our protocol; others', such as a link's own, come and go as they like."""
    return frozenset(route for route in await kernel_routes(lab, node) if route.protocol == "97")
