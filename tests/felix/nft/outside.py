"""A node with pods and a world outside, over two uplinks: who in there is seen under which address."""

from __future__ import annotations

import socket
import subprocess
from contextlib import closing
from pathlib import Path

from felix.namespaces import entered
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.masquerade import Masquerade
from inet.prefix import Family, Prefix
from tests.felix.nft.pods import OWN, PodNode

PORT = 9000
INTERNET = {Family.IPV4: "198.51.100.9", Family.IPV6: "2001:db8::9"}
REMOTE_POD = {Family.IPV4: "10.64.2.21", Family.IPV6: "fd64:2::21"}
OTHER_NODE = {Family.IPV4: "172.16.1.12", Family.IPV6: "fd16:1::12"}
EXCLUDED = {Family.IPV4: "10.9.0.9", Family.IPV6: "fd09::9"}
LEARNED = {Family.IPV4: "10.8.0.9", Family.IPV6: "fd08::9"}
BRIDGE = {Family.IPV4: "10.64.1.1", Family.IPV6: "fd64:1::1"}
"""Addresses of the node itself that lie among its pods'."""

UPLINKS = (
    {Family.IPV4: "172.16.2.1", Family.IPV6: "fd16:2::1"},
    {Family.IPV4: "172.16.3.1", Family.IPV6: "fd16:3::1"},
)


def prefixes(*texts: str) -> tuple[Prefix, ...]:
    return tuple(map(Prefix.parse, texts))


WANTED = Masquerade(
    pods=prefixes("10.64.1.0/24", "fd64:1::/64"),
    cluster=prefixes("10.64.0.0/16", "10.64.1.0/24", "172.16.1.11/32", "172.16.1.12/32", "fd64::/16", "fd16:1::/64"),
    excluded=prefixes("10.9.0.0/16", "fd09::/16"),
    learned=prefixes("10.8.0.0/16", "fd08::/16"),
)


def run(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run(arguments, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
    return done.stdout


class World(PodNode):
    """Three pods on a node; everything else there is lives in the namespace `outside`."""

    table: KernelRuleTable
    """For tests that keep one."""

    def __init__(self) -> None:
        super().__init__(3)
        self.outside = f"{self.name}o"

    def build(self) -> None:
        super().build()
        run("ip", "netns", "add", self.outside)
        self._set(self.outside, "ipv4/ip_forward", "ipv6/conf/all/forwarding", value="1")
        self._set(self.name, "ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter", value="0")
        run("ip", "-n", self.outside, "link", "set", "lo", "up")
        for i, own in enumerate(UPLINKS):
            run("ip", "-n", self.name, "link", "add", f"u{i}", "type", "veth", "peer", f"o{i}", "netns", self.outside)
            for namespace, link, last in ((self.name, f"u{i}", "1"), (self.outside, f"o{i}", "254")):
                run("ip", "-n", namespace, "link", "set", link, "up")
                for address, length in ((f"172.16.{2 + i}.{last}", 24), (f"fd16:{2 + i}::{last}", 64)):
                    extra = ["nodad"] if ":" in address else []
                    run("ip", "-n", namespace, "addr", "add", f"{address}/{length}", "dev", link, *extra)
            for family, prefix in ((Family.IPV4, "10.64.1.0/24"), (Family.IPV6, "fd64:1::/64")):
                back = ["via", own[family], "dev", f"o{i}", "metric", str(100 + i)]
                for destination in (prefix, OWN[family]):
                    run("ip", "-n", self.outside, *_version(family), "route", "add", destination, *back)
                gateway = own[family].removesuffix("1") + "254"
                way = ["default", "via", gateway, "dev", f"u{i}", "metric", str(100 + i)]
                run("ip", "-n", self.name, *_version(family), "route", "add", *way)
        for each in (INTERNET, REMOTE_POD, OTHER_NODE, EXCLUDED, LEARNED):
            for family, address in each.items():
                self._add_address(self.outside, family, address)
        for family, address in BRIDGE.items():
            self._add_address(self.name, family, address)

    def destroy(self) -> None:
        super().destroy()
        subprocess.run(["ip", "netns", "del", self.outside], capture_output=True, check=False)

    @staticmethod
    def _add_address(namespace: str, family: Family, address: str) -> None:
        extra = ["nodad"] if family is Family.IPV6 else []
        run("ip", "-n", namespace, "addr", "add", f"{address}/{family.bits}", "dev", "lo", *extra)

    @staticmethod
    def _set(namespace: str, *paths: str, value: str) -> None:
        with entered(namespace):
            for path in paths:
                Path("/proc/sys/net", path).write_text(value, encoding="ascii")

    def open(self, where: str, family: Family, kind: socket.SocketKind = socket.SOCK_DGRAM) -> socket.socket:
        """Return a socket in a namespace."""
        with entered(where):
            made = socket.socket(family, kind)
        made.settimeout(10)
        return made

    def seen(
        self,
        family: Family,
        client: int | str | None,
        destination: str,
        *,
        port: int = PORT,
        server: tuple[str, str, int] | None = None,
        bound: str = "",
    ) -> tuple[str, int]:
        """Return source address and port that somebody sees of a datagram of a pod, the node (None) or a namespace.

        The answer has to come back to where the datagram came from. `server` is namespace, address and port of who
        gets it, where that is not who is addressed.
        """
        namespace, address, listening = server or (self.outside, destination, port)
        where = client if isinstance(client, str) else self.name if client is None else self.pods[client]
        with closing(self.open(namespace, family)) as theirs, closing(self.open(where, family)) as ours:
            theirs.bind((address, listening))
            if bound:
                ours.bind((bound, 0))
            ours.connect((destination, port))
            ours.send(b"question")
            _, source = theirs.recvfrom(64)
            theirs.sendto(b"answer", source)
            assert ours.recv(64) == b"answer"
        return source[0], source[1]

    def connected(self, family: Family, client: int, destination: str) -> tuple[socket.socket, socket.socket]:
        """Return both ends of a TCP connection from a pod to the outside: ours and theirs."""
        with closing(self.open(self.outside, family, socket.SOCK_STREAM)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((destination, PORT))
            listener.listen()
            ours = self.open(self.pods[client], family, socket.SOCK_STREAM)
            ours.connect((destination, PORT))
            theirs, _ = listener.accept()
        theirs.settimeout(10)
        return ours, theirs


def _version(family: Family) -> list[str]:
    return ["-6"] if family is Family.IPV6 else []
