"""Cases with real packets: a network namespace for each pod, node and the world outside, rules in the nodes' kernels.

    pod ── eth0/veth ── node ── eth0/veth ── outside ── node ── pod

Nothing is resolved or learned on the way: every address is a route to a link and a neighbour that is written down,
so that a packet which does not arrive was dropped by a rule. What the rules should be is the engines' of
`policy.verdicts`; they are written as the agent writes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import socket
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

from agent.policy_table import content_of
from felix.conntrack import Conntrack
from felix.namespaces import entered
from felix.nft.enforcement import Content, Enforcement
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.library import Library, LibraryError
from policy.cidr import address_text
from policy.nftskeleton import POD_INTERFACE_GROUP
from policy.objects import PROTOCOLS
from policy.verdicts import Case, Cluster, Place, Probe, Result

_QUIET_S: Final = 0.8
_QUIET_WHERE_EXPECTED_S: Final = {"allow": 3.0, "deny": 0.2}
"""What has not come back so long after anything did, was dropped: by what is expected of those still missing.

Packets in one machine take microseconds, and a busy one may keep us waiting: that must not look like a denial.
"""

_AT_A_TIME: Final = 256  # probes: each has a socket

_SYSCTLS: Final = (
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
)
_GATEWAYS: Final = {4: "169.254.1.1", 16: "fe80::1"}
_OUTSIDE: Final = "outside"


_Name: TypeAlias = bytes | str
"""Of a namespace: a pod's packed address, a node's name, or the outside."""


class PacketError(Exception):
    """Real packets cannot be sent here; the text says why."""


def run_packets(cases: Iterable[Case]) -> Iterator[tuple[Case, list[Result], list[Probe]]]:
    """Yield each case with its results and the probes that this kernel cannot send. Raises PacketError."""
    try:
        library = Library()
    except LibraryError as error:
        raise PacketError(str(error)) from None
    if os.geteuid() != 0:
        raise PacketError("real packets need root, for network namespaces")
    cluster, sequence, network = Cluster(), "", None
    with contextlib.ExitStack() as stack:
        for case in cases:
            if not case.sequence or case.sequence != sequence:
                cluster = Cluster()
            sequence = case.sequence
            cluster.move_to(case)
            plan = _plan(case)
            if network is None or network.plan != plan:
                stack.close()
                network = stack.enter_context(_built(plan))
            for node in case.nodes:
                network.enforce(node, library, content_of(cluster.engines[node].ruleset))
            unknown = {protocol for protocol in PROTOCOLS if not _has_protocol(protocol)}
            possible = [probe for probe in case.probes if probe.protocol not in unknown]
            impossible = [probe for probe in case.probes if probe.protocol in unknown]
            yield case, list(map(Result, possible, network.ask(case, possible))), impossible


def _has_protocol(name: str) -> bool:
    try:
        _socket(4, name).close()
    except OSError:
        return False
    return True


def _socket(width: int, protocol: str) -> socket.socket:
    family = socket.AF_INET if width == 4 else socket.AF_INET6
    kind = socket.SOCK_DGRAM if protocol == "UDP" else socket.SOCK_STREAM
    made = socket.socket(family, kind, PROTOCOLS[protocol])
    made.setblocking(False)  # noqa: FBT003 - the parameter has no name
    return made


class _Plan(NamedTuple):
    """Who is where: pods by node, further addresses of nodes, and addresses outside."""

    nodes: dict[str, tuple[bytes, ...]]
    pods: dict[bytes, str]  # address -> node
    outside: tuple[bytes, ...]


def _plan(case: Case) -> _Plan:
    nodes: dict[str, set[bytes]] = {name: set() for name in case.nodes}
    pods = {}
    for place in case.places.values():
        if place.is_pod:
            pods[place.address] = place.node
        else:
            nodes[place.node].add(place.address)
    ends = {end for probe in case.probes for end in (probe.source, probe.destination) if end.startswith("ip:")}
    known = pods.keys() | {address for addresses in nodes.values() for address in addresses}
    outside = {case.place(end).address for end in ends} - known
    return _Plan({name: tuple(sorted(each)) for name, each in nodes.items()}, pods, tuple(sorted(outside)))


@contextlib.contextmanager
def _built(plan: _Plan) -> Iterator[_Network]:
    network = _Network(plan)
    try:
        network.build()
        yield network
    finally:
        network.remove()


class _Network:
    """The namespaces of a plan."""

    def __init__(self, plan: _Plan) -> None:
        self.plan = plan
        self._prefix = f"tpk{os.getpid()}-"
        names: list[_Name] = [_OUTSIDE, *plan.nodes, *plan.pods]
        self._namespaces = {name: f"{self._prefix}{number}" for number, name in enumerate(names)}
        self._links: list[str] = []
        self._commands: dict[_Name, list[str]] = {name: ["link set lo up"] for name in names}

    def build(self) -> None:
        """Make everything."""
        for node, addresses in self.plan.nodes.items():
            behind = [*addresses, *(pod for pod, host in self.plan.pods.items() if host == node)]
            self._wire(node, _OUTSIDE, behind, addresses)
        for pod, node in self.plan.pods.items():
            link = self._wire(pod, node, [pod], [pod])
            self._commands[node].append(f"link set {link} group {POD_INTERFACE_GROUP}")
        self._commands[_OUTSIDE] += [f"addr add {_own(address)} dev lo" for address in self.plan.outside]
        _ip("", (f"netns add {name}" for name in self._namespaces.values()))
        for router in (_OUTSIDE, *self.plan.nodes):
            with entered(self._namespaces[router]):
                subprocess.run(["sysctl", "-qw", *_SYSCTLS], check=True, capture_output=True)
        _ip("", self._links)
        for name, lines in self._commands.items():
            _ip(self._namespaces[name], lines)

    def _wire(self, lower: _Name, upper: _Name, behind: Sequence[bytes], own: Sequence[bytes]) -> str:
        """Note the commands that join two namespaces; return the upper one's end."""
        number = len(self._links) + 1
        link = f"v{number}"
        low, high = (f"02:00:00:{side:02x}:{number // 256:02x}:{number % 256:02x}" for side in (1, 2))
        self._links.append(
            f"link add name eth0 index {1000 + number} address {low} netns {self._namespaces[lower]} type veth "
            f"peer name {link} index {5000 + number} address {high} netns {self._namespaces[upper]}"
        )
        self._commands[lower] += ["link set eth0 up", *(f"addr add {_own(address)} dev eth0" for address in own)]
        for gateway in _GATEWAYS.values():
            self._commands[lower] += [
                f"neigh add {gateway} lladdr {high} dev eth0 nud permanent",
                f"route add default via {gateway} dev eth0 onlink",
            ]
        self._commands[upper].append(f"link set {link} up")
        for text in map(address_text, behind):
            self._commands[upper] += [
                f"route add {text} dev {link}",
                f"neigh add {text} lladdr {low} dev {link} nud permanent",
            ]
        return link

    def remove(self) -> None:
        """Take everything away that is there."""
        for name in self._namespaces.values():
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def enforce(self, node: str, library: Library, content: Content) -> None:
        """Have a node's kernel hold a table, and forget every connection."""
        with entered(self._namespaces[node]):
            asyncio.run(self._enforce(library, content))

    async def _enforce(self, library: Library, content: Content) -> None:
        with contextlib.closing(KernelRuleTable(library)) as table:
            report = await Enforcement(table).sync(content)
            if report.refusals:
                raise PacketError(f"the kernel refuses the rules: {report.refusals[0]}")
        everybody = {*self.plan.pods, *self.plan.outside, *(each for its in self.plan.nodes.values() for each in its)}
        with contextlib.closing(Conntrack()) as connections:
            await connections.delete(await connections.flows(everybody))

    def ask(self, case: Case, probes: Sequence[Probe]) -> list[str]:
        """Send a packet for each probe; return allow for those that were answered, deny for others."""
        got: list[str] = []
        for first in range(0, len(probes), _AT_A_TIME):
            got += self._ask(case, probes[first : first + _AT_A_TIME])
        return got

    def _ask(self, case: Case, probes: Sequence[Probe]) -> list[str]:
        with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
            for end, port, protocol in {(probe.destination, probe.port, probe.protocol) for probe in probes}:
                server = stack.enter_context(self._bound(case.place(end), port, protocol))
                if protocol == "UDP":
                    selector.register(server, selectors.EVENT_READ)
                else:
                    server.listen(_AT_A_TIME)
            for number, probe in enumerate(probes):
                client = stack.enter_context(self._bound(case.place(probe.source), 0, probe.protocol))
                client.connect_ex((address_text(case.place(probe.destination).address), probe.port))
                if probe.protocol == "UDP":
                    with contextlib.suppress(OSError):
                        client.send(b"?")
                event = selectors.EVENT_READ if probe.protocol == "UDP" else selectors.EVENT_WRITE
                selector.register(client, event, number)
            answered = _collect(selector, dict(enumerate(probe.expect for probe in probes)))
        return ["allow" if number in answered else "deny" for number in range(len(probes))]

    def _bound(self, place: Place, port: int, protocol: str) -> socket.socket:
        name: _Name = place.address if place.address in self.plan.pods else place.node or _OUTSIDE
        with entered(self._namespaces[name]):
            made = _socket(len(place.address), protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address_text(place.address), port))
        return made


