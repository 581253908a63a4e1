"""What a packet between two pods pays for policy: without any rules, with no, 100 and 10,000 policies, with a list.

The pods are on one node. With policies in the cluster, 50 are about the receiver, and the one that lets the sender in
is the last of them. The list is what rules are where pods are told apart one by one: a rule for each of 1,000 pairs.

Each subject has a network of its own, and all stand side by side: round after round each of them is given a piece of
work of about a millisecond, so that what the machine does besides befalls all alike. A piece during which the CPU was
taken away is done again. What counts is the median of the quotients with the subject without rules, of the same round;
a second network without rules says how far such a figure can be trusted. One thread, kept on one CPU, does the whole
work of both ends and of the kernel between them, so its speed is the cost of the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import resource
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from agent.policy_table import content_of
from bench import network
from bench.measure import BenchError, Results, Settings
from bench.network import Network
from felix.namespaces import entered
from felix.nft.enforcement import Enforcement
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.library import Library
from inet.prefix import Family, IPAddress, family_of
from policy.compiler import Engine
from policy.networkpolicy import decode_network_policy
from policy.nftskeleton import POD_INTERFACE_GROUP
from policy.objects import NAMESPACE_NAME_LABEL, Namespace, Pod

NAME: Final = "policy-packets"
TITLE: Final = "Packets between two pods, by what stands in their way"

Quantity: TypeAlias = tuple[str, str]

UDP: Final[Quantity] = ("UDP, one flow", "1,000/s")
NEW: Final[Quantity] = ("UDP, every datagram a new flow", "1,000/s")
TCP: Final[Quantity] = ("TCP, one stream", "Gbit/s")
REQUESTS: Final[Quantity] = ("TCP, a byte there and back", "1,000/s")
COST: Final = ("slower than without any rules", "%")

NO_RULES, AGAIN, NONE, LIST = "no rules at all", "no rules, again", "0 policies", "list of 1,000 rules"
POLICIES: Final = {NONE: 0, "100 policies": 100, "10,000 policies": 10_000}
SUBJECTS: Final = (NO_RULES, AGAIN, *POLICIES, LIST)
_CONNTRACK: Final = (
    "table inet linear { chain forward { type filter hook forward priority filter; ct state established,related accept;"
)
_ON_THE_POD: Final = 50
_PORT: Final = 5001
_DATAGRAMS: Final = 200  # at a time
_EXCHANGES: Final = 60
_STREAM: Final = 2 << 20
_WRITE: Final = 1 << 16
_ATTEMPTS: Final = 5
_NEW_ROUNDS: Final = 100  # the kernel remembers each flow for half a minute, and 65,536 of them
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_CONFIDENCE: Final = 1.96  # standard deviations: 95 %


def case_name(family: Family, quantity: tuple[str, str] | None = None) -> str:
    """Return what a case is called: everything measured in a family, or what policies cost one quantity."""
    case = f"two pods of one node, {family.label}"
    return f"{case}: {quantity[0]}" if quantity else case


class Quotient(NamedTuple):
    """How fast a subject is beside another: the median of all rounds, and between what it lies with 95 %."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.median:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"


def quotient(these: Sequence[float], those: Sequence[float]) -> Quotient:
    """Compare rates round by round. The limits are order statistics: nothing is supposed about how they scatter."""
    ordered = sorted(one / other for one, other in zip(these, those, strict=True))
    middle, spread = len(ordered) / 2, _CONFIDENCE * len(ordered) ** 0.5 / 2
    low, high = max(0, int(middle - spread)), min(len(ordered) - 1, int(middle + spread))
    return Quotient(statistics.median(ordered), ordered[low], ordered[high])


def run(settings: Settings) -> Iterator[Results]:
    """Yield the figures of each family."""
    for family in Family:
        yield _compare(family, rounds=5 if settings.quick else 600)


def _compare(family: Family, *, rounds: int) -> Results:
    results = Results()
    with contextlib.ExitStack() as stack:
        nets = {subject: stack.enter_context(Network(2)) for subject in SUBJECTS}
        for subject, net in nets.items():
            become_pods(net)
            _stand(net, subject)
        stack.enter_context(_on_one_cpu())
        rates = {}
        for quantity, work in _WORK.items():
            with contextlib.ExitStack() as sockets:
                pieces = {subject: sockets.enter_context(work(net, family)) for subject, net in nets.items()}
                rates[quantity] = interleave(pieces, min(rounds, _NEW_ROUNDS) if quantity == NEW else rounds)
    for subject in SUBJECTS:
        figures = {quantity: statistics.median(found[subject]) * _SCALE[quantity] for quantity, found in rates.items()}
        results.take(case_name(family), "Tortie" if subject == "10,000 policies" else subject, [figures])
    for quantity, found in rates.items():
        compared = {subject: quotient(found[subject], found[NO_RULES]) for subject in SUBJECTS if subject != NO_RULES}
        for subject, each in compared.items():
            name = "Tortie" if subject == "10,000 policies" else subject
            results.take(case_name(family, quantity), name, [{COST: 100 * (1 - each.median)}])
        said = "; ".join(f"{subject} {each}" for subject, each in compared.items())
        results.notes.append(f"{family.label}, {quantity[0]}: {said}")
    results.notes.append("Tortie: with 10,000 policies, 50 of them about the receiver; % of the speed without rules")
    return results


