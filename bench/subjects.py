"""The programs under test on the node: BIRD, GoBGP and Tortie, each taking the same sessions.

A subject is started with the sender's sessions and knows its own processes by part. All of them accept every route
of the load, share it among equal paths, and put it into the kernel; GoBGP has no kernel part here, only its RIB.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import ClassVar, Final, Protocol, TypeAlias

import yaml

from agent.cli import client
from agent.report import StatusReport
from bench import load, processes
from bench.measure import BenchError
from bench.network import Network
from bench.processes import Program
from bench.sender import Session
from inet.prefix import Family

NODE_ASN: Final = 65001
NODE_NAME: Final = "node"
START_S: Final = 60.0


class Subject(Protocol):
    """A program under test in a network's node."""

    name: ClassVar[str]

    def __init__(self, network: Network, directory: Path, sessions: Sequence[Session]) -> None:
        """Start it, with its files in a directory of its own."""

    def parts(self) -> Mapping[str, int]:
        """Return its processes by what they are."""

    def wait_established(self, sessions: int) -> None:
        """Wait until it is ready to take routes on so many sessions."""

    def wait_settled(self) -> None:
        """Wait until whatever it does after its start is over."""

    def verify(self, family: Family, count: int) -> None:
        """See that it has so many routes where they belong. Raises BenchError."""

    def end(self) -> None:
        """End it."""


Start: TypeAlias = type[Subject]


def pids(subject: Subject) -> list[int]:
    """Return all processes of a subject."""
    return list(subject.parts().values())


def cpu_by_part(subject: Subject) -> dict[str, float]:
    """Return the CPU seconds that each part of a subject has used."""
    return {part: processes.cpu_s([pid]) for part, pid in subject.parts().items()}


class Bird:
    """BIRD 2, BGP and kernel protocols, `merge paths` for ECMP."""

    name: ClassVar[str] = "BIRD"

    def __init__(self, network: Network, directory: Path, sessions: Sequence[Session]) -> None:
        self._network = network
        configuration = directory / "bird.conf"
        configuration.write_text(_bird_configuration(sessions))
        self._control = directory / "bird.ctl"
        argv = ["bird", "-f", "-c", str(configuration), "-s", str(self._control), "-P", str(directory / "bird.pid")]
        self._program = Program(network.node, argv, directory / "bird.log")

    def parts(self) -> Mapping[str, int]:
        """One process."""
        return {"bird": self._program.pid}

    def wait_established(self, sessions: int) -> None:
        """Ask birdc."""

        def established() -> bool:
            self._program.check()
            told = subprocess.run(
                ["birdc", "-s", str(self._control), "show", "protocols"], capture_output=True, text=True, check=False
            )
            return told.stdout.count("Established") == sessions

        processes.until(established, f"{sessions} sessions of BIRD established", START_S)

    def wait_settled(self) -> None:
        """BIRD has no start to get over without graceful restart."""

    def verify(self, family: Family, count: int) -> None:
        """Look into the kernel."""
        load.verify(self._network, family, count)

    def end(self) -> None:
        """End it."""
        self._program.end()


def _bird_configuration(sessions: Sequence[Session]) -> str:
    blocks = ["router id 10.99.1.1;", "log stderr { warning, error, fatal, bug };", "protocol device {}"]
    blocks += [
        f"protocol kernel {{ merge paths on limit 16; ipv{version} {{ import none; export all; }}; }}"
        for version in (4, 6)
    ]
    for number, session in enumerate(sessions):
        channel = "ipv6" if session.family is Family.IPV6 else "ipv4"
        blocks.append(
            f"protocol bgp peer{number} {{\n"
            f"  local {session.remote} as {session.remote_asn};\n"
            f"  neighbor {session.local} as {session.local_asn};\n"
            f"  hold time {session.hold_time_s};\n  connect retry time 1;\n  error wait time 1, 2;\n"
            f"  {channel} {{ import all; export none; }};\n}}"
        )
    return "\n".join([*blocks, ""])


