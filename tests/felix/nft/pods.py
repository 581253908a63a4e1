"""A node with pods, each in a network namespace of its own, and traffic between them in both families."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from felix.namespaces import entered
from felix.nft.elements import Key, Value
from felix.nft.enforcement import Content, SetContent
from felix.nft.table import SetText
from inet.prefix import Family
from tests.felix.netns import built

_NUMBERS = itertools.count()

OWN = {Family.IPV4: "172.16.1.11", Family.IPV6: "fd16:1::11"}
"""The node's addresses."""

OUTSIDE = {Family.IPV4: "192.0.2.9", Family.IPV6: "2001:db8::9"}
"""Addresses of somebody who is no pod."""

ENOUGH_S = 0.5
"""To wait for what is not to come. What is may take longer: the machine may be busy."""

RESET = "tcp flags & (fin|syn|rst|ack) != syn ct state new counter reject with tcp reset"
CLOSED = {
    "forward": """type filter hook forward priority filter; policy accept;
ct state established,related accept
iifgroup 97 goto from_pod
oifgroup 97 counter drop""",
    "from_pod": "ct state invalid counter drop\nip saddr vmap @from_pod4\nip6 saddr vmap @from_pod6\ncounter drop",
}


def _run(*arguments: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"


class PodNode:
    """Pods 0, 1, ... on a node. Their host sides are in interface group 97, as the rules want it."""

    def __init__(self, pods: int) -> None:
        number = next(_NUMBERS)
        self.name = f"tpods{os.getpid()}n{number}"
        self.pods = [f"tpods{os.getpid()}n{number}p{i}" for i in range(pods)]

    def build(self) -> None:
        for name in (self.name, *self.pods):
            _run("ip", "netns", "add", name)
        with entered(self.name):
            for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                Path("/proc/sys/net", path).write_text("1", encoding="ascii")
        _run("ip", "-n", self.name, "link", "set", "lo", "up")
        for family, address in OWN.items():
            _run("ip", "-n", self.name, "addr", "add", f"{address}/{family.bits}", "dev", "lo", *_nodad(family))
        for i, pod in enumerate(self.pods):
            self._plug_in(i, pod)

    def _plug_in(self, i: int, pod: str) -> None:
        host = f"h{i}"
        add = ["ip", "-n", self.name, "link", "add", host, "address", f"02:00:00:00:00:{i:02x}", "group", "97", "type"]
        _run(*add, "veth", "peer", "name", "eth0", "netns", pod)
        for family, gateway, length in ((Family.IPV4, "10.64.1.1", 32), (Family.IPV6, "fe80::1", 64)):
            _run("ip", "-n", self.name, "addr", "add", f"{gateway}/{length}", "dev", host, *_nodad(family))
        _run("ip", "-n", self.name, "link", "set", host, "up")
        _run("ip", "-n", pod, "link", "set", "lo", "up")
        _run("ip", "-n", pod, "link", "set", "eth0", "up")
        for family in Family:
            address, length = self.address(family, i), family.bits
            _run("ip", "-n", pod, "addr", "add", f"{address}/{length}", "dev", "eth0", *_nodad(family))
            _run("ip", "-n", self.name, "route", "add", f"{address}/{length}", "dev", host)
        _run("ip", "-n", pod, "route", "add", "10.64.1.1", "dev", "eth0")
        _run("ip", "-n", pod, "route", "add", "default", "via", "10.64.1.1", "dev", "eth0")
        _run("ip", "-n", pod, "-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0")

    def put_outside(self, i: int) -> None:
        """Make of a pod somebody behind a link that is no pod's, with the addresses OUTSIDE beside its own."""
        self.ip(None, f"link set h{i} group default")
        for family, address in OUTSIDE.items():
            self.ip(i, " ".join(["addr", "add", f"{address}/{family.bits}", "dev", "eth0", *_nodad(family)]))
            self.ip(None, f"route add {address}/{family.bits} dev h{i}")

    def destroy(self) -> None:
        for name in (*self.pods, self.name):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def address(self, family: Family, i: int) -> str:
        return f"10.64.1.{11 + i}" if family is Family.IPV4 else f"fd64:1::{11 + i}"

    def ip(self, i: int | None, command: str) -> None:
        """Run `ip` in a pod, or on the node itself."""
        _run("ip", "-n", self.name if i is None else self.pods[i], *command.split())

    def show(self, command: str) -> str:
        """Return what `ip` says on the node."""
        return subprocess.run(
            ["ip", "-n", self.name, *command.split()], capture_output=True, text=True, check=True
        ).stdout

    def nft(self, command: str) -> None:
        """Run `nft` on the node."""
        _run("ip", "netns", "exec", self.name, "nft", command)

    def packed(self, family: Family, i: int) -> bytes:
        return ip_address(self.address(family, i)).packed

    def content(self, egress: dict[int, str], chains: dict[str, str]) -> Content:
        """Return rules by which each pod's packets to other pods are judged in the chain named; in both families."""
        maps = {}
        for family, name, kind in ((Family.IPV4, "from_pod4", "ipv4_addr"), (Family.IPV6, "from_pod6", "ipv6_addr")):
            elements: dict[Key, Value] = {self.packed(family, i): Value("jump", chain) for i, chain in egress.items()}
            maps[name] = SetContent(SetText(f"type {kind} : verdict", is_map=True), elements)
        return Content({**CLOSED, **chains}, maps)

    def socket(self, family: Family, i: int | None, kind: socket.SocketKind) -> socket.socket:
        """Return a socket of a pod, or of the node itself. Whatever it waits for must come within seconds."""
        with entered(self.name if i is None else self.pods[i]):
            made = socket.socket(socket.AF_INET if family is Family.IPV4 else socket.AF_INET6, kind)
        made.settimeout(10)
        return made

    def listen(self, family: Family, i: int | None, port: int) -> socket.socket:
        server = self.socket(family, i, socket.SOCK_STREAM)
        server.bind((OWN[family] if i is None else self.address(family, i), port))
        server.listen()
        return server

    def connect(
        self, family: Family, client: int, server: socket.socket, timeout: float = 10
    ) -> tuple[socket.socket, socket.socket]:
        """Return both ends of a connection."""
        ours = self.socket(family, client, socket.SOCK_STREAM)
        ours.settimeout(timeout)
        try:
            ours.connect(server.getsockname()[:2])
            theirs, _ = server.accept()
        except OSError:
            ours.close()
            raise
        theirs.settimeout(10)
        return ours, theirs

    @contextmanager
    def flood(self, family: Family, source: int, destination: int, port: int) -> Iterator[Flood]:
        """Send datagrams from a pod to another, thousands a second."""
        flood = Flood(self, family, source, destination, port)
        try:
            yield flood
        finally:
            flood.close()


@contextmanager
def pod_node(pods: int) -> Iterator[PodNode]:
    """Build a node with so many pods; the block runs inside the node's namespace. Skips the test where it cannot be."""
    with built(PodNode(pods)) as node:
        yield node


class Flood:
    """Numbered datagrams on their way; `end` returns how many were sent and how many of them arrived."""

    def __init__(self, node: PodNode, family: Family, source: int, destination: int, port: int) -> None:
        self._receiver = node.socket(family, destination, socket.SOCK_DGRAM)
        self._receiver.setsockopt(socket.SOL_SOCKET, 33, 256 * 1024 * 1024)  # SO_RCVBUFFORCE
        self._receiver.bind((node.address(family, destination), port))
        sender = node.socket(family, source, socket.SOCK_DGRAM)
        sender.connect((node.address(family, destination), port))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _FLOOD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[sender.fileno()],
            env={**os.environ, "SOCKET": str(sender.fileno())},
        )
        sender.close()
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"begun\n"

    def wait_for_arrivals(self) -> None:
        self._receiver.recv(16, socket.MSG_PEEK)

    def take(self) -> int:
        """Return how many have arrived since the last time."""
        self._receiver.setblocking(False)  # noqa: FBT003 - the parameter has no name
        received = 0
        try:
            while True:
                self._receiver.recv(16)
                received += 1
        except BlockingIOError:
            return received

    def end(self) -> tuple[int, int]:
        sent, _ = self._process.communicate(b"\n", timeout=60)
        received = 0
        self._receiver.settimeout(0.5)  # what was sent is through, or it never will be
        try:
            while True:
                self._receiver.recv(16)
                received += 1
        except TimeoutError:
            return int(sent), received

    def close(self) -> None:
        self._receiver.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


_FLOOD = """
import os, select, socket
sender = socket.socket(fileno=int(os.environ["SOCKET"]))
sender.settimeout(None)
number = 0
has_begun = False
while not select.select([0], [], [], 0.001)[0]:
    for _ in range(5):
        try:
            sender.send(number.to_bytes(8))
        except ConnectionRefusedError:
            continue
        number += 1
    if not has_begun:
        has_begun = True
        print("begun", flush=True)
print(number)
"""


def _nodad(family: Family) -> list[str]:
    return ["nodad"] if family is Family.IPV6 else []


def says(speaker: socket.socket, listener: socket.socket, within_s: float = 10) -> bool:
    """Whether a byte gets from one end of a connection to the other."""
    listener.settimeout(within_s)
    try:
        speaker.sendall(b"!")
        return listener.recv(1) == b"!"
    except OSError:
        return False


def is_mute(speaker: socket.socket, listener: socket.socket) -> bool:
    """Whether no byte gets from one end to the other."""
    return not says(speaker, listener, ENOUGH_S)
