"""Routes into the kernel by themselves: felix's writer, without BGP, beside `ip -batch`.

Each writer is a process of its own, so that its CPU time is all there is to count: `python -m bench.kernel_writer
WHAT FAMILY COUNT`, in the node. The kernel's part of the work is in it, since netlink writes are system calls.
"""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from bench import load, network
from bench.measure import BenchError, Figures, Results, Settings
from bench.network import Network
from felix.fib import Fib
from felix.netlinktable import open_route_table
from felix.route import NextHop, unicast
from felix.routetable import PutGroup, PutRoute
from inet.prefix import Family

NAME: Final = "kernel-writer"
TITLE: Final = "Kernel writer alone"
CPU: Final = ("CPU", "s")
TIME: Final = ("time", "ms")

WRITER, FIB, IP_BATCH = "writer", "fib", "ip"
_SUBJECTS: Final = {WRITER: "Tortie", FIB: "Tortie", IP_BATCH: "ip -batch"}
_ROOT: Final = Path(__file__).parent.parent
_INTERFACE: Final = 11


def case_name(count: int, family: Family, what: str = WRITER) -> str:
    """Return what a case is called: bare writing, or by way of the FIB, which also keeps account of it."""
    return f"{count:,} new routes{' through the FIB' if what == FIB else ''}, {family.label}"


def run(settings: Settings) -> Iterator[Results]:
    """Yield the figures of each case as it is done."""
    count = 1000 if settings.quick else 100_000
    for family in Family:
        results = Results()
        for what, subject in _SUBJECTS.items():
            once = partial(_round, what, count, family)
            results.measure(case_name(count, family, what), subject, settings.rounds, once)
        yield results


def _round(what: str, count: int, family: Family) -> Figures:
    with Network(1) as net:
        gateway = str(network.address(1, 2, family))
        if what == IP_BATCH:
            found = _ip_batch(net, count, family, gateway)
        else:
            argv = [sys.executable, "-m", "bench.kernel_writer", what, str(int(family)), str(count), gateway]
            command = ["ip", "netns", "exec", net.node, *argv]
            done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BenchError(done.stderr.strip() or f"{what} ended with status {done.returncode}")
            found = json.loads(done.stdout)
        load.verify(net, family, count)
    return {CPU: found["cpu_s"], TIME: found["time_s"] * 1000}


def _ip_batch(net: Network, count: int, family: Family, gateway: str) -> dict[str, float]:
    lines = [
        f"route add {prefix} via {gateway} dev eth1 proto 97 metric 9700" for prefix in load.prefixes(family, count)
    ]
    with tempfile.NamedTemporaryFile("w", prefix="bench-") as file:
        file.write("\n".join(lines))
        file.flush()
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        network.run("ip", "-6" if family is Family.IPV6 else "-4", "-n", net.node, "-batch", file.name)
        ended, after = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_s": cpu_s, "time_s": ended - began}


async def _write(count: int, family: Family, gateway: bytes) -> None:
    table = open_route_table()
    group = table.new_group(family)
    changes = [PutGroup(group, family, (NextHop(gateway, _INTERFACE),), is_new=True)]
    refusals = await table.write(
        [*changes, *(PutRoute(prefix, group, is_new=True) for prefix in load.prefixes(family, count))]
    )
    table.close()
    if refusals:
        raise BenchError(f"{len(refusals)} refused, the first: {refusals[0]}")


async def _set_and_apply(count: int, family: Family, gateway: bytes) -> None:
    table = open_route_table()
    fib = Fib(table)
    hops = (NextHop(gateway, _INTERFACE),)
    for prefix in load.prefixes(family, count):
        fib.set(unicast(prefix, hops))
    await fib.apply()
    table.close()


def main(arguments: Sequence[str]) -> None:
    """Write, and print what it took."""
    what, family, count, gateway = arguments[0], Family(int(arguments[1])), int(arguments[2]), arguments[3]
    packed = socket.inet_pton(family, gateway)
    work = _write if what == WRITER else _set_and_apply
    cpu_before, began = time.process_time(), time.monotonic()
    asyncio.run(work(count, family, packed))
    ended, cpu_after = time.monotonic(), time.process_time()
    sys.stdout.write(json.dumps({"cpu_s": cpu_after - cpu_before, "time_s": ended - began}))


if __name__ == "__main__":
    main(sys.argv[1:])
