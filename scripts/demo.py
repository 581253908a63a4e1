"""Tortie at work: two racks on this machine, real routers, real packets. `make demo` runs it.

Builds examples/two-racks.yaml, shows sessions, routes and pods that reach each other, takes a router away (its process,
then its links), restarts an agent under traffic, and leaves the lab up to look around in. Exit status 1 if anything
did not turn out as promised.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from demo_policy import show_policy
from rich.console import Console

from agent.lab.draw import draw
from agent.lab.lab import Lab, tear_down
from agent.lab.namespaces import CommandError
from agent.lab.rootless import enter_unless_root
from agent.lab.state import LabError, State, default_root, running
from agent.lab.status import look
from agent.lab.topology import load
from agent.lab.traffic import RouteEvents, route_events, traffic
from agent.lab.wait import eventually
from inet.prefix import Family

TOPOLOGY = Path(__file__).parent.parent / "examples" / "two-racks.yaml"
TORTIE = Path(sys.executable).with_name("tortie")
FAILOVER_MS = 50  # what a dead router may cost; a restart may cost nothing

INSIDE = "TORTIE_DEMO_INSIDE"

out = Console(highlight=False)
failures: list[str] = []


def chapter(text: str) -> None:
    out.print(f"\n[bold cyan]{text}[/]")


def verdict(is_good: bool, text: str) -> None:
    out.print(("[green]  ok   [/]" if is_good else "[red]  FAIL [/]") + text)
    if not is_good:
        failures.append(text)


async def tortie(lab: Lab, node: str, *words: str) -> None:
    """Show what a command prints on a node."""
    out.print(f"[dim]{node}$ tortie {' '.join(words)}[/]")
    process = await asyncio.create_subprocess_exec(*lab.command(node, [str(TORTIE), *words]))
    await process.wait()


@asynccontextmanager
async def under_traffic(lab: Lab, what: str, *, allowed_ms: float, quiet: tuple[str, ...] = ()) -> AsyncIterator[None]:
    """Send between pods of two racks, in both families, while something happens; then say what was lost."""
    async with route_events(lab, *quiet) as events, traffic(lab, "a1", "b1") as streams:
        yield
    for stream in streams.values():
        verdict(stream.lost_s * 1000 <= allowed_ms, f"{what}: {stream}")
    for recorded in events.values():
        verdict(not recorded.lines, f"{what}: {_count(recorded)}")


def _count(recorded: RouteEvents) -> str:
    return f"{recorded.machine}: {len(recorded.lines)} route events"


async def healthy(lab: Lab) -> None:
    await eventually(
        partial(look, lab), lambda status: status.is_healthy, within_s=60, what="every session established"
    )


async def pings(lab: Lab) -> None:
    pods = list(lab.topology.pods)
    for source in pods:
        for destination in pods:
            if source != destination:
                for option, family in (("-4", Family.IPV4), ("-6", Family.IPV6)):
                    address = str(lab.address(destination, family))
                    try:
                        await lab.run(source, "ping", option, "-c1", "-W2", "-q", address)
                    except CommandError:
                        verdict(is_good=False, text=f"{source} does not reach {destination} ({address})")
    verdict(not failures, f"every one of {len(pods)} pods reaches every other, IPv4 and IPv6")


async def show(lab: Lab) -> None:
    await healthy(lab)
    out.print(draw(await look(lab)))
    await tortie(lab, "n1", "peers")

    chapter("Pods on different nodes and racks reach each other by learned routes")
    await pings(lab)
    await tortie(lab, "n1", "routes", "installed")

    chapter("A router's BGP process dies and returns: it forwards all the while, so its routes are kept")
    async with under_traffic(lab, "tor-1 without BGP", allowed_ms=0, quiet=tuple(lab.plan.nodes)):
        await lab.kill("tor-1")
        await eventually(partial(_says, lab, "routes kept"), what="sessions down")
        await tortie(lab, "n1", "peers")
        await lab.restart("tor-1")
        await healthy(lab)

    chapter("A router loses power, process and links: the kernel leaves the dead hop, the agent follows")
    async with under_traffic(lab, "tor-2 off", allowed_ms=FAILOVER_MS):
        await lab.power_off("tor-2")
        await eventually(partial(_hops, lab), lambda hops: hops == len(Family), within_s=20, what="one hop left")
    await tortie(lab, "n1", "routes", "explain", "10.42.2.0/24")
    await lab.power_on("tor-2")
    await healthy(lab)
    await eventually(partial(_hops, lab), lambda hops: hops == 2 * len(Family), within_s=20, what="both hops again")

    chapter("The agent restarts under traffic: no packet lost, no route touched on any node")
    async with under_traffic(lab, "n1 restarted", allowed_ms=0, quiet=tuple(lab.plan.nodes)):
        await lab.restart("n1")
        await healthy(lab)

    chapter("A NetworkPolicy is written while pods talk: new connections and established ones obey, and why is told")
    await show_policy(lab, say=out.print, verdict=verdict, tortie=tortie)

    chapter("How it stands")
    for node in ("n1", "n3"):
        await tortie(lab, node, "peers")
        await tortie(lab, node, "routes", "installed")


async def _hops(lab: Lab) -> int:
    """Return how many next hops n1 has for rack b, both families together."""
    routes = json.loads(await _tortie(lab, "n1", "routes", "installed", "-o", "json"))
    return sum(len(route["via"]) for route in routes if route["prefix"] in {"10.42.2.0/24", "fd42:0:0:2::/64"})


async def _tortie(lab: Lab, node: str, *words: str) -> str:
    """Return what a command prints on a node, whatever its exit status."""
    return await lab.run(node, "sh", "-c", '"$@" || true', "sh", str(TORTIE), *words)


async def _says(lab: Lab, words: str) -> bool:
    return words in await _tortie(lab, "n1", "peers")


async def run() -> None:
    topology = load(TOPOLOGY)
    if topology.name in running(default_root()):
        await tear_down(State.find(default_root(), topology.name))
    chapter("Two racks, four nodes, two routers (BIRD)")
    if is_rootless():
        out.print("Without root: in a user namespace of its own, which ends with this program. FRR cannot run there.")
    lab = await Lab.up(topology)
    try:
        await show(lab)
    except TimeoutError as error:
        verdict(is_good=False, text=str(error))
    await look_around(lab)


async def look_around(lab: Lab) -> None:
    """Say what can be tried in the lab that is up; without root it is up as long as this program is."""
    chapter("Look around")
    if is_rootless() and not sys.stdin.isatty():
        out.print("Without root the lab ends here; from a terminal there would be a shell inside.")
        await lab.down()
        return
    for words in (
        "lab status",
        "lab exec n1 -- tortie peers",
        "lab exec a1 -- ping b1",
        "lab fail link n1:tor-1",
        "lab heal link n1:tor-1",
        "lab kill tor-2",
        "lab restart tor-2",
        "lab down",
    ):
        out.print(f"  .venv/bin/tortie {words}")
    out.print(f"  edit {TOPOLOGY.with_suffix('')}/*.yaml while it runs")
    if is_rootless():
        out.print("This shell is inside; leaving it ends the lab.")
        shell = await asyncio.create_subprocess_exec(os.environ.get("SHELL", "/bin/sh"))
        await shell.wait()
        await lab.down()


def is_rootless() -> bool:
    """Whether this is the copy of the program that runs in a user namespace."""
    return INSIDE in os.environ


def main() -> None:
    if os.geteuid() != 0:
        os.environ[INSIDE] = "1"
        enter_unless_root()
    missing = [
        program
        for program in ("bird", "ip", "ping")
        if shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None
    ]
    if missing:
        raise SystemExit(f"demo: not installed: {', '.join(missing)} (make setup as root installs them)")
    try:
        asyncio.run(run())
    except LabError as error:
        raise SystemExit(f"demo: {error}") from None
    if failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
