"""What a packet between two pods pays for policy: without any rules, with no, 100 and 10,000 policies, with a list.

The pods are on one node. With policies in the cluster, 50 are about the receiver, and the one that lets the sender in
is the last of them. The list is what rules are where pods are told apart one by one: a rule for each of 1,000 pairs.
Each subject is measured in turn, round after round, in one network, in pieces of milliseconds; what counts is the
fastest piece, which nothing else on the machine interrupted.

A sender of datagrams does the kernel's whole work within `send`, so its rate is the cost of the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from agent.policy_table import content_of
from bench import network
from bench.measure import BenchError, Figures, Results, Settings
from bench.network import Network
from felix.namespaces import entered
from felix.nft.enforcement import Enforcement
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.library import Library
from inet.prefix import Family
from policy.compiler import Engine
from policy.networkpolicy import decode_network_policy
from policy.nftskeleton import POD_INTERFACE_GROUP
from policy.objects import NAMESPACE_NAME_LABEL, Namespace, Pod

NAME: Final = "policy-packets"
TITLE: Final = "Packets between two pods, by what stands in their way"

UDP: Final = ("UDP, one flow", "1,000/s")
NEW: Final = ("UDP, every datagram a new flow", "1,000/s")
TCP: Final = ("TCP, one flow", "Gbit/s")
COST: Final = ("slower than without policies", "%")

NO_RULES, NONE, LIST = "no rules at all", "0 policies", "list of 1,000 rules"
POLICIES: Final = {NONE: 0, "100 policies": 100, "10,000 policies": 10_000}
_CONNTRACK: Final = (
    "table inet linear { chain forward { type filter hook forward priority filter; ct state established,related accept;"
)
_ON_THE_POD: Final = 50
_PORT: Final = 5001
_DATAGRAMS: Final = 200  # measured at a time: some milliseconds, less than a turn on a CPU
_PIECE: Final = 8 << 20
_BUFFER: Final = 1 << 19  # little beside a piece
_READ: Final = """
import socket, sys
receiver, buffer = socket.socket(fileno=int(sys.argv[1])), bytearray(1 << 20)
while receiver.recv_into(buffer): pass
"""
_NEW_FLOWS: Final = 3_000  # a turn: the kernel remembers each for half a minute


def case_name(family: Family, quantity: tuple[str, str] | None = None) -> str:
    """Return what a case is called: everything measured in a family, or what policies cost one quantity."""
    case = f"two pods of one node, {family.label}"
    return f"{case}: {quantity[0]}" if quantity else case


def run(settings: Settings) -> Iterator[Results]:
    """Yield the figures of each family."""
    for family in Family:
        yield _compare(family, rounds=2 if settings.quick else 8, seconds=0.1 if settings.quick else 0.5)


def _compare(family: Family, *, rounds: int, seconds: float) -> Results:
    results = Results()
    best: dict[str, dict[tuple[str, str], float]] = {}
    with Network(2) as net:
        become_pods(net)
        for _ in range(rounds):
            for subject in (NO_RULES, *POLICIES, LIST):
                _stand(net, subject)
                found = _figures(net, family, seconds)
                so_far = best.setdefault(subject, dict(found))
                best[subject] = {quantity: max(so_far[quantity], value) for quantity, value in found.items()}
    for subject, figures in best.items():
        results.take(case_name(family), "Tortie" if subject == "10,000 policies" else subject, [figures])
    for quantity in (UDP, TCP):
        cost = 100 * (1 - best["10,000 policies"][quantity] / best[NONE][quantity])
        results.take(case_name(family, quantity), "Tortie", [{COST: max(0.0, cost)}])
    results.notes.append("Tortie: with 10,000 policies, 50 of them about the receiver; the best of many turns each")
    return results


def become_pods(net: Network) -> None:
    """Have the routers' cables be pods': in the interface group, each reached by a route of its own."""
    with entered(net.node):
        for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path("/proc/sys/net", path).write_text("1", encoding="ascii")
    for number, router in enumerate(net.routers, 1):
        lines = [f"link set eth{number} group {POD_INTERFACE_GROUP}"]
        for family in Family:
            pod = network.address(number, 2, family)
            lines.append(f"route add {pod}/{family.bits} dev eth{number}")
            gateway = network.address(number, 1, family)
            network.run("ip", "-n", router, f"-{family.label[-1]}", "route", "add", "default", "via", str(gateway))
        network.batch(net.node, lines)


def _stand(net: Network, subject: str) -> None:
    """Put into the node's kernel what a subject is."""
    with entered(net.node):
        network.run("nft", "flush ruleset")
        if subject == LIST:
            rules = (f"ip saddr 10.1.{n // 256}.{n % 256} ip daddr 10.2.0.1 accept;" for n in range(1000))
            network.run("nft", "-f", "-", text=f"{_CONNTRACK}\n{chr(10).join(rules)}\n}}; }}\n")
        elif subject in POLICIES:
            asyncio.run(_enforce(POLICIES[subject]))


