"""A node in a network namespace of its own: two links to a second namespace, addressed in both families."""

from __future__ import annotations

import itertools
import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import if_nametoindex
from typing import Any, Protocol, TypeVar

import pytest

from felix.namespaces import entered
from felix.route import NextHop
from felix.routetable import PutGroup, RouteTable
from inet.prefix import Family, Prefix, parse_address

_NUMBERS = itertools.count()

_SETTINGS = {
    "ipv4/nexthop_compat_mode": "0",
    "ipv6/conf/default/keep_addr_on_down": "1",
    "ipv6/conf/default/accept_dad": "0",  # else addresses become usable a second after a link comes up
}

WHY_NOT = "" if os.geteuid() == 0 and Path("/run/netns").parent.exists() else "needs root and ip (iproute2)"


def _run(*arguments: str) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
    return done.stdout


class Network(Protocol):
    """Namespaces that are made together. `name` is the one that a test lives in."""

    name: str

    def build(self) -> None: ...
    def destroy(self) -> None: ...


N = TypeVar("N", bound=Network)


@contextmanager
def built(network: N) -> Iterator[N]:
    """Build a network; the block runs inside its first namespace. Skips the test where that cannot be."""
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    try:
        network.build()
        with entered(network.name):
            yield network
    finally:
        network.destroy()


class Node:
    """The inside of the namespace `name`: links a0 and a1, whose other ends b0 and b1 are in `peer`."""

    def __init__(self) -> None:
        number = next(_NUMBERS)
        self.name = f"tfelix{os.getpid()}n{number}"
        self.peer = f"tfelix{os.getpid()}p{number}"

    def build(self) -> None:
        _run("ip", "netns", "add", self.name)
        _run("ip", "netns", "add", self.peer)
        with entered(self.name):
            for path, value in _SETTINGS.items():
                Path("/proc/sys/net", path).write_text(value, encoding="ascii")
        self.ip("link set lo up")
        for i in range(2):
            # Distinct ifindexes at both ends: with equal ones the kernel may report a lost carrier a second late.
            self.ip(f"link add a{i} index {10 + i} type veth peer name b{i} index {20 + i} netns {self.peer}")
            self.ip(f"link set a{i} up")
            self.peer_ip(f"link set b{i} up")
            self.ip(f"addr add 10.0.{i}.1/24 dev a{i}")
            self.ip(f"addr add fd00:{i + 1}::1/64 dev a{i} nodad")
        # The kernel gives each link an address of its own once it has a carrier; nothing is to come after this.
        deadline = time.monotonic() + 30
        while self.ip("-6 addr show scope link -tentative").count("inet6 fe80:") < 2:
            assert time.monotonic() < deadline

    def destroy(self) -> None:
        for name in (self.name, self.peer):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def ip(self, command: str) -> str:
        return _run("ip", "-n", self.name, *command.split())

    def ip_json(self, command: str) -> list[dict[str, Any]]:
        """Return what `ip` shows, with numbers where it has names for them."""
        shown: list[dict[str, Any]] = json.loads(
            _run("ip", "-n", self.name, "-j", "-d", "-N", *command.split()) or "[]"
        )
        return shown

    def write_sysctl(self, path: str, value: str) -> None:
        """Set what is at `path` below /proc/sys/net. The test is inside the namespace."""
        Path("/proc/sys/net", path).write_text(value, encoding="ascii")

    def peer_ip(self, command: str) -> str:
        return _run("ip", "-n", self.peer, *command.split())

    def routes(self) -> str:
        return self.ip("route show proto 97") + self.ip("-6 route show proto 97")

    def leads(self, destination: Prefix) -> set[str]:
        """Return the links over which our route to a destination leads, as ip says."""
        version = "-4" if destination.family is Family.IPV4 else "-6"
        shown = self.ip(f"{version} route show {destination} proto 97")
        words = shown.split()
        if "nhid" in words:
            shown = self.ip(f"nexthop show id {words[words.index('nhid') + 1]}")
            if "group " in shown:
                members = shown.split("group ")[1].split()[0].split("/")
                shown = "".join(self.ip(f"nexthop show id {member}") for member in members)
        paths = [path for path in shown.splitlines() if "linkdown" not in path]
        return {f"a{i}" for i in range(2) if any(f"dev a{i}" in path for path in paths)}

    def hop(self, family: Family, i: int, last: int = 2) -> NextHop:
        """Return a next hop on link `i`: an address that need not exist."""
        text = f"10.0.{i}.{last}" if family is Family.IPV4 else f"fd00:{i + 1}::{last}"
        return NextHop(parse_address(text).packed, self.interface(i))

    def interface(self, i: int) -> int:
        return if_nametoindex(f"a{i}")

    @contextmanager
    def monitored(self) -> Iterator[list[str]]:
        """Collect what `ip monitor` says of our routes and nexthops meanwhile, in both families: lines, at the end."""
        lines: list[str] = []
        command = ["ip", "-n", self.name, "monitor", "route", "nexthop"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        output = process.stdout.fileno()
        try:
            # Marks are made until ip reports one and so must be listening; once it reports another, nothing is to come.
            _read_until(
                output, "203.0.113.1", lambda: self.ip(f"route add blackhole 203.0.113.1 metric {next(_NUMBERS) + 1}")
            )
            yield lines
            told = _read_until(
                output, "203.0.113.2", lambda: self.ip(f"route add blackhole 203.0.113.2 metric {next(_NUMBERS) + 1}")
            )
            lines += [line for line in told.splitlines() if "proto 97" in line]
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()


def _read_until(output: int, mark: str, nudge: Callable[[], object]) -> str:
    told = ""
    deadline = time.monotonic() + 30
    while mark not in told:
        assert time.monotonic() < deadline, f"no {mark} in {told!r}"
        nudge()
        while select.select([output], [], [], 0.05)[0]:
            told += os.read(output, 65536).decode()
    return told


async def put_group(table: RouteTable, node: Node, family: Family, *links: int) -> int:
    """Create a group over links of a node, and return its number."""
    number = table.new_group(family)
    hops = tuple(node.hop(family, i) for i in links)
    assert await table.write([PutGroup(number, family, hops, is_new=True)]) == []
    return number
