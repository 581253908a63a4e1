"""What a pod asks for beside an address: ports of its node, and limits of its bandwidth; with real packets."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.containerd.machine import Machine, run, run_as_kubelets_do

pytestmark = [pytest.mark.containerd, pytest.mark.timeout(240)]

NODE = ("172.19.0.1", "fd19::1")
STRANGER = ("172.19.0.2", "fd19::2")
TCP, UDP = 0, 1
LIMIT = 8_000_000  # bits a second
BURST = 1 << 32  # bits that containerd lets pass at the most before a limit takes hold

# Says to everyone who connects, or sends a datagram, from where that came.
ECHO = """
import selectors, socket
tcp = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
udp.bind(("::", 80))
with selectors.DefaultSelector() as ready:
    ready.register(tcp, selectors.EVENT_READ)
    ready.register(udp, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in ready.select():
            if key.fileobj is tcp:
                connection, (address, *_) = tcp.accept()
                with connection:
                    connection.sendall(address.encode())
            else:
                _, sender = udp.recvfrom(9)
                udp.sendto(sender[0].encode(), sender)
"""
ASK = """
import socket, sys
kind, address, port = socket.SocketKind[sys.argv[1]], sys.argv[2], int(sys.argv[3])
with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as asking:
    asking.settimeout(2)
    asking.connect((address, port))
    asking.send(b"who am I") if kind is socket.SOCK_DGRAM else None
    print(asking.recv(99).decode().removeprefix("::ffff:"))
"""
# Takes what comes, and says once a second how many bits that were.
SINK = """
import socket, time
server = socket.create_server(("::", 81), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
connection, _ = server.accept()
came, due = 0, time.monotonic() + 1
while data := connection.recv(1 << 20):
    came += len(data)
    if time.monotonic() >= due:
        print(came * 8, flush=True)
        came, due = 0, time.monotonic() + 1
"""
FLOOD = """
import socket, sys
with socket.create_connection((sys.argv[1], 81)) as sending:
    while True:
        sending.sendall(bytes(1 << 16))
"""


@pytest.fixture
def outside(machine: Machine) -> Iterator[str]:
    """A host that is no node's, on a link of the machine's: the name of its network namespace."""
    name = f"{machine.name}o"
    run("ip", "netns", "add", name)
    try:
        machine.ip("link", "add", "out0", "type", "veth", "peer", "name", "in0", "netns", name)
        for place, link, ends in ((machine.name, "out0", NODE), (name, "in0", STRANGER)):
            for address, length in zip(ends, (24, 64), strict=True):
                flags = ["nodad"] if ":" in address else []
                run("ip", "-n", place, "addr", "add", f"{address}/{length}", "dev", link, *flags)
            run("ip", "-n", place, "link", "set", link, "up")
        yield name
    finally:
        run("ip", "netns", "del", name)


def inside(pid: int, program: str, *arguments: str) -> list[str]:
    return ["nsenter", "-t", str(pid), "-n", sys.executable, "-c", program, *arguments]


@contextlib.contextmanager
def running(command: Sequence[str], first_word: str = "") -> Iterator[subprocess.Popen[str]]:
    """Run a program until the end of the block, from when it has said its first word on."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if first_word:
                assert process.stdout.readline().strip() == first_word
            yield process
        finally:
            process.kill()


def answers(netns: str, address: str, port: int, kind: str = "SOCK_STREAM") -> str:
    """Return what the far end of a port says, empty if nobody does."""
    command = ["nsenter", f"--net=/run/netns/{netns}", sys.executable, "-c", ASK, kind, address, str(port)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def test_a_port_of_the_node_leads_to_its_pod_as_far_as_policy_lets_it(machine: Machine, outside: str) -> None:
    machine.give_pods("web", app="web")
    ports = [
        {"protocol": TCP, "container_port": 80, "host_port": 8080},
        {"protocol": UDP, "container_port": 80, "host_port": 8053},
    ]
    sandbox = run_as_kubelets_do(machine, "web", port_mappings=ports)

    def asked(port: int = 8080, kind: str = "SOCK_STREAM") -> list[str]:
        return [answers(outside, address, port, kind) for address in NODE]

    def guard(*froms: str) -> dict[str, Any]:
        blocks = [{"ipBlock": {"cidr": each}} for each in froms]
        spec = {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]}
        return {**spec, "ingress": [{"from": blocks}] if blocks else []}

    with running(inside(machine.runtime.pid(sandbox), ECHO), "ready"):
        assert asked() == list(STRANGER), "with the address that it came from"
        assert asked(8053, "SOCK_DGRAM") == list(STRANGER)
        assert asked(8081) == ["", ""]
        machine.give_policy("guard", guard())
        machine.eventually(lambda: asked() == ["", ""], "a policy that holds for ports of the node too")
        machine.give_policy("guard", guard("172.19.0.2/32", "fd19::2/128"))
        machine.eventually(lambda: asked() == list(STRANGER), "a policy that knows who is there")
        machine.runtime.remove(sandbox)
    assert asked() == ["", ""]
    rules = machine.inside("iptables-save") + machine.inside("ip6tables-save")
    assert "8080" not in rules


@pytest.mark.parametrize("direction", ["ingress", "egress"])
@pytest.mark.parametrize("number", [0, 1], ids=["IPv4", "IPv6"])
def test_a_pods_bandwidth_is_limited_in_the_direction_that_was_asked_for(
    machine: Machine, direction: str, number: int
) -> None:
    names = ("limited", "other")
    machine.give_pods(*names)
    annotations = {f"kubernetes.io/{direction}-bandwidth": f"{LIMIT // 1_000_000}M"}
    sandboxes = [
        run_as_kubelets_do(machine, name, annotations=annotations if name == "limited" else {}) for name in names
    ]
    limited, other = sandboxes if direction == "egress" else sandboxes[::-1]
    assert is_slow(machine, limited, other, number)
    assert not is_slow(machine, other, limited, number), "the other direction is as it was"


def is_slow(machine: Machine, source: str, destination: str, number: int) -> bool:
    """Whether a stream between two sandboxes comes down to the limit, once as much as may has passed freely."""
    address = machine.runtime.addresses(destination)[number]
    seconds: list[int] = []
    with (
        running(inside(machine.runtime.pid(destination), SINK), "ready") as sink,
        running(inside(machine.runtime.pid(source), FLOOD, address)),
    ):
        assert sink.stdout is not None
        deadline = time.monotonic() + 60
        while sum(seconds) <= BURST + 10 * LIMIT:
            assert time.monotonic() < deadline, f"neither fast nor slow: {seconds}"
            seconds.append(int(sink.stdout.readline()))
            if len(seconds) >= 3 and max(seconds[-3:]) < LIMIT * 1.5:
                return True
    return False
