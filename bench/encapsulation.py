"""Tunnels: throughput and latency beside plain routing, a VXLAN made by hand and flannel's way; and 5,000 nodes.

Throughput is a ratio: of each round, what Tortie's way carries to what its rival carries in the same second or two,
since a machine that does other things beside has no throughput to speak of. Pods sit behind two nodes, each in a
namespace: `python -m bench.encapsulation WHAT ...` is the part of a case that runs inside one.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Self

from bench.measure import BenchError, Figures, Results, Settings
from bench.network import batch, entered
from bench.network import run as run_program
from bgp.carriage import OVERHEAD, hardware_address
from bgp.config import TunnelType
from felix.backstops import KernelBackstops
from felix.encap import Outer
from felix.fib import Fib
from felix.netlinktable import open_route_table
from felix.route import NextHop, unicast
from felix.tunnelmessages import Device, Kind
from felix.tunnels import KernelTunnels
from inet.prefix import Family, Prefix

NAME: Final = "encapsulation"
TITLE: Final = "Tunnels and node routes"
NODES: Final = 5000
MOVED: Final = 1000
TURNS: Final = 9
VNI: Final = 4096
PORT: Final = 4789

BUILD: Final = ("tunnels, routes and blackholes in the kernel", "s")
CHANGE: Final = ("another address of one node in the kernel", "ms")
BUILD_CPU: Final = ("CPU for all of that", "s")
CHANGE_CPU: Final = ("CPU for that", "ms")
MEMORY: Final = ("memory after it", "MB")
MOVE: Final = (f"{MOVED:,} destinations from direct to tunnel", "ms")
BEHIND_TCP: Final = ("TCP throughput below", "%")
BEHIND_UDP: Final = ("UDP packets below", "%")
LATENCY: Final = ("round trip above", "%")

_ROOT: Final = Path(__file__).parent.parent
_STREAM: Final = str(Path(__file__).with_name("stream.py"))
_numbers = itertools.count()


def case_name(count: int) -> str:
    """Return what the case of many nodes is called."""
    return f"{count:,} nodes, both families"


def rival_name(way: str, rival: str) -> str:
    """Return what a comparison is called."""
    return f"{way} beside {rival}"


COMPARISONS: Final = (("direct", "plain routing"), ("VXLAN", "VXLAN by hand"), ("VXLAN", "flannel's way"))


LIMITS: Final = {
    **{(case_name(NODES), quantity): limit for quantity, limit in ((BUILD, 1.5), (CHANGE, 5.0), (MOVE, 200.0))},
    **{(rival_name(way, rival), quantity): 2.0 for way, rival in COMPARISONS for quantity in (BEHIND_TCP, BEHIND_UDP)},
}
"""What Tortie must not exceed, by case and quantity."""


def run(settings: Settings) -> Iterator[Results]:
    """Yield the figures of each case as it is done."""
    count = 200 if settings.quick else NODES
    results = Results()
    results.measure(case_name(count), "Tortie", settings.rounds, partial(_entries, count))
    results.measure(case_name(count), "flannel's way", settings.rounds, partial(_flannel_entries, count))
    yield results
    seconds = 0.5 if settings.quick else 4.0
    results = Results()
    for way, rival in COMPARISONS:
        results.measure(rival_name(way, rival), "Tortie", settings.rounds, partial(_compare, way, rival, seconds))
    results.notes.append("below 0: Tortie carries more than the other does, in the same seconds")
    yield results


# Many nodes


def _entries(count: int) -> Figures:
    with _Space() as space:
        found = json.loads(_inside(space.name, "entries", str(count)))
    return {
        BUILD: found["build"],
        BUILD_CPU: found["build_cpu"],
        CHANGE: found["change"],
        CHANGE_CPU: found["change_cpu"],
        MEMORY: found["rss"],
        MOVE: found["move"],
    }


def _inside(namespace: str, *words: str) -> str:
    argv = ["ip", "netns", "exec", namespace, sys.executable, "-m", "bench.encapsulation", *words]
    done = subprocess.run(argv, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(done.stderr.strip() or f"{words[0]} ended with status {done.returncode}")
    return done.stdout


class _Space:
    """A node alone, with one link."""

    def __init__(self) -> None:
        self.name = f"tbe{os.getpid()}x{next(_numbers)}"

    def __enter__(self) -> Self:
        run_program("ip", "netns", "add", self.name)
        batch(
            self.name,
            [
                "link set lo up",
                "link add eth0 index 11 type veth peer name eth1",
                "addr add 172.20.0.1/16 dev eth0",
                "addr add fd20::1/64 dev eth0 nodad",
                "link set eth0 up",
                "link set eth1 up",
            ],
        )
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)


def _far(number: int, family: Family) -> bytes:
    text = f"172.20.{number // 250}.{number % 250 + 2}" if family is Family.IPV4 else f"fd20::{number + 2:x}"
    return ip_address(text).packed


def _cidr(number: int, family: Family) -> Prefix:
    if family is Family.IPV4:
        return Prefix.parse(f"10.{64 + number // 256}.{number % 256}.0/24")
    return Prefix.parse(f"fd42:0:0:{number:x}::/64")


def _gateway(number: int, family: Family) -> bytes:
    return _far(number, family) if family is Family.IPV4 else b"\xfe\x80" + bytes(10) + number.to_bytes(4)


def _device(name: str, *own: bytes) -> Device:
    sizes = tuple((family, 1500 - OVERHEAD[TunnelType.VXLAN, family]) for family in Family)
    return Device(Kind.VXLAN, sizes, port=PORT, mac=hardware_address(name), addresses=own)


async def _build_entries(count: int) -> dict[str, float]:
    tunnels, backstops, fib = KernelTunnels(), KernelBackstops(), Fib(open_route_table())
    numbers = [(number, family) for number in range(count) for family in Family]
    neighbours = {_gateway(number, family): hardware_address(f"n{number}") for number, family in numbers}
    began, cpu_began = time.monotonic(), time.process_time()
    await backstops.want(_cidr(*each) for each in numbers)
    await tunnels.want([_device("n-own")], neighbours)
    device = tunnels.interface(Kind.VXLAN)
    if device is None:
        raise BenchError(str(tunnels.problems))
    for each in numbers:
        fib.set(unicast(_cidr(*each), [_tunnel(each, device)]))
    await fib.apply()
    built, cpu_built = time.monotonic(), time.process_time()
    for family in Family:
        neighbours[_gateway(count + 1, family)] = hardware_address("n7")
        fib.set(unicast(_cidr(7, family), [_tunnel((count + 1, family), device)]))
    await tunnels.want([_device("n-own")], neighbours)
    await fib.apply()
    changed, cpu_changed = time.monotonic(), time.process_time()
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    moved = numbers[:MOVED]
    for number, family in moved:
        fib.set(unicast(_cidr(number, family), [NextHop(_far(0, family), 11)]))
    await fib.apply()
    ready = time.monotonic()
    for each in moved:
        fib.set(unicast(_cidr(*each), [_tunnel(each, device)]))
    await fib.apply()
    done = time.monotonic()
    if fib.errors or fib.count != len(numbers) or tunnels.problems:
        raise BenchError(f"{fib.count} of {len(numbers)} routes, {len(fib.errors)} refused")
    return {
        "build": built - began,
        "build_cpu": cpu_built - cpu_began,
        "change": (changed - built) * 1000,
        "change_cpu": (cpu_changed - cpu_built) * 1000,
        "rss": rss,
        "move": (done - ready) * 1000 * MOVED / len(moved),
    }


def _tunnel(each: tuple[int, Family], device: int) -> NextHop:
    return NextHop(_gateway(*each), device, onlink=True, outer=Outer(_far(*each), b"", VNI))


def _flannel_entries(count: int) -> Figures:
    """Do what flannel does for each node and family, by three requests, without its waiting for each of them."""
    with _Space() as space:
        batch(space.name, [f"link add flannel.1 type vxlan id 1 dstport {PORT} dev eth0 nolearning", *_UP])
        lines: list[str] = []
        forwarding: list[str] = []
        for number in range(count):
            mac = hardware_address(f"n{number}").hex(":")
            near = ip_address(_cidr(number, Family.IPV4).packed)
            lines.append(f"neigh add {near} lladdr {mac} dev flannel.1 nud permanent")
            lines.append(f"route add {_cidr(number, Family.IPV4)} via {near} dev flannel.1 onlink")
            forwarding.append(f"fdb add {mac} dev flannel.1 dst {ip_address(_far(number, Family.IPV4))}")
        began = time.monotonic()
        batch(space.name, lines)
        run_program("ip", "netns", "exec", space.name, "bridge", "-batch", "-", text="\n".join(forwarding))
        taken = time.monotonic() - began
    return {("the same of one family, as batches of ip and bridge", "s"): taken}


_UP: Final = ("link set flannel.1 up",)


# Two nodes, two pods


class _Pair:
    """p1 behind n1, p2 behind n2, the nodes joined by a cable. The way between them is `lay`'s to make."""

    def __init__(self) -> None:
        number = next(_numbers)
        self.nodes = [f"tbe{os.getpid()}n{number}x{end}" for end in (1, 2)]
        self.pods = [f"tbe{os.getpid()}p{number}x{end}" for end in (1, 2)]

    def __enter__(self) -> Self:
        for name in (*self.nodes, *self.pods):
            run_program("ip", "netns", "add", name)
            batch(name, ["link set lo up"])
        run_program(*f"ip -n {self.nodes[0]} link add eth0 type veth peer name eth0 netns {self.nodes[1]}".split())
        for end, (node, pod) in enumerate(zip(self.nodes, self.pods, strict=True), 1):
            with entered(node):
                Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")
            run_program(*f"ip -n {node} link add pod type veth peer name eth0 netns {pod}".split())
            batch(
                node,
                [
                    f"addr add 172.20.0.{end}/24 dev eth0",
                    "link set eth0 up",
                    "link set pod up",
                    "addr add 169.254.1.1/32 dev pod",
                    f"route add 10.42.{end}.2/32 dev pod",
                ],
            )
            batch(
                pod,
                [
                    f"addr add 10.42.{end}.2/32 dev eth0",
                    "link set eth0 mtu 1450 up",
                    "route add 169.254.1.1 dev eth0",
                    "route add default via 169.254.1.1",
                ],
            )
        return self

    def __exit__(self, *_: object) -> None:
        for name in (*self.pods, *self.nodes):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def lay(self, way: str) -> None:
        """Make the way between the nodes, both directions."""
        for end, node in enumerate(self.nodes, 1):
            other = 3 - end
            if way in {"direct", "VXLAN"}:
                _inside(node, "lay", way, str(end))
            elif way == "plain routing":
                batch(node, [f"route add 10.42.{other}.0/24 via 172.20.0.{other} dev eth0"])
            elif way == "VXLAN by hand":
                make = f"link add vx type vxlan id {VNI} dstport {PORT} dev eth0 remote 172.20.0.{other}"
                lines = [make, f"addr add 10.99.0.{end}/24 dev vx", "link set vx up"]
                batch(node, [*lines, f"route add 10.42.{other}.0/24 via 10.99.0.{other} dev vx"])
            else:
                mac, own = (hardware_address(f"n{number}").hex(":") for number in (other, end))
                make = f"link add flannel.1 address {own} type vxlan id 1 dstport {PORT} dev eth0 nolearning"
                lines = [make, "link set flannel.1 up"]
                lines += [f"neigh add 10.42.{other}.0 lladdr {mac} dev flannel.1 nud permanent"]
                batch(node, [*lines, f"route add 10.42.{other}.0/24 via 10.42.{other}.0 dev flannel.1 onlink"])
                fdb = f"bridge fdb add {mac} dev flannel.1 dst 172.20.0.{other}"
                run_program("ip", "netns", "exec", node, *fdb.split())