async def _enforce(policies: int) -> None:
    with contextlib.closing(KernelRuleTable(Library())) as table:
        report = await Enforcement(table).sync(content_of(_engine(policies).ruleset))
        if report.refusals:
            raise BenchError(str(report.refusals[0]))


_engines: dict[int, Engine] = {}


def _engine(policies: int) -> Engine:
    if policies not in _engines:
        engine = _engines[policies] = Engine("n1")
        engine.apply(Namespace("x", {NAMESPACE_NAME_LABEL: "x"}))
        for number, name in ((1, "sender"), (2, "receiver")):
            addresses = tuple(network.address(number, 2, family).packed for family in Family)
            engine.apply(Pod("x", name, {"app": name}, addresses, node="n1"))
        for number in range(policies):
            is_ours = number < _ON_THE_POD
            peer = "sender" if number == _ON_THE_POD - 1 else f"other-{number}"
            ports = [] if number == _ON_THE_POD - 1 else [{"port": 1000 + number}]
            spec = {
                "podSelector": {"matchLabels": {"app": "receiver" if is_ours else f"app-{number}"}},
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": peer}}}], "ports": ports}],
            }
            metadata = {"namespace": "x" if is_ours else f"team-{number % 1000}", "name": f"p{number:05}"}
            engine.apply(decode_network_policy({"metadata": metadata, "spec": spec}))
        engine.flush()
    return _engines[policies]


def _figures(net: Network, family: Family, seconds: float) -> Figures:
    return {
        UDP: _udp(net, family, seconds, _one_port),
        NEW: _udp(net, family, seconds, _many_ports),
        TCP: _tcp(net, family, seconds),
    }


def _one_port(_sent: int) -> int:
    return _PORT


def _many_ports(sent: int) -> int:
    return 20_000 + sent % 40_000


def _udp(net: Network, family: Family, seconds: float, port: Callable[[int], int]) -> float:
    """Return thousands of datagrams a second. Nobody reads them: where nobody listens, no answer is made either."""
    target = str(network.address(2, 2, family))
    with entered(net.routers[0]), socket.socket(family, socket.SOCK_DGRAM) as client:
        sent = 0

        def piece() -> int:
            nonlocal sent
            for _ in range(_DATAGRAMS):
                client.sendto(b"!", (target, port(sent)))
                sent += 1
            return _DATAGRAMS

        return _best(piece, seconds, most=_NEW_FLOWS // _DATAGRAMS if port is _many_ports else None) / 1000


def _best(piece: Callable[[], int], seconds: float, most: int | None = None) -> float:
    """Do a piece of work again and again; return the rate of the fastest, which nothing else interrupted."""
    rate = 0.0
    ending = time.perf_counter() + seconds
    for _ in itertools.islice(itertools.count(), most):
        began = time.perf_counter()
        done = piece()
        now = time.perf_counter()
        rate = max(rate, done / (now - began))
        if now > ending:
            break
    return rate


def _tcp(net: Network, family: Family, seconds: float) -> float:
    """Return Gbit/s from a process to another."""
    with contextlib.ExitStack() as stack:
        address = (str(network.address(2, 2, family)), _PORT)
        with entered(net.routers[1]):
            server = stack.enter_context(socket.create_server(address, family=family))
        with entered(net.routers[0]):
            client = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        client.connect(address)
        receiver = stack.enter_context(server.accept()[0])
        reading = [sys.executable, "-c", _READ, str(receiver.fileno())]
        reader = stack.enter_context(subprocess.Popen(reading, pass_fds=[receiver.fileno()]))
        receiver.close()
        data = bytes(1 << 18)

        def piece() -> int:
            for _ in range(_PIECE // len(data)):
                client.sendall(data)
            return _PIECE

        rate = _best(piece, seconds)
        client.close()
        reader.wait()
        return rate * 8 / 1e9
