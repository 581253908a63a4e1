"""Policies that change all the time, under traffic: what is allowed loses nothing, what is denied gets nothing through.

A pod sends numbered datagrams to two others, one of which it may reach by every version of the policies, the other by
none. Nobody answers, so that hardly any packet belongs to a connection that somebody replied to. Meanwhile the agent
takes one change after the other: rules added and removed, labels changed, pods coming and going.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from agent.datastore import Batch
from agent.enforcement import NodePolicy
from agent.objects.kinds import KINDS, Keyed, decode, key_of
from agent.policy_kernel import open_policy_kernel
from bench import network
from bench.measure import BenchError, Figures, Results, Settings
from bench.network import Network
from bench.policy_packets import become_pods
from felix.namespaces import entered
from inet.prefix import Family

NAME: Final = "policy-flood"
TITLE: Final = "Policy changes under traffic"
LOST: Final = ("allowed, and lost", "packets")
LEAKED: Final = ("denied, and through", "packets")
SENT: Final = ("sent of each", "1,000 packets")
RATE: Final = ("changes", "1/s")

_SENDER, _OPEN, _CLOSED = 1, 2, 3
_PORT: Final = 9000
_BUFFER: Final = 256 << 20
_SO_RCVBUFFORCE: Final = 33
_QUIET_S: Final = 1.0
_LOOK: Final = 20  # changes between two looks at what has arrived

_FLOOD: Final = """
import os, select, socket, sys
sender = socket.socket(fileno=int(sys.argv[1]))
sent = 0
while not select.select([0], [], [], 0.001)[0]:
    for _ in range(5):
        try:
            sender.send(sent.to_bytes(8, "big"))
        except ConnectionRefusedError:
            continue
        sent += 1
