"""What the text does to real packets where it is easily got wrong: streams of datagrams that nobody answers."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence

import pytest

from felix.namespaces import entered
from policy.compiler import Update
from policy.nft import render
from tests.policy.nftables import WHY_NOT as NO_NFT
from tests.policy.scenarios import SHOP, engine_of, labels, network_policy

WHY_NOT = NO_NFT or ("" if shutil.which("conntrack") else "needs conntrack")

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

FRONT, DB = "10.42.1.7", "10.42.1.9"
PORT = 7777
_NUMBERS = itertools.count()

CLOSED = network_policy("shop/closed", podSelector=labels(app="db"))
OPEN = network_policy(
    "shop/open",
    podSelector=labels(app="db"),
    ingress=[{"from": [{"podSelector": labels(app="front")}], "ports": [{"protocol": "UDP", "port": PORT}]}],
)


class Node:
    """A node with the pods front and db, and a socket in each."""

    def __init__(self) -> None:
        number = next(_NUMBERS)
        self._node, self._front, self._db = (f"tpacket{os.getpid()}{kind}{number}" for kind in "nfd")

    def build(self) -> None:
        for name in (self._node, self._front, self._db):
            run("ip", "netns", "add", name)
        run("ip", "netns", "exec", self._node, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for index, (pod, address) in enumerate(((self._front, FRONT), (self._db, DB))):
            host = f"veth{index}"
            ip(self._node, f"link add {host} type veth peer name eth0 netns {pod}")
            ip(self._node, f"link set {host} group 97 up")
            ip(self._node, f"link set {host} address 02:00:00:00:00:0{index}")
            ip(pod, f"link set eth0 address 02:00:00:00:01:0{index}")
            ip(pod, "link set eth0 up")
            ip(pod, f"addr add {address}/32 dev eth0")
            ip(pod, "route add 169.254.1.1 dev eth0")
            ip(pod, "route add default via 169.254.1.1")
            ip(pod, f"neigh replace 169.254.1.1 lladdr 02:00:00:00:00:0{index} dev eth0 nud permanent")
            ip(self._node, f"neigh replace {address} lladdr 02:00:00:00:01:0{index} dev {host} nud permanent")
            ip(self._node, f"route add {address}/32 dev {host}")
        with entered(self._front):
            self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.client.bind((FRONT, 0))
        with entered(self._db):
            self.server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.server.bind((DB, PORT))

    def destroy(self) -> None:
        self.client.close()
        self.server.close()
        for name in (self._node, self._front, self._db):
            run("ip", "netns", "del", name)

    def enforce(self, *policies: Update) -> None:
        text = "table inet tortie\ndelete table inet tortie\n" + render(engine_of([*SHOP, *policies]).ruleset)
        run("ip", "netns", "exec", self._node, "nft", "-f", "-", text=text)

    def received(self, count: int) -> int:
        """Send datagrams and return how many of them arrived: the way through veth is done when send returns."""
        for _ in range(count):
            self.client.sendto(b"x", (DB, PORT))
        arrived = 0
        while True:
            try:
                self.server.recv(16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return arrived
            arrived += 1

    def judged(self, comment: str) -> int:
        """Return how many packets the rule with a comment has seen."""
        listed = run("ip", "netns", "exec", self._node, "nft", "-j", "list", "table", "inet", "tortie")
        rules = [each["rule"] for each in json.loads(listed)["nftables"] if "rule" in each]
        expressions: Sequence[dict[str, dict[str, int]]] = next(
            rule["expr"] for rule in rules if rule.get("comment") == comment
        )
        return next(each["counter"]["packets"] for each in expressions if "counter" in each)

    def forget_connections(self) -> None:
        run("ip", "netns", "exec", self._node, "conntrack", "-F")


def run(*command: str, text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def ip(namespace: str, command: str) -> None:
    run("ip", "-n", namespace, *command.split())


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    made.build()
    try:
        yield made
    finally:
        made.destroy()


def test_an_unanswered_stream_is_judged_once(node: Node) -> None:
    node.enforce(OPEN)
    assert node.received(100) == 100
    assert node.judged("NetworkPolicy shop/open rule 1") == 1


def test_a_denied_stream_never_gets_through_however_long(node: Node) -> None:
    node.enforce(CLOSED)
    assert node.received(5000) == 0
    assert node.judged("no rule of shop/closed") == 5000


def test_a_new_deny_holds_once_the_connection_is_forgotten(node: Node) -> None:
    node.enforce(OPEN)
    assert node.received(1) == 1
    node.enforce(CLOSED)
    node.forget_connections()
    assert node.received(100) == 0
    node.enforce(OPEN)
    assert node.received(100) == 100