class GoBgp:
    """GoBGP as a route server of nothing: routes end in its RIB; only the load's markers are passed on."""

    name: ClassVar[str] = "GoBGP"

    def __init__(self, network: Network, directory: Path, sessions: Sequence[Session]) -> None:
        configuration = directory / "gobgpd.json"
        configuration.write_text(json.dumps(_gobgp_configuration(sessions)))
        argv = ["gobgpd", "-t", "json", "-f", str(configuration), "--log-level", "warn"]
        self._network = network
        self._program = Program(network.node, argv, directory / "gobgpd.log")

    def parts(self) -> Mapping[str, int]:
        """One process."""
        return {"gobgpd": self._program.pid}

    def wait_established(self, sessions: int) -> None:
        """Ask gobgp."""

        def established() -> bool:
            self._program.check()
            return self._ask("neighbor").count(" Establ ") == sessions

        processes.until(established, f"{sessions} sessions of GoBGP established", START_S, every_s=0.2)

    def wait_settled(self) -> None:
        """Nor has GoBGP."""

    def verify(self, family: Family, count: int) -> None:
        """Ask for the size of the RIB, the marker included."""
        said = self._ask("global", "rib", "summary", "-a", family.label.lower())
        if f"Destination: {count + 1}," not in said:
            raise BenchError(f"GoBGP says {said.strip()!r}, not {count + 1} destinations")

    def _ask(self, *words: str) -> str:
        command = ["ip", "netns", "exec", self._network.node, "gobgp", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def end(self) -> None:
        """End it."""
        self._program.end()


def _gobgp_configuration(sessions: Sequence[Session]) -> dict[str, object]:
    neighbors = [
        {
            "config": {"neighbor-address": session.local, "peer-as": session.local_asn},
            "transport": {"config": {"passive-mode": True, "local-address": session.remote}},
            "timers": {"config": {"hold-time": session.hold_time_s, "keepalive-interval": session.hold_time_s // 3}},
            "afi-safis": [{"config": {"afi-safi-name": f"{session.family.label.lower()}-unicast"}}],
        }
        for session in sessions
    ]
    sets = [
        {"prefix-set-name": family.label, "prefix-list": [{"ip-prefix": str(load.MARKERS[family])}]}
        for family in Family
    ]
    statements = [
        {
            "name": family.label,
            "conditions": {"match-prefix-set": {"prefix-set": family.label}},
            "actions": {"route-disposition": "accept-route"},
        }
        for family in Family
    ]
    asn = sessions[0].remote_asn
    return {
        "global": {
            "config": {"as": asn, "router-id": "10.99.1.1"},
            "apply-policy": {
                "config": {"export-policy-list": ["markers"], "default-export-policy": "reject-route"},
            },
        },
        "neighbors": neighbors,
        "defined-sets": {"prefix-sets": sets},
        "policy-definitions": [{"name": "markers", "statements": statements}],
    }


class Tortie:
    """The agent with its ExaBGP and the bridge between them."""

    name: ClassVar[str] = "Tortie"

    def __init__(self, network: Network, directory: Path, sessions: Sequence[Session]) -> None:
        manifests = directory / "manifests"
        manifests.mkdir()
        (manifests / "bench.yaml").write_text(yaml.safe_dump_all(tortie_manifests(sessions), sort_keys=False))
        self._network = network
        run_directory = directory / "run"
        self._socket = run_directory / "agent.sock"
        argv = [*_tortie(), "agent", "--config", str(manifests), "--node", NODE_NAME]
        argv += ["--run-dir", str(run_directory), "--listen", ""]
        self._program = Program(network.node, argv, directory / "agent.log")

    def parts(self) -> Mapping[str, int]:
        """The agent, ExaBGP and the bridge."""
        found = {"agent": self._program.pid}
        for pid in processes.descendants(self._program.pid)[1:]:
            words = processes.command_line(pid)
            found["bridge" if "bridge.py" in words else "ExaBGP"] = pid
        return found

    def wait_established(self, sessions: int) -> None:
        """Ask the agent."""
        self._until(lambda status: status.sessions_established == sessions, f"{sessions} sessions established")

    def wait_settled(self) -> None:
        """Wait until it no longer spares what it found at its start (RFC 4724 section 4.1)."""
        self._until(lambda status: not status.restarting and not status.routes_pending, "the restart over")

    def _until(self, condition: Callable[[StatusReport], bool], what: str) -> None:
        def holds() -> bool:
            self._program.check()
            try:
                return condition(client.ask(self._socket, "status", StatusReport))
            except client.UnreachableError:
                return False

        processes.until(holds, f"{what} by Tortie", START_S, every_s=0.1)

    def verify(self, family: Family, count: int) -> None:
        """Look into the kernel."""
        load.verify(self._network, family, count)

    def end(self) -> None:
        """End it."""
        self._program.end()


def _tortie() -> list[str]:
    return [str(Path(sys.executable).with_name("tortie"))]


def tortie_manifests(sessions: Sequence[Session]) -> list[dict[str, object]]:
    """Return the objects: eBGP peers by address; iBGP ones as nodes of the mesh that own what they announce."""
    first = sessions[0]
    internal = [session for session in sessions if session.local_asn == session.remote_asn]
    external = [session for session in sessions if session.local_asn != session.remote_asn]
    own_cidr = "10.42.255.0/24" if first.family is Family.IPV4 else "fd42:0:0:ffff::/64"
    nodes = [_node(NODE_NAME, sorted({session.remote for session in sessions}), [own_cidr])]
    nodes += [
        _node(f"peer-{number}", [session.local], list(session.prefixes)) for number, session in enumerate(internal)
    ]
    covers = [{"cidr": str(cover), "maxLength": load.LENGTHS[family]} for family, cover in load.COVERS.items()]
    configuration = {
        "localASN": first.remote_asn,
        "nodeMesh": {"enabled": bool(internal)},
        "import": {"accept": covers, "maxPrefixes": load.MOST},
    }
    objects: list[dict[str, object]] = [_object("BGPConfiguration", "default", configuration), *nodes]
    objects += [
        _object("BGPPeer", f"router-{number}", {"peer": {"address": session.local}, "peerASN": session.local_asn})
        for number, session in enumerate(external)
    ]
    return objects


def _object(kind: str, name: str, spec: Mapping[str, object]) -> dict[str, object]:
    return {"apiVersion": "tortie.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}


def _node(name: str, addresses: Sequence[str], pod_cidrs: Sequence[str]) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"podCIDRs": list(pod_cidrs)},
        "status": {"addresses": [{"type": "InternalIP", "address": str(ip_address(each))} for each in addresses]},
    }