print(sent)
"""


def case_name(family: Family, changes: int = 20_000) -> str:
    """Return what a case is called."""
    return f"{changes:,} changes, {family.label}"


def run(settings: Settings) -> Iterator[Results]:
    """Yield the figures of each family."""
    changes = 200 if settings.quick else 20_000
    for family in Family:
        results = Results()
        results.measure(case_name(family, changes), "Tortie", 1, partial(_change, family, changes))
        yield results


def _change(family: Family, changes: int) -> Figures:
    with Network(3) as net:
        become_pods(net)
        _find_neighbours(net, family)
        with entered(net.node):
            return asyncio.run(_change_under(net, family, changes))


def _find_neighbours(net: Network, family: Family) -> None:
    """Send until something arrives: meanwhile little is kept for a neighbour that has not answered yet."""
    address = (str(network.address(_OPEN, 2, family)), _PORT)
    with entered(net.routers[_OPEN - 1]):
        receiver = socket.socket(family, socket.SOCK_DGRAM)
    with entered(net.routers[_SENDER - 1]):
        sender = socket.socket(family, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.bind(address)
        receiver.settimeout(0.1)
        for _ in range(100):
            with contextlib.suppress(TimeoutError):
                sender.sendto(b"?", address)
                receiver.recv(16)
                return
    raise BenchError("pods do not reach each other")


class _Stream:
    """Datagrams from the sender to another pod."""

    def __init__(self, net: Network, family: Family, to: int) -> None:
        address = (str(network.address(to, 2, family)), _PORT)
        with entered(net.routers[to - 1]):
            self._receiver = socket.socket(family, socket.SOCK_DGRAM)
        self._receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._receiver.bind(address)
        with entered(net.routers[_SENDER - 1]):
            sender = socket.socket(family, socket.SOCK_DGRAM)
        sender.connect(address)
        command = [sys.executable, "-c", _FLOOD, str(sender.fileno())]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, pass_fds=[sender.fileno()])
        sender.close()
        self.received = 0

    def take(self) -> None:
        """Count what has arrived."""
        with contextlib.suppress(BlockingIOError):
            while self._receiver.recv(16, socket.MSG_DONTWAIT):
                self.received += 1

    def end(self) -> int:
        """Return how many were sent, once nothing arrives any more."""
        sent, _ = self._process.communicate(b"\n", timeout=30)
        before = -1
        while before != self.received:
            before = self.received
            time.sleep(_QUIET_S)
            self.take()
        return int(sent)

    def close(self) -> None:
        """Stop it, whatever happened."""
        self._receiver.close()
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


async def _change_under(net: Network, family: Family, changes: int) -> Figures:
    with open_policy_kernel() as kernel, contextlib.ExitStack() as stack:
        policy = NodePolicy("n1", kernel)
        task = asyncio.create_task(policy.run())
        await _tell(policy, *_cluster(), _policy("p0", 0), _policy("p1", 1))
        allowed, denied = (_Stream(net, family, to) for to in (_OPEN, _CLOSED))
        stack.callback(allowed.close)
        stack.callback(denied.close)
        while not allowed.received:
            allowed.take()
            await asyncio.sleep(0.01)
        began = time.monotonic()
        for turn in range(changes):
            await _tell(policy, *_next(turn))
            if turn % _LOOK == 0:
                allowed.take()
                denied.take()
        taken = time.monotonic() - began
        sent = allowed.end()
        denied.end()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return {LOST: sent - allowed.received, LEAKED: denied.received, SENT: sent / 1000, RATE: changes / taken}


async def _tell(policy: NodePolicy, *items: Keyed) -> None:
    policy.take(Batch({each.key: each for each in items}, frozenset(), (), full_lists=1))
    await policy.settled()
    if policy.error:
        raise BenchError(policy.error)


def _cluster() -> list[Keyed]:
    status = {"addresses": [{"type": "InternalIP", "address": "172.16.1.11"}]}
    return [
        _object("Node", "n1", spec={"podCIDRs": ["10.99.0.0/16", "fd99::/16"]}, status=status),
        _object("Namespace", "x"),
        *(_pod(name, number) for name, number in (("sender", _SENDER), ("open", _OPEN), ("closed", _CLOSED))),
    ]


def _pod(name: str, number: int, **labels: str) -> Keyed:
    status = {"podIPs": [{"ip": str(network.address(number, 2, family))} for family in Family]}
    metadata = {"labels": {"app": name, **labels}}
    return _object("Pod", name, metadata, spec={"nodeName": "n1"}, status=status)


def _policy(name: str, version: int) -> Keyed:
    """Return one of many ways to let the sender reach the open pod (p0), and nobody the closed one (p1)."""
    if name == "p0":
        subject, peer = ["open"], ["sender", f"v{version}"]
        ports = {"ports": [{"port": _PORT, "protocol": "UDP"}, {"port": 1 + version % 1000}]}
    else:
        subject, peer, ports = ["open", "closed"], [f"nobody-{version}"], {}
    rule = {"from": [{"podSelector": _apps(peer)}], **ports}
    return _object("NetworkPolicy", name, spec={"podSelector": _apps(subject), "ingress": [rule]})


def _apps(names: list[str]) -> dict[str, Any]:
    return {"matchExpressions": [{"key": "app", "operator": "In", "values": names}]}


def _next(turn: int) -> tuple[Keyed, ...]:
    match turn % 4:
        case 0:
            return (_policy("p0", turn),)
        case 1:
            return (_policy("p1", turn),)
        case 2:
            return (_pod("open", _OPEN, version=str(turn)), _pod("closed", _CLOSED, version=str(turn)))
        case _:
            return (_policy("p0", -turn % 7), _policy("p1", -turn % 5), _pod("sender", _SENDER, version=str(turn)))


def _object(kind: str, name: str, metadata: dict[str, Any] | None = None, **content: Any) -> Keyed:
    place = {"namespace": "x"} if KINDS[kind].namespace else {}
    document = {"metadata": {"name": name, **place, **(metadata or {})}, **content}
    return decode(KINDS[kind], key_of(KINDS[kind], document), document)
