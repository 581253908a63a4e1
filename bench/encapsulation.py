"""Tunnels: throughput and latency beside plain routing, a VXLAN made by hand and flannel's way; and 5,000 nodes.

Throughput is a ratio: of each turn, what Tortie's way carries to what its rival carries in the moment after
(`bench.nodepair`). `python -m bench.encapsulation entries COUNT` is the part of a case that runs inside a namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Self

from agent import tunnel_rules
from agent.policy_table import content_of
from bench.measure import BenchError, Figures, Results, Settings
from bench.network import batch
from bench.network import run as run_program
from bench.nodepair import POD_MTU, NodePair, node_address, pod_address, pod_cidr
from bgp.carriage import OVERHEAD, hardware_address
from bgp.config import TunnelType
from bgp.switchover import Medium
from felix.backstops import KernelBackstops
from felix.farends import FarEnd
from felix.fib import Fib
from felix.namespaces import entered
from felix.netlinktable import open_route_table
from felix.nft.enforcement import Content, Enforcement
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.library import Library
from felix.nft.masquerade import Masquerade
from felix.nft.masquerade import render as masquerade_part
from felix.nft.parts import merged
from felix.nft.serviceguard import render as service_guard
from felix.route import NextHop, unicast
from felix.tunnelmessages import Device, DeviceId, Kind
from felix.tunnels import KernelTunnels
from inet.prefix import Family, Prefix
from policy.compiler import Engine
from policy.objects import NAMESPACE_NAME_LABEL, Namespace, Pod

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
WAITS: Final = ("times the kernel had it wait", "")
MEMORY: Final = ("memory after it", "MB")
MOVE: Final = (f"{MOVED:,} destinations from direct to tunnel", "ms")
BEHIND_TCP: Final = ("TCP below", "%")
BEHIND_UDP: Final = ("UDP below", "%")
BEHIND_ROUND_TRIPS: Final = ("round trips below", "%")

_ROOT: Final = Path(__file__).parent.parent
_numbers = itertools.count()


def case_name(count: int) -> str:
    """Return what the case of many nodes is called."""
    return f"{count:,} nodes, both families"


def rival_name(way: str, rival: str, family: Family) -> str:
    """Return what a comparison is called."""
    return f"{way} beside {rival}, {family.label}"


DIRECT, VXLAN = "direct", "VXLAN"
PLAIN, HAND_MADE, FLANNEL = "plain routing", "VXLAN by hand", "flannel's way"
WITH_TABLE, WITH_CONNTRACK = " with the whole table", " with conntrack"
COMPARISONS: Final = ((DIRECT, PLAIN), (VXLAN, HAND_MADE), (VXLAN, FLANNEL))
ON_A_NODE: Final = ((DIRECT + WITH_TABLE, PLAIN + WITH_CONNTRACK), (VXLAN + WITH_TABLE, HAND_MADE + WITH_CONNTRACK))
"""As nodes really are: kube-proxy has every packet tracked."""
_TRACKING: Final = "table inet t { chain c { type filter hook forward priority 0; ct state established accept; }; }"


LIMITS: Final = {
    **{(case_name(NODES), quantity): limit for quantity, limit in ((BUILD, 1.5), (CHANGE, 5.0), (MOVE, 200.0))},
    **{
        (rival_name(way, rival, family), quantity): 2.0
        for way, rival in COMPARISONS
        for family in Family
        for quantity in (BEHIND_TCP, BEHIND_UDP)
    },
}
"""What Tortie must not exceed, by case and quantity."""


def run(settings: Settings) -> Iterator[Results]:
    """Yield the figures of each case as it is done."""
    count = 200 if settings.quick else NODES
    results = Results()
    results.measure(case_name(count), "Tortie", settings.rounds, partial(_entries, count))
    results.measure(case_name(count), "flannel's way", settings.rounds, partial(_flannel_entries, count))
    yield results
    seconds = 0.02 if settings.quick else 0.1
    results = Results()
    for (way, rival), family in itertools.product((*COMPARISONS, *ON_A_NODE), Family):
        name = rival_name(way, rival, family)
        results.measure(name, "Tortie", 1, partial(_compare, way, rival, family, seconds))
    results.notes.append("below 0: Tortie carries more than the other does; by what the way costs a processor")
    yield results


# Many nodes


def _entries(count: int) -> Figures:
    with _Space() as space:
        found = json.loads(_inside(space.name, "entries", str(count)))
    return {
        BUILD: found["build"],
        BUILD_CPU: found["build_cpu"],
        WAITS: found["waits"],
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


_OWN: Final = {Family.IPV4: "172.20.0.1", Family.IPV6: "fd20::1"}


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
                f"addr add {_OWN[Family.IPV4]}/16 dev eth0",
                f"addr add {_OWN[Family.IPV6]}/64 dev eth0 nodad",
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


def _device(name: str, family: Family, local: bytes, own: bytes = b"") -> Device:
    mtu = 1500 - OVERHEAD[TunnelType.VXLAN, family]
    return Device(DeviceId(Kind.VXLAN, family, VNI), mtu, PORT, hardware_address(name), local, own)


def _far_end(number: int, family: Family, address: bytes) -> FarEnd:
    gateway = address if family is Family.IPV4 else _gateway(number, family)
    return FarEnd(gateway, hardware_address(f"n{number}"), address)


async def _build_entries(count: int) -> dict[str, float]:
    tunnels, backstops, fib = KernelTunnels(), KernelBackstops(), Fib(open_route_table())
    numbers = [(number, family) for number in range(count) for family in Family]
    devices = [_device("n-own", family, ip_address(own).packed) for family, own in _OWN.items()]
    far_ends = {
        family: [_far_end(number, family, _far(number, family)) for number in range(count)] for family in Family
    }
    waits = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    began, cpu_began = time.monotonic(), time.process_time()
    await backstops.want(_cidr(*each) for each in numbers)
    await tunnels.want(devices, far_ends)
    if tunnels.problems:
        raise BenchError(str(tunnels.problems))
    links = {device.family: interface for device, interface in tunnels.interfaces.items()}
    for each in numbers:
        fib.set(unicast(_cidr(*each), [_tunnel(each, links)]))
    await fib.apply()
    built, cpu_built = time.monotonic(), time.process_time()
    waits = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - waits
    for family, ends in far_ends.items():
        ends[7] = _far_end(7, family, _far(count + 1, family))
    await tunnels.want(devices, far_ends)
    fib.set(unicast(_cidr(7, Family.IPV4), [_tunnel((count + 1, Family.IPV4), links)]))  # of IPv6 none has to change
    await fib.apply()
    changed, cpu_changed = time.monotonic(), time.process_time()
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    moved = numbers[:MOVED]
    for number, family in moved:
        fib.set(unicast(_cidr(number, family), [NextHop(_far(0, family), 11)]))
    await fib.apply()
    ready = time.monotonic()
    for each in moved:
        fib.set(unicast(_cidr(*each), [_tunnel(each, links)]))
    await fib.apply()
    done = time.monotonic()
    if fib.errors or fib.count != len(numbers) or tunnels.problems:
        raise BenchError(f"{fib.count} of {len(numbers)} routes, {len(fib.errors)} refused")
    return {
        "build": built - began,
        "waits": waits,
        "build_cpu": cpu_built - cpu_began,
        "change": (changed - built) * 1000,
        "change_cpu": (cpu_changed - cpu_built) * 1000,
        "rss": rss,
        "move": (done - ready) * 1000 * MOVED / len(moved),
    }


def _tunnel(each: tuple[int, Family], links: Mapping[Family, int]) -> NextHop:
    return NextHop(_gateway(*each), links[each[1]], onlink=True)


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


def _compare(way: str, rival: str, family: Family, seconds: float) -> Figures:
    """Take many short turns, and the median of what one carries to what the other does right after."""
    measures = {BEHIND_TCP: NodePair.stream, BEHIND_UDP: NodePair.datagrams, BEHIND_ROUND_TRIPS: NodePair.round_trips}
    with NodePair() as ours, NodePair() as theirs:
        lay(ours, way, family)
        lay(theirs, rival, family)
        ratios = {
            quantity: statistics.median(
                measure(ours, family, seconds) / measure(theirs, family, seconds) for _ in range(TURNS)
            )
            for quantity, measure in measures.items()
        }
    return {quantity: 100 * (1 - ratio) for quantity, ratio in ratios.items()}


def lay(pair: NodePair, way: str, family: Family) -> None:
    """Make the way between two nodes, both directions."""
    for end, node in enumerate(pair.nodes, 1):
        if way.removesuffix(WITH_TABLE) in {DIRECT, VXLAN}:
            with entered(node):
                asyncio.run(_lay_ours(way, end, family))
        else:
            _lay_by_hand(way, node, end, family)


async def _lay_ours(way: str, end: int, family: Family) -> None:
    """Make our way to the other node, with what the agent uses, and as much of its table."""
    other = 3 - end
    destination, far, near = pod_cidr(other, family), node_address(other, family), node_address(end, family)
    hop, media = NextHop(far.packed, socket.if_nametoindex("eth0")), []
    with contextlib.ExitStack() as stack:
        fib = Fib(stack.enter_context(contextlib.closing(open_route_table())))
        if way.startswith(VXLAN):
            tunnels = KernelTunnels()
            stack.callback(tunnels.close)
            gateway = far.packed if family is Family.IPV4 else b"\xfe\x80" + bytes(13) + bytes([other])
            device = _device(f"n{end}", family, near.packed, pod_cidr(end, family).packed)
            await tunnels.want([device], {family: [FarEnd(gateway, hardware_address(f"n{other}"), far.packed)]})
            hop = NextHop(gateway, tunnels.interfaces[device.id], onlink=True)
            media = [Medium(TunnelType.VXLAN, family)]
        fib.set(unicast(destination, [hop]))
        await fib.apply()
        if fib.errors:
            raise BenchError(str(fib.errors))
        if way.endswith(WITH_TABLE):
            guard = tunnel_rules.content(media, PORT, [far], [pod_cidr(end, family)])
            table = stack.enter_context(contextlib.closing(KernelRuleTable(Library())))
            report = await Enforcement(table).sync(merged((_table(end, family), guard)))
            if report.refusals:
                raise BenchError(str(report.refusals[0]))


def _table(end: int, family: Family) -> Content:
    """Return the table of a node with a pod: no policy is about it, outgoing NAT and the service guard are."""
    engine = Engine(f"n{end}")
    engine.apply(Namespace("x", {NAMESPACE_NAME_LABEL: "x"}))
    engine.apply(Pod("x", f"p{end}", {}, (pod_address(end, family).packed,), node=f"n{end}"))
    engine.flush()
    pods = tuple(pod_cidr(each, family) for each in (1, 2))
    masquerade = Masquerade(pods=(pods[end - 1],), cluster=pods)
    parts = (masquerade_part(masquerade), service_guard((Prefix.parse("10.43.0.0/16"),)))
    return merged((content_of(engine.ruleset), *parts))


def _lay_by_hand(way: str, node: str, end: int, family: Family) -> None:
    other = 3 - end
    far, beyond = node_address(other, family), pod_cidr(other, family)
    if way.endswith(WITH_CONNTRACK):
        run_program("ip", "netns", "exec", node, "nft", "-f", "-", text=_TRACKING)
    way = way.removesuffix(WITH_CONNTRACK)
    if way == PLAIN:
        batch(node, [f"route add {beyond} via {far} dev eth0"])
        return
    # A device of a far end and a family, or one for all nodes with forwarding entries.
    mac, own = (hardware_address(f"n{number}").hex(":") for number in (other, end))
    near, gateway = node_address(end, family), ip_address(beyond.packed)
    kind = f"type vxlan id {VNI} dstport {PORT} dev eth0 local {near} nolearning"
    lines = [f"link add vx address {own} {kind} {f'remote {far}' if way == HAND_MADE else ''}"]
    lines += [f"link set vx mtu {POD_MTU} up", f"neigh add {gateway} lladdr {mac} dev vx nud permanent"]
    batch(node, [*lines, f"route add {beyond} via {gateway} dev vx onlink"])
    if way == FLANNEL:
        run_program("ip", "netns", "exec", node, *f"bridge fdb add {mac} dev vx dst {far}".split())


def main(arguments: Sequence[str]) -> None:
    """Do one part of a case inside a namespace."""
    _what, count = arguments
    sys.stdout.write(json.dumps(asyncio.run(_build_entries(int(count)))))


if __name__ == "__main__":
    main(sys.argv[1:])
