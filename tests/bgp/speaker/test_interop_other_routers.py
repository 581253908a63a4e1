"""The same against FRR and GoBGP: routes both ways, a restart that they sit out, and a removal that they act on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgp.speaker import EndOfRib, Event, SessionUp, SpeakerLost, Update
from bgp.speaker.exabgp import ExaBGPSpeaker
from inet.prefix import Family, Prefix
from tests.bgp.speaker.lab import Bird, Lab, Listener, configure, run, session, tell, until, watching

pytestmark = pytest.mark.interop

OURS = "10.42.0.0/24", "fd42::/64"
THEIRS = {Prefix.parse("192.0.2.0/24"), Prefix.parse("2001:db8:2::/48")}


class Router(ABC):
    """A daemon in a lab router's namespace, in BIRD's stead."""

    def __init__(self, place: Bird) -> None:
        self.place = place
        self.processes: list[subprocess.Popen[bytes]] = []

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def has(self, prefix: str) -> bool: ...

    def spawn(self, *argv: str) -> None:
        with (self.place.directory / "daemon.log").open("ab") as log:
            argv = ("ip", "netns", "exec", self.place.namespace, *argv)
            self.processes.append(subprocess.Popen(argv, stdout=log, stderr=log))

    def ask(self, *argv: str) -> str:
        argv = ("ip", "netns", "exec", self.place.namespace, *argv)
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


class Frr(Router):
    def start(self) -> None:
        place, directory = self.place, self.place.directory
        (directory / "bgpd.conf").write_text(f"""
router bgp {place.asn}
 bgp router-id {place.v4}
 no bgp ebgp-requires-policy
 no bgp network import-check
 bgp graceful-restart
 neighbor {place.node_v4} remote-as 65001
 neighbor {place.node_v4} timers 3 9
 neighbor {place.node_v4} timers connect 1
 address-family ipv4 unicast
  network 192.0.2.0/24
 exit-address-family
 address-family ipv6 unicast
  network 2001:db8:2::/48
  neighbor {place.node_v4} activate
 exit-address-family
""")
        run("chown", "-R", "frr", str(directory))
        for parent in directory.parents:  # pytest's own are closed to other users
            if parent.owner() == "root" and parent.stat().st_mode & 0o055 != 0o055:
                parent.chmod(parent.stat().st_mode | 0o055)
        self.spawn(
            *("/usr/lib/frr/bgpd", "-Z", "-f", str(directory / "bgpd.conf"), "-i", str(directory / "bgpd.pid")),
            *("--vty_socket", str(directory), "-P", "0", "--log", "stdout"),
        )

    def has(self, prefix: str) -> bool:
        family = "ipv6" if ":" in prefix else "ipv4"
        shown = self.ask(
            "vtysh", "--vty_socket", str(self.place.directory), "-c", f"show bgp {family} unicast {prefix}"
        )
        return "65001" in shown


class GoBgp(Router):
    def start(self) -> None:
        place, directory = self.place, self.place.directory
        families = "".join(
            f"""
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "{family}-unicast"
    [neighbors.afi-safis.mp-graceful-restart.config]
      enabled = true"""
            for family in ("ipv4", "ipv6")
        )
        (directory / "gobgp.toml").write_text(f"""
[global.config]
  as = {place.asn}
  router-id = "{place.v4}"
[[neighbors]]
  [neighbors.config]
    neighbor-address = "{place.node_v4}"
    peer-as = 65001
  [neighbors.timers.config]
    hold-time = 9
    connect-retry = 1
    idle-hold-time-after-reset = 1
  [neighbors.graceful-restart.config]
    enabled = true
    restart-time = 60{families}
""")
        self.spawn("gobgpd", "-f", str(directory / "gobgp.toml"), "--api-hosts", "127.0.0.1:50051")

    def originate(self) -> bool:
        self.ask("gobgp", "global", "rib", "add", "192.0.2.0/24")
        self.ask("gobgp", "global", "rib", "add", "2001:db8:2::/48", "-a", "ipv6", "nexthop", str(self.place.v6))
        return "192.0.2.0/24" in self.ask("gobgp", "global", "rib")

    def has(self, prefix: str) -> bool:
        return prefix in self.ask("gobgp", "global", "rib", "-a", "ipv6" if ":" in prefix else "ipv4")


@pytest.fixture(params=[Frr, GoBgp])
def router(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Router]:
    program, package = {Frr: ("/usr/lib/frr/bgpd", "frr"), GoBgp: ("gobgpd", "gobgpd")}[request.param]
    if shutil.which(program) is None and not Path(program).exists():
        pytest.skip(f"{program} is not installed (Debian package {package})")
    made: Router = request.param(lab.bird())
    yield made
    made.kill()


async def test_routes_a_restart_and_a_removal(router: Router, speaker: ExaBGPSpeaker, listener: Listener) -> None:
    place = router.place

    def react(event: Event) -> None:
        if isinstance(event, SessionUp):
            tell(speaker, place, *OURS)

    listener.react = react
    router.start()
    if isinstance(router, GoBgp):
        await until(router.originate, "GoBGP has its prefixes")
    configure(speaker, session(place))
    up = await listener.until(SessionUp)
    assert up.families == frozenset(Family)
    assert up.graceful_restart is not None
    await listener.until(EndOfRib, count=2)
    await until(
        lambda: {prefix for update in listener.of(Update) for prefix in update.announced} >= THEIRS, "their prefixes"
    )
    await until(lambda: all(map(router.has, OURS)), "our prefixes are there")

    pid = speaker.health().pid
    assert pid is not None
    async with watching(router.has, *OURS) as absences:
        os.kill(pid, signal.SIGKILL)
        await listener.until(SpeakerLost)
        await listener.until(SessionUp, count=2)
        await until(lambda: not speaker.health().pending_announcements, "everything is sent again")
    assert absences == []

    configure(speaker)
    await until(lambda: not any(map(router.has, OURS)), "our prefixes are dropped")
