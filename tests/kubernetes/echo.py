"""Pods that say who they are and who asked, and asking them from anywhere in a cluster, TCP and UDP, both families.

The pods are real ones. Who asks is this process, from within the network namespace of a pod, of a node, or of nobody's:
a question takes a millisecond, and how a connection behaves is seen as the kernel shows it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from felix.namespaces import entered
from inet.prefix import Family
from tests.kubernetes.installed import AGENT_TAG, Installed, lend_programs

PORT: Final = 8080
TCP: Final = "TCP"
UDP: Final = "UDP"
PROTOCOLS: Final = (TCP, UDP)
_KINDS: Final = {TCP: socket.SOCK_STREAM, UDP: socket.SOCK_DGRAM}
PATIENCE_S: Final = 5.0
"""How long an answer may take that is expected."""
SILENCE_S: Final = 0.5
"""How long none may come where none is expected: a packet within one machine takes microseconds."""

_SERVER: Final = f"""
import select, socket, sys
kinds = socket.SOCK_STREAM, socket.SOCK_DGRAM
tcp, udp = (socket.socket(socket.AF_INET6, kind) for kind in kinds)
for each in tcp, udp:
    each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    each.bind(("::", {PORT}))
tcp.listen(1000)
while True:
    for each in select.select((tcp, udp), (), ())[0]:
        if each is tcp:
            connection, client = tcp.accept()
            connection.sendall(f"{{sys.argv[1]}} {{client[0]}}".encode())
            connection.close()
        else:
            client = udp.recvfrom(2000)[1]
            udp.sendto(f"{{sys.argv[1]}} {{client[0]}}".encode(), client)
"""


class Answer(NamedTuple):
    """Which pod answered, and whom it saw asking."""

    pod: str
    client: str


def pod(name: str, node: str, **labels: str) -> dict[str, Any]:
    """Return a pod that answers on PORT. It bears its name as the label `app`."""
    spec: dict[str, Any] = {
        "nodeName": node,
        "terminationGracePeriodSeconds": 0,
        "containers": [
            {"name": "main", "image": AGENT_TAG, "command": ["/usr/bin/python3", "-I", "-c", _SERVER, name]}
        ],
        "volumes": [],
    }
    lend_programs(spec)
    metadata = {"name": name, "namespace": "default", "labels": {"app": name} | labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def service(name: str, selector: Mapping[str, str], **spec: Any) -> dict[str, Any]:
    """Return a Service of both families and both protocols, port 80."""
    ports = [{"name": each.lower(), "protocol": each, "port": 80, "targetPort": PORT} for each in PROTOCOLS]
    spec = {"selector": selector, "ipFamilyPolicy": "RequireDualStack", "ports": ports} | spec
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


class Echoes:
    """Such pods of a cluster, and how they are reached. Made when the pods are Ready."""

    def __init__(self, installed: Installed, pods: Sequence[str]) -> None:
        self._installed = installed
        self.addresses = {name: self._addresses(name) for name in pods}
        self._places = {name: self._place(name) for name in pods}
        self._places |= {node: machine.namespace for node, machine in installed.machines.items()}
        self._places["outside"] = installed.name

    def _addresses(self, name: str) -> dict[Family, str]:
        status = json.loads(self._installed.cluster.kubectl("get", "pod", name, "-o", "json"))["status"]
        return {_family(each["ip"]): each["ip"] for each in status["podIPs"]}

    def _place(self, name: str) -> str:
        """Return the file of a pod's network namespace."""
        link = self._installed.cluster.kubectl("exec", name, "--", "/usr/bin/readlink", "/proc/self/ns/net").strip()
        for process in Path("/proc").iterdir():
            place = process / "ns" / "net"
            try:
                if process.name.isdecimal() and str(place.readlink()) == link:
                    return str(place)
            except OSError:
                continue
        raise AssertionError(f"no process is in the network namespace of pod {name}")

    def spec(self, name: str) -> dict[str, Any]:
        """Return a Service's, as it is in the API."""
        spec: dict[str, Any] = self._installed.cluster.get(service(name, {}))["spec"]
        return spec

    def cluster_ip(self, name: str, family: Family) -> tuple[str, int]:
        """Return where a Service is reached within the cluster."""
        (address,) = (each for each in self.spec(name)["clusterIPs"] if _family(each) is family)
        return address, 80

    def node_port(self, name: str, node: str, family: Family, protocol: str) -> tuple[str, int]:
        """Return where a Service is reached from outside."""
        (port,) = (each["nodePort"] for each in self.spec(name)["ports"] if each["protocol"] == protocol)
        (address,) = (each for each in self._installed.machines[node].addresses if _family(each) is family)
        return address, port

    def open(self, place: str, family: Family, protocol: str) -> socket.socket:
        """Return a socket of a pod, a node or `outside`."""
        with entered(self._places[place]):
            made = socket.socket(family, _KINDS[protocol])
        made.settimeout(PATIENCE_S)
        return made

    def ask(self, place: str, at: tuple[str, int], protocol: str, patience_s: float = PATIENCE_S) -> Answer:
        """Ask from a place. Raises OSError where no answer comes; TimeoutError is one."""
        with self.open(place, _family(at[0]), protocol) as client:
            client.settimeout(patience_s)
            client.connect(at)
            return question(client, protocol)

    def answers(self, place: str, at: tuple[str, int], protocol: str) -> bool:
        """Whether an answer comes at once."""
        try:
            self.ask(place, at, protocol, SILENCE_S)
        except OSError:
            return False
        return True


def question(client: socket.socket, protocol: str) -> Answer:
    """Ask over a socket that is connected. Raises OSError."""
    if protocol == UDP:
        client.send(b"?")
    words = client.recv(2000).decode().split()
    if len(words) != 2:
        raise ConnectionError("no answer")
    return Answer(words[0], words[1].removeprefix("::ffff:"))


def _family(address: str) -> Family:
    return Family.IPV6 if ":" in address else Family.IPV4
