"""Real routers in network namespaces, for the speaker's interop tests: one node, any number of routers around it."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

CLONE_NEWNET = 0x40000000
DEADLINE_S = 20.0

_labs = itertools.count()


def run(*argv: str) -> str:
    """Run a program to its end. Its words are in the exception when it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stdout}{done.stderr}"
    return done.stdout


async def until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait until the condition holds; fail with `what` when it does not."""
    give_up = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < give_up, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.02)


def enter(namespace: Path) -> None:
    """Move this thread, and what it starts, into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    finally:
        os.close(descriptor)


@dataclass
class Bird:
    """A BIRD in its own namespace, on its own link to the node."""

    number: int
    namespace: str
    directory: Path
    asn: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def v4(self) -> IPv4Address:
        return IPv4Address(f"10.99.{self.number}.2")

    @property
    def v6(self) -> IPv6Address:
        return IPv6Address(f"fd99:{self.number}::2")

    @property
    def node_v4(self) -> IPv4Address:
        return IPv4Address(f"10.99.{self.number}.1")

    @property
    def node_v6(self) -> IPv6Address:
        return IPv6Address(f"fd99:{self.number}::1")

    def write(self, protocols: str) -> None:
        """Write the configuration: `protocols` after the usual head."""
        (self.directory / "bird.conf").write_text(
            f"router id {self.v4};\nlog stderr all;\nprotocol device {{}}\n{protocols}\n"
        )

    def start(self) -> None:
        """Start the daemon in the foreground of its namespace."""
        with (self.directory / "bird.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, "bird", "-f", "-c", str(self.directory / "bird.conf"),
                 "-s", str(self.directory / "bird.ctl")],
                stdout=log, stderr=log,
            )  # fmt: skip

    def kill(self) -> None:
        """End the daemon at once, without a word to its peers."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def ask(self, *words: str) -> str:
        """Put a question to `birdc`; empty while the daemon is not there yet."""
        done = subprocess.run(
            ["birdc", "-s", str(self.directory / "bird.ctl"), *words], capture_output=True, text=True, check=False
        )
        return done.stdout

    def established(self, protocol: str) -> bool:
        """Whether a BGP protocol of this BIRD is up."""
        return any(
            line.split()[0] == protocol and "Established" in line for line in self.ask("show", "protocols").splitlines()
            if line.strip()
        )  # fmt: skip

    def has(self, prefix: str) -> bool:
        """Whether a prefix is in this BIRD's table."""
        return prefix in self.ask("show", "route", prefix)

    def reconfigure(self) -> None:
        """Read the configuration again."""
        self.ask("configure")


@dataclass
class Lab:
    """The node's namespace and the routers around it."""

    name: str
    directory: Path
    birds: list[Bird] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)

    @property
    def node(self) -> str:
        return f"{self.name}n"

    def bird(self, asn: int) -> Bird:
        """Make a router's namespace and its link to the node; the daemon is not started."""
        number = len(self.birds) + 1
        namespace = f"{self.name}r{number}"
        run("ip", "netns", "add", namespace)
        self.extra.append(namespace)
        run("ip", "link", "add", f"r{number}", "netns", self.node, "type", "veth", "peer", "eth0", "netns", namespace)
        for where, device, host in ((self.node, f"r{number}", 1), (namespace, "eth0", 2)):
            run("ip", "-n", where, "addr", "add", f"10.99.{number}.{host}/24", "dev", device)
            run("ip", "-n", where, "addr", "add", f"fd99:{number}::{host}/64", "dev", device, "nodad")
            run("ip", "-n", where, "link", "set", device, "up")
            run("ip", "-n", where, "link", "set", "lo", "up")
        directory = self.directory / f"r{number}"
        directory.mkdir()
        bird = Bird(number, namespace, directory, asn)
        self.birds.append(bird)
        return bird

    def close(self) -> None:
        """End every daemon and delete every namespace."""
        for bird in self.birds:
            bird.kill()
        for namespace in (*self.extra, self.node):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


def bgp(name: str, bird: Bird, *, v6: bool = False, asn: int = 65001, options: str = "", **channels: str) -> str:
    """Return a `protocol bgp` towards the node with both families."""
    ours, theirs = (bird.v6, bird.node_v6) if v6 else (bird.v4, bird.node_v4)
    extra4, extra6 = channels.get("ipv4", ""), channels.get("ipv6", "")
    return f"""
protocol bgp {name} {{
  local {ours} as {bird.asn};
  neighbor {theirs} as {asn};
  hold time 9;
  connect retry time 1;
  error wait time 1, 2;
  {options}
  ipv4 {{ import all; export where source = RTS_STATIC; next hop self; {extra4} }};
  ipv6 {{ import all; export where source = RTS_STATIC; next hop self; {extra6} }};
}}"""


def static(bird: Bird, *prefixes: str) -> str:
    """Return static protocols that originate the prefixes."""
    v4 = "".join(f"  route {p} blackhole;\n" for p in prefixes if ":" not in p)
    v6 = "".join(f"  route {p} blackhole;\n" for p in prefixes if ":" in p)
    del bird
    return f"protocol static s4 {{ ipv4;\n{v4}}}\nprotocol static s6 {{ ipv6;\n{v6}}}\n"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A node in a namespace of its own; this process and what it starts is in it for the length of the test."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("bird") is None:
        pytest.skip("bird is not installed (Debian package bird2)")
    made = Lab(f"ts{os.getpid()}x{next(_labs)}", tmp_path)
    run("ip", "netns", "add", made.node)
    run("ip", "-n", made.node, "link", "set", "lo", "up")

    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        enter(Path("/run/netns") / made.node)
        yield made
    finally:
        enter(Path(f"/proc/self/fd/{before}"))
        os.close(before)
        made.close()