def _collect(selector: selectors.BaseSelector, missing: dict[int, str]) -> set[int]:
    """Return the numbers of the probes that are answered; servers of UDP answer here. `missing`: what is expected."""
    answered = set()
    while missing and (events := selector.select(_quiet_s(set(missing.values())))):
        for key, _ in events:
            end = key.fileobj
            if not isinstance(end, socket.socket):
                continue
            if key.data is None:
                _, sender = end.recvfrom(1)
                end.sendto(b"!", sender)
                continue
            selector.unregister(end)
            del missing[key.data]
            if _is_answered(end):
                answered.add(key.data)
    return answered


def _quiet_s(expected: set[str]) -> float:
    return max(_QUIET_WHERE_EXPECTED_S.get(each, _QUIET_S) for each in expected)


def _is_answered(end: socket.socket) -> bool:
    if end.type == socket.SOCK_DGRAM:
        try:
            return end.recv(1) == b"!"
        except OSError:  # an ICMP error: somebody refused it
            return False
    return end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def _own(address: bytes) -> str:
    return f"{address_text(address)}/32" if len(address) == 4 else f"{address_text(address)}/128 nodad"


def _ip(namespace: str, lines: Iterable[str]) -> None:
    command = ["ip", *(["-n", namespace] if namespace else []), "-batch", "-"]
    done = subprocess.run(
        command, input="".join(f"{line}\n" for line in lines), text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise PacketError(f"namespaces cannot be made: {done.stderr.strip()}")