async def _lay(way: str, end: int) -> None:
    """Make our way to the other node, with what the agent uses."""
    fib, other = Fib(open_route_table()), 3 - end
    destination, far = Prefix.parse(f"10.42.{other}.0/24"), ip_address(f"172.20.0.{other}").packed
    if way == "direct":
        fib.set(unicast(destination, [NextHop(far, socket.if_nametoindex("eth0"))]))
    else:
        tunnels = KernelTunnels()
        own = ip_address(f"10.42.{end}.0").packed
        await tunnels.want([_device(f"n{end}", own)], {far: hardware_address(f"n{other}")})
        outer = Outer(far, ip_address(f"172.20.0.{end}").packed, VNI)
        fib.set(unicast(destination, [NextHop(far, tunnels.interface(Kind.VXLAN) or 0, onlink=True, outer=outer)]))
        await KernelBackstops().want([destination])
    await fib.apply()
    if fib.errors:
        raise BenchError(str(fib.errors))


def _compare(way: str, rival: str, seconds: float) -> Figures:
    """Take many short turns, and the median of what one carries to what the other does right after."""
    with _Pair() as ours, _Pair() as theirs:
        ours.lay(way)
        theirs.lay(rival)
        ratios = {
            kind: statistics.median(
                _measure(ours, kind, seconds / TURNS) / _measure(theirs, kind, seconds / TURNS) for _ in range(TURNS)
            )
            for kind in ("tcp", "udp", "rtt")
        }
    return {
        BEHIND_TCP: 100 * (1 - ratios["tcp"]),
        BEHIND_UDP: 100 * (1 - ratios["udp"]),
        LATENCY: 100 * (ratios["rtt"] - 1),
    }


def _measure(pair: _Pair, kind: str, seconds: float) -> float:
    receiver = subprocess.Popen(
        ["ip", "netns", "exec", pair.pods[1], sys.executable, "-IS", _STREAM, "receive", kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        if receiver.stdout is None or not receiver.stdout.readline():
            raise BenchError("the receiver ended early")
        argv = ["ip", "netns", "exec", pair.pods[0], sys.executable, "-IS", _STREAM, "send", kind, str(seconds)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(done.stderr.strip())
        return float(done.stdout)
    finally:
        receiver.kill()
        receiver.wait()


def main(arguments: Sequence[str]) -> None:
    """Do one part of a case inside a namespace."""
    what, *rest = arguments
    if what == "lay":
        asyncio.run(_lay(rest[0], int(rest[1])))
    else:
        sys.stdout.write(json.dumps(asyncio.run(_build_entries(int(rest[0])))))


if __name__ == "__main__":
    main(sys.argv[1:])
