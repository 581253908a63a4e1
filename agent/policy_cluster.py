"""A cluster's objects, asked about policy: what a node enforces, and why a packet is allowed or denied.

Each node that a question touches gets the engine that its agent has. `tortie policy` asks about a directory this way,
and the agent about the objects it follows, with its own engine in place of a fresh one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from agent.objects.policy_objects import PolicyObject, update_of
from inet.prefix import Family
from policy.cidr import holds_address, pack_address
from policy.compiler import Engine, Update
from policy.evaluator import Packet, evaluate
from policy.explain import Stories, explain
from policy.objects import PROTOCOLS, Node, Pod
from policy.policies import Policy
from policy.resident import Resident

_ICMP, _ICMPV6 = 1, 58


class QuestionError(Exception):
    """A question that cannot be answered; the text says why."""


class UnknownEndError(QuestionError):
    """Nobody is known here by the name of one end; somebody else may know."""


@dataclass(frozen=True, slots=True)
class Place:
    """One end of a packet. Addresses are packed; `node` is empty outside the cluster."""

    addresses: tuple[bytes, ...]
    node: str = ""

    def address(self, family: Family) -> bytes | None:
        """Return its first address of a family."""
        return next((each for each in self.addresses if len(each) * 8 == family.bits), None)


def parse_port(text: str) -> tuple[int | None, int]:
    """Read 5432/TCP, 53/udp, 80 (of TCP) or ICMP: port and protocol number. Raises QuestionError."""
    if text.upper() == "ICMP":
        return None, _ICMP
    port, _, protocol = text.partition("/")
    number = PROTOCOLS.get((protocol or "TCP").upper())
    if number is None or not port.isdecimal() or not 0 < int(port) < 65536:
        raise QuestionError(f"{text!r} is not PORT/PROTOCOL, such as 5432/TCP; protocols: {', '.join(PROTOCOLS)}")
    return int(port), number


class PolicyCluster:
    """Everything that policy looks at, in one place. `whole` are the nodes of which every pod is there; None: all."""

    def __init__(self, objects: Iterable[object], whole: Collection[str] | None = None) -> None:
        self._whole = whole
        self.updates: Final[list[Update]] = [update for each in objects if (update := update_of(each)) is not None]
        self.pods: Final = {each.key: each for each in self.updates if isinstance(each, Pod)}
        self.nodes: Final = {each.name: each for each in self.updates if isinstance(each, Node)}
        self.policies: Final = [each for each in self.updates if isinstance(each, Policy)]
        self.engines: Final[dict[str, Engine]] = {}

    @property
    def node_names(self) -> list[str]:
        """Every node there is a Node object of or a pod on."""
        return sorted(self.nodes.keys() | {pod.node for pod in self.pods.values() if pod.node})

    def engine(self, node: str) -> Engine:
        """Return what a node enforces. Takes a second or two with 100,000s of pods, the first time."""
        if node not in self.engines:
            engine = Engine(node)
            for update in self.updates:
                engine.apply(update)
            engine.flush()
            self.engines[node] = engine
        return self.engines[node]

    def place(self, text: str) -> Place:
        """Find NAMESPACE/POD, node:NAME, addresses, or the one pod or node of a bare name. Raises QuestionError.

        An IPv6 address may be in brackets; with a comma between, they are one end's of both families.
        """
        if text.startswith("node:"):
            return self._node(text.removeprefix("node:"))
        if "/" in text:
            return self._pod(text)
        try:
            return self._owner(tuple(map(_packed, text.removeprefix("ip:").split(","))))
        except ValueError:
            pass
        keys = [key for key, pod in self.pods.items() if pod.name == text]
        if len(keys) > 1:
            raise QuestionError(f"{text} may be any of {', '.join(sorted(keys))}: give its namespace")
        if not keys and text in self.nodes:
            return self._node(text)
        if not keys:
            raise UnknownEndError(f"there is no pod or node {text}, and it is no address")
        return self._pod(keys[0])

    def _node(self, name: str) -> Place:
        if name not in self.nodes:
            raise QuestionError(f"there is no Node {name}: {', '.join(sorted(self.nodes)) or 'there is none at all'}")
        if not self.nodes[name].addresses:
            raise QuestionError(f"Node {name} has no address in its status")
        return Place(self.nodes[name].addresses, name)

    def _pod(self, key: str) -> Place:
        pod = self.pods.get(key)
        if pod is None:
            raise UnknownEndError(f"there is no pod {key}")
        if pod.completed:
            raise QuestionError(f"pod {key} has completed: it sends and receives nothing")
        if not pod.node:
            raise QuestionError(f"pod {key} is on no node yet")
        if not pod.addresses:
            raise QuestionError(f"pod {key} has no address yet")
        return Place(pod.addresses, pod.node)

    def _owner(self, addresses: tuple[bytes, ...]) -> Place:
        return Place(addresses, next(filter(None, map(self._node_with, addresses)), ""))

    def _node_with(self, address: bytes) -> str:
        for node in self.nodes.values():
            if address in node.addresses:
                return node.name
        running = (pod for pod in self.pods.values() if address in pod.addresses and not pod.completed)
        if (pod := next(running, None)) is not None:
            return pod.node
        whole = (node for node in self.nodes.values() if self._whole is None or node.name in self._whole)
        return next((node.name for node in whole if holds_address(node.pod_cidrs, address)), "")

    def explain(
        self, source: Place, destination: Place, port: int | None, protocol: int, family: Family | None = None
    ) -> Stories:
        """Explain a packet, each end's node its own part, in one family or in all that both have.

        Raises QuestionError.
        """
        pairs = [(source.address(each), destination.address(each)) for each in Family if family in {None, each}]
        nodes = dict.fromkeys(place.node for place in (source, destination) if place.node)
        packets = [_packet(here, there, protocol, port) for here, there in pairs if here and there]
        if not packets:
            raise QuestionError(f"the two ends have no {f'{family.label} ' if family else ''}address of one family")
        if not nodes:
            raise QuestionError("neither end is in this cluster, as far as it is known here")
        return {
            name: [explain(evaluate(self.engine(name).ruleset, packet), self._who, name) for packet in packets]
            for name in nodes
        }

    def _who(self, address: bytes) -> Resident:
        node = self._node_with(address)
        engine = self.engine(node) if node else next(iter(self.engines.values()))
        found = engine.who(address)
        return msgspec.structs.replace(found, node=node) if found.kind == "Pod" else found


def _packet(source: bytes, destination: bytes, protocol: int, port: int | None) -> Packet:
    is_icmpv6 = protocol == _ICMP and len(source) * 8 == Family.IPV6.bits
    return Packet(source, destination, _ICMPV6 if is_icmpv6 else protocol, port)


def _packed(text: str) -> bytes:
    """Return an address, in brackets or without. Raises ValueError."""
    return pack_address(text[1:-1] if text.startswith("[") and text.endswith("]") else text)


def policies_of(objects: Iterable[object]) -> Iterator[Policy]:
    """Yield the policies among objects."""
    return (each.value for each in objects if isinstance(each, PolicyObject) and isinstance(each.value, Policy))