def interleave(pieces: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Do each subject's piece once a round, each time beginning with another; return its rates in 1/s."""
    rates: dict[str, list[float]] = {subject: [] for subject in pieces}
    order = list(pieces)
    for _ in range(rounds):
        for subject in order:
            rates[subject].append(_undisturbed(pieces[subject]))
        order.append(order.pop(0))
    return rates


def _undisturbed(piece: Callable[[], float]) -> float:
    """Do a piece of work and return its rate; again if somebody else had the CPU meanwhile."""
    for _ in range(_ATTEMPTS):
        switches = _switches()
        began = time.perf_counter()
        done = piece()
        rate = done / (time.perf_counter() - began)
        if _switches() == switches:
            break
    return rate


def _switches() -> int:
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return usage.ru_nivcsw + usage.ru_nvcsw


@contextlib.contextmanager
def _on_one_cpu() -> Iterator[None]:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


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


# Work: what gives a piece of it, which returns how much was done


class _Part(ctypes.Structure):  # struct iovec
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):  # struct mmsghdr
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("parts", ctypes.c_void_p),
        ("part_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent", ctypes.c_uint),
    )


class _Batch:
    """Datagrams of one byte to an address, one for each port, for one system call."""

    def __init__(self, target: IPAddress, ports: Iterable[int]) -> None:
        self._names = [ctypes.create_string_buffer(socket_address(target, port)) for port in ports]
        self._byte = ctypes.create_string_buffer(b"!")
        self._part = _Part(ctypes.addressof(self._byte), 1)
        self._messages = (_Message * len(self._names))()
        for message, name in zip(self._messages, self._names, strict=True):
            message.name, message.name_length = ctypes.addressof(name), len(name) - 1
            message.parts, message.part_count = ctypes.addressof(self._part), 1

    def send(self, sender: socket.socket) -> int:
        """Send them; return how many."""
        count: int = _LIBC.sendmmsg(sender.fileno(), self._messages, len(self._messages), 0)
        if count < 0:
            raise OSError(ctypes.get_errno(), "sendmmsg")
        return count


def socket_address(address: IPAddress, port: int) -> bytes:
    """Return an address and port as the kernel takes them: sockaddr_in, sockaddr_in6."""
    family = struct.pack("=H", family_of(address)) + struct.pack("!H", port)
    return family + (address.packed + bytes(8) if address.version == 4 else bytes(4) + address.packed + bytes(4))


def _one_flow(net: Network, family: Family) -> contextlib.AbstractContextManager[Callable[[], float]]:
    return _datagrams(net, family, [[_PORT] * _DATAGRAMS])


def _new_flows(net: Network, family: Family) -> contextlib.AbstractContextManager[Callable[[], float]]:
    first = range(20_000, 20_000 + 2 * _NEW_ROUNDS * _DATAGRAMS, _DATAGRAMS)
    return _datagrams(net, family, [range(port, port + _DATAGRAMS) for port in first])


@contextlib.contextmanager
def _datagrams(net: Network, family: Family, ports: Iterable[Iterable[int]]) -> Iterator[Callable[[], float]]:
    """Send batch after batch. One flow ends at a socket that is full, or errors would come back."""
    address = network.address(2, 2, family)
    with contextlib.ExitStack() as stack:
        receiver, sender = (stack.enter_context(_socket(net, end, socket.SOCK_DGRAM, family)) for end in (1, 0))
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        receiver.bind((str(address), _PORT))
        batches = itertools.cycle([_Batch(address, each) for each in ports])
        yield lambda: next(batches).send(sender)


def _stream(net: Network, family: Family) -> contextlib.AbstractContextManager[Callable[[], float]]:
    def piece(client: socket.socket, server: socket.socket) -> float:
        return sum(_pass(client, server, data, buffer) for _ in range(_STREAM // _WRITE))

    data, buffer = bytes(_WRITE), bytearray(_WRITE)
    return _connection(net, family, piece)


def _pass(sender: socket.socket, receiver: socket.socket, data: bytes, buffer: bytearray) -> int:
    sender.sendall(data)
    missing = len(data)
    while missing:
        missing -= receiver.recv_into(buffer, missing)
    return len(data)


def _requests(net: Network, family: Family) -> contextlib.AbstractContextManager[Callable[[], float]]:
    def piece(client: socket.socket, server: socket.socket) -> float:
        for _ in range(_EXCHANGES):
            client.send(b"?")
            server.recv_into(buffer)
            server.send(b"!")
            client.recv_into(buffer)
        return _EXCHANGES

    buffer = bytearray(1)
    return _connection(net, family, piece)


@contextlib.contextmanager
def _connection(
    net: Network, family: Family, piece: Callable[[socket.socket, socket.socket], float]
) -> Iterator[Callable[[], float]]:
    """Give a piece of work both ends of an established connection."""
    with contextlib.ExitStack() as stack:
        listener, client = (stack.enter_context(_socket(net, end, socket.SOCK_STREAM, family)) for end in (1, 0))
        for each, option in itertools.product((listener, client), (socket.SO_SNDBUF, socket.SO_RCVBUF)):
            each.setsockopt(socket.SOL_SOCKET, option, 4 * _WRITE)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(network.address(2, 2, family)), _PORT))
        listener.listen()
        client.connect(listener.getsockname()[:2])
        server = stack.enter_context(listener.accept()[0])
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield lambda: piece(client, server)


def _socket(net: Network, end: int, kind: socket.SocketKind, family: Family) -> socket.socket:
    with entered(net.routers[end]):
        return socket.socket(family, kind)


_WORK: Final = {UDP: _one_flow, NEW: _new_flows, TCP: _stream, REQUESTS: _requests}
_SCALE: Final = {UDP: 1e-3, NEW: 1e-3, TCP: 8e-9, REQUESTS: 1e-3}
