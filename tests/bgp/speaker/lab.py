"""Real routers in network namespaces: one node, any number of BIRDs around it, each on a link of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, TypeVar

from bgp.path import AsPath, Attributes, PeerKey
from bgp.speaker import Event, Session, SessionUp, SpeakerLost
from bgp.speaker.exabgp import ExaBGPSpeaker
from felix import namespaces
from inet.prefix import Family, Prefix

NODE_ASN = 65001
DEADLINE_S = 60.0
RESTARTING = "graceful restart on;"  # as BIRD has it
OURS = "10.42.0.0/24", "fd42::/64"

_E = TypeVar("_E", bound=Event)


def run(*argv: str) -> str:
    """Run a program to its end; its words are in the message when it fails."""
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
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        namespaces.enter(descriptor)
    finally:
        os.close(descriptor)


@dataclass
class Bird:
    """A BIRD in its own namespace. `protocol bgp node` is its session with the node."""

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

    def write(
        self,
        *originated: str,
        v6: bool = False,
        own_med: bool = False,
        options: str = "",
        neighbour: IPv4Address | None = None,
    ) -> None:
        """Write the configuration: prefixes to originate, and what is special about the session.

        With `own_med` each prefix has a MED of its own, so that each needs an UPDATE of its own.
        """
        ours, theirs = (self.v6, self.node_v6) if v6 else (self.v4, neighbour or self.node_v4)
        routes = [
            f"  route {prefix} blackhole{f' {{ bgp_med = {number}; }}' if own_med else ''};\n"
            for number, prefix in enumerate(originated)
        ]
        static4 = "".join(route for route in routes if ":" not in route)
        static6 = "".join(route for route in routes if ":" in route)
        (self.directory / "bird.conf").write_text(f"""
router id {self.v4};
log stderr all;
protocol device {{}}
protocol static s4 {{ ipv4;
{static4}}}
protocol static s6 {{ ipv6;
{static6}}}
protocol bgp node {{
  local {ours} as {self.asn};
  neighbor {theirs} as {NODE_ASN};
  hold time 9;
  connect retry time 1;
  connect delay time 1;
  error wait time 1, 2;
  {options}
  ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};
  ipv6 {{ import all; export where source = RTS_STATIC; next hop self; }};
}}
""")

    def start(self) -> None:
        """Start the daemon in the foreground of its namespace."""
        with (self.directory / "bird.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *("ip", "netns", "exec", self.namespace, "bird", "-f"),
                    *("-c", str(self.directory / "bird.conf"), "-s", str(self.directory / "bird.ctl")),
                ],
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """End the daemon at once, without a word to its peers."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def ask(self, *words: str) -> str:
        """Put a question to `birdc`; empty while the daemon is not there yet."""
        socket = str(self.directory / "bird.ctl")
        return subprocess.run(["birdc", "-s", socket, *words], capture_output=True, text=True, check=False).stdout

    @property
    def is_established(self) -> bool:
        """Whether the session with the node is up."""
        return "Established" in self.ask("show", "protocols", "node")

    @property
    def since(self) -> str:
        """When the session changed its state last."""
        return self.ask("show", "protocols", "node").splitlines()[-1].split()[4]

    def has(self, prefix: str) -> bool:
        """Whether a prefix is in this BIRD's table."""
        return prefix in self.ask("show", "route", prefix)

    def count(self, table: str) -> int:
        """How many routes a table has."""
        return int(self.ask("show", "route", "table", table, "count").split("BIRD")[-1].split("ready.")[-1].split()[0])


@dataclass
class Lab:
    """The node's namespace and the routers around it."""

    name: str
    directory: Path
    birds: list[Bird] = field(default_factory=list)
    namespaces: list[str] = field(default_factory=list)

    @property
    def node(self) -> str:
        return f"{self.name}n"

    def bird(self, asn: int = 65002) -> Bird:
        """Make a router's namespace and its link to the node; the daemon is not started."""
        number = len(self.birds) + 1
        namespace = f"{self.name}r{number}"
        run("ip", "netns", "add", namespace)
        self.namespaces.append(namespace)
        run("ip", "link", "add", f"r{number}", "netns", self.node, "type", "veth", "peer", "eth0", "netns", namespace)
        for where, device, host in ((self.node, f"r{number}", 1), (namespace, "eth0", 2)):
            run("ip", "-n", where, "addr", "add", f"10.99.{number}.{host}/24", "dev", device)
            run("ip", "-n", where, "addr", "add", f"fd99:{number}::{host}/64", "dev", device, "nodad")
            run("ip", "-n", where, "link", "set", "lo", "up")
            run("ip", "-n", where, "link", "set", device, "up")
        directory = self.directory / f"r{number}"
        directory.mkdir()
        bird = Bird(number, namespace, directory, asn)
        self.birds.append(bird)
        return bird

    def close(self) -> None:
        """End every daemon and delete every namespace."""
        for bird in self.birds:
            bird.kill()
        for namespace in (*self.namespaces, self.node):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


