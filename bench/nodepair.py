"""Two nodes with a pod each, a cable between them, and what a packet from pod to pod costs.

A machine that does other things beside has no throughput to speak of, so a figure is the rate of pieces of work of a
millisecond or so, the fastest fifth of them: those that nothing interrupted. The kernel does its whole work, of both
nodes and up to the far pod's socket, within `send`, and one thread has both ends: a rate is what the way costs a
processor, and nobody is waited for.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Self

from bench.measure import BenchError
from bench.network import batch, run
from felix.namespaces import entered
from inet.prefix import Family, IPAddress, Prefix
from policy.nftskeleton import POD_INTERFACE_GROUP

POD_MTU: Final = 1430
PORT: Final = 5001

_DATAGRAMS: Final = 100  # measured at a time: a millisecond, less than a turn on a CPU
_ROUND_TRIPS: Final = 20
_PIECE: Final = 1 << 18
_WARM: Final = 50  # pieces until the window is as large as it gets
_BUFFER: Final = 4 * _PIECE  # what is sent before anybody reads
_FASTEST: Final = 5  # a fifth of all
_numbers = itertools.count()


def node_address(end: int, family: Family) -> IPAddress:
    """Return the address of node 1 or 2 on the cable."""
    return ip_address(f"172.20.0.{end}" if family is Family.IPV4 else f"fd20::{end}")


def pod_cidr(end: int, family: Family) -> Prefix:
    """Return the pods' range of node 1 or 2; its pod has address 2."""
    return Prefix.parse(f"10.42.{end}.0/24" if family is Family.IPV4 else f"fd42:0:0:{end}::/64")


def pod_address(end: int, family: Family) -> IPAddress:
    """Return the address of the pod on node 1 or 2."""
    return ip_address(pod_cidr(end, family).packed) + 2


class NodePair:
    """Pods[0] behind nodes[0], pods[1] behind nodes[1], which eth0 joins. The way between them is others' to make."""

    def __init__(self) -> None:
        number = next(_numbers)
        self.nodes = [f"tbe{os.getpid()}n{number}x{end}" for end in (1, 2)]
        self.pods = [f"tbe{os.getpid()}p{number}x{end}" for end in (1, 2)]

    def __enter__(self) -> Self:
        for name in (*self.nodes, *self.pods):
            run("ip", "netns", "add", name)
            batch(name, ["link set lo up"])
        run(*f"ip -n {self.nodes[0]} link add eth0 type veth peer name eth0 netns {self.nodes[1]}".split())
        for end, (node, pod) in enumerate(zip(self.nodes, self.pods, strict=True), 1):
            with entered(node):
                for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                    Path("/proc/sys/net", path).write_text("1", encoding="ascii")
            run(*f"ip -n {node} link add pod type veth peer name eth0 netns {pod}".split())
            there, here = ["link set eth0 up"], [f"link set pod group {POD_INTERFACE_GROUP}"]
            here += [f"link set pod mtu {POD_MTU} up", "link set eth0 up"]
            there += [f"link set eth0 mtu {POD_MTU}"]
            for family, gateway in ((Family.IPV4, "169.254.1.1"), (Family.IPV6, "fe80::1")):
                bits, address = family.bits, pod_address(end, family)
                here += [f"addr add {gateway}/{bits if family is Family.IPV4 else 64} dev pod {_nodad(family)}"]
                length = 24 if family is Family.IPV4 else 64
                here += [f"addr add {node_address(end, family)}/{length} dev eth0 {_nodad(family)}"]
                here += [f"route add {address}/{bits} dev pod"]
                there += [f"addr add {address}/{bits} dev eth0 {_nodad(family)}"]
                there += [f"route add default via {gateway} dev eth0 onlink"]
            batch(node, here)
            batch(pod, there)
        return self

    def __exit__(self, *_: object) -> None:
        for name in (*self.pods, *self.nodes):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def datagrams(self, family: Family, seconds: float) -> float:
        """Return datagrams of 1,400 bytes a second. Nobody reads them; the first one proves that they arrive."""
        with self._ends(family, socket.SOCK_DGRAM) as (client, server):
            data = bytes(1360)
            client.send(data)
            server.settimeout(5)
            server.recv(2048)

            def piece() -> int:
                for _ in range(_DATAGRAMS):
                    client.send(data)
                return _DATAGRAMS

            return rate(piece, seconds)

    def stream(self, family: Family, seconds: float) -> float:
        """Return bytes a second of one TCP connection."""
        with self._ends(family, socket.SOCK_STREAM) as (client, server):
            data, buffer = bytes(_PIECE), bytearray(_PIECE)

            def piece() -> int:
                client.sendall(data)
                arrived = 0
                while arrived < _PIECE:
                    arrived += server.recv_into(buffer)
                return arrived

            for _ in range(_WARM):
                piece()
            return rate(piece, seconds)

    def round_trips(self, family: Family, seconds: float) -> float:
        """Return round trips a second, one after another, of small datagrams."""
        with self._ends(family, socket.SOCK_DGRAM) as (client, server):

            def piece() -> int:
                for _ in range(_ROUND_TRIPS):
                    client.send(b"?")
                    _, sender = server.recvfrom(16)
                    server.sendto(b"!", sender)
                    client.recv(16)
                return _ROUND_TRIPS

            return rate(piece, seconds)

    @contextlib.contextmanager
    def _ends(self, family: Family, kind: socket.SocketKind) -> Iterator[tuple[socket.socket, socket.socket]]:
        """Have a socket in each pod, connected."""
        far = (str(pod_address(2, family)), PORT)
        with contextlib.ExitStack() as stack:
            with entered(self.pods[1]):
                server = stack.enter_context(socket.socket(family, kind))
            with entered(self.pods[0]):
                client = stack.enter_context(socket.socket(family, kind))
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for end, option in ((client, socket.SO_SNDBUF), (server, socket.SO_RCVBUF)):
                end.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
                end.settimeout(10)
            server.bind(far)
            if kind is socket.SOCK_STREAM:
                server.listen()
            client.connect(far)
            if kind is socket.SOCK_STREAM:
                server = stack.enter_context(server.accept()[0])
            yield client, server


def rate(piece: Callable[[], int], seconds: float, *, most: int | None = None) -> float:
    """Do a piece of work again and again, `most` times at most; return the rate of the fastest fifth."""
    taken: list[float] = []
    piece()
    ending = time.perf_counter() + seconds
    done, now = 0, 0.0
    while now < ending and len(taken) != most:
        began = time.perf_counter()
        done = piece()
        now = time.perf_counter()
        taken.append(now - began)
    if not done:
        raise BenchError("nothing was carried")
    return done / sorted(taken)[len(taken) // _FASTEST]


def _nodad(family: Family) -> str:
    return "nodad" if family is Family.IPV6 else ""