def session(bird: Bird, *, v6: bool = False, **changes: Any) -> Session:
    """Return the node's side of the session with a BIRD."""
    facts: dict[str, Any] = {
        "peer": bird.v6 if v6 else bird.v4,
        "local_address": bird.node_v6 if v6 else bird.node_v4,
        "local_asn": NODE_ASN,
        "peer_asn": bird.asn,
        "router_id": IPv4Address("10.99.0.1"),
        "families": frozenset(Family),
        "hold_time_s": 9,
        "connect_retry_time_s": 2,
    }
    return Session(**(facts | changes))


def configure(speaker: ExaBGPSpeaker, *sessions: Session) -> None:
    """Have the speaker keep these sessions."""
    speaker.configure({each.peer: each for each in sessions})


def tell(speaker: ExaBGPSpeaker, bird: Bird, *prefixes: str, v6: bool = False) -> None:
    """Announce prefixes as the node's own and finish with End-of-RIB."""
    peer = bird.v6 if v6 else bird.v4
    for prefix in map(Prefix.parse, prefixes):
        next_hop = bird.node_v4 if prefix.family is Family.IPV4 else bird.node_v6
        speaker.announce(peer, prefix, Attributes(next_hop=next_hop, as_path=AsPath((NODE_ASN,))))
    for family in Family:
        speaker.end_of_rib(peer, family)


class Listener:
    """Takes every event as it comes, and can act on it as the agent would."""

    def __init__(self, speaker: ExaBGPSpeaker) -> None:
        self.heard: list[Event] = []
        self.react: Callable[[Event], None] = lambda _event: None
        self._task = asyncio.create_task(self._listen(speaker))

    async def _listen(self, speaker: ExaBGPSpeaker) -> None:
        async for event in speaker.events():
            self.heard.append(event)
            self.react(event)

    def of(self, kind: type[_E], peer: PeerKey | None = None) -> list[_E]:
        """Return what was heard of a kind, of a peer."""
        return [
            event
            for event in self.heard
            if isinstance(event, kind) and (peer is None or isinstance(event, SpeakerLost) or event.peer == peer)
        ]

    async def until(self, kind: type[_E], peer: PeerKey | None = None, *, count: int = 1) -> _E:
        """Wait for the `count`th event of a kind, and return it."""
        await until(lambda: len(self.of(kind, peer)) >= count, f"{count} {kind.__name__} of {peer}: {self.heard}")
        return self.of(kind, peer)[count - 1]

    async def close(self) -> None:
        """Listen no more."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@contextlib.asynccontextmanager
async def watching(has: Callable[[str], bool], *prefixes: str) -> AsyncIterator[list[str]]:
    """Collect every moment at which a router was without one of the prefixes."""
    absences: list[str] = []
    over = False

    async def watch() -> None:
        while True:
            absences.extend([prefix for prefix in prefixes if not await asyncio.to_thread(has, prefix)])
            if over:
                return
            await asyncio.sleep(0.01)

    task = asyncio.create_task(watch())
    try:
        yield absences
    finally:
        over = True
        await task  # a look that has begun is ended: there is one, however short the block


def pid_of(speaker: ExaBGPSpeaker) -> int:
    pid = speaker.health().pid
    assert pid is not None
    return pid


def retell(speaker: ExaBGPSpeaker, listener: Listener, *birds: Bird) -> None:
    """Announce our prefixes to a BIRD whenever its session comes up, as the agent does."""

    def react(event: Event) -> None:
        for bird in birds:
            if isinstance(event, SessionUp) and event.peer == bird.v4:
                tell(speaker, bird, *OURS)

    listener.react = react
