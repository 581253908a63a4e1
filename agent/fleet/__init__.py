"""Every node of a cluster, asked from one place: one Protocol, so that a lab and a Kubernetes cluster are the same.

A node is asked by running `tortie` on it: what works there by hand works from here, in the same words and with the same
exit status, and there is no second protocol to keep secure. What nodes write down about themselves anyway is read from
where they write it, without asking each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from agent.objects.node_routing_status import STALE_S, NodeRoutingStatus

AT_ONCE: Final = 16
"""How many nodes are asked side by side."""

DEADLINE_S: Final = 60.0
"""How long one node may take to answer."""


class FleetError(Exception):
    """The cluster cannot be asked at all; the text says why and what to do."""


class NodeUnreachableError(Exception):
    """One node cannot be asked; the text says why."""


class Outcome(NamedTuple):
    """What a command on a node came to. `complaint` is what it wrote to standard error."""

    status: int
    output: bytes
    complaint: str = ""


class Record(NamedTuple):
    """What an agent wrote down of its node, and how long ago, by one clock; None: it does not say."""

    status: NodeRoutingStatus
    age_s: float | None = None

    @property
    def staleness(self) -> str:
        """That nobody should go by it any more, for people; empty if it may be so still."""
        if self.age_s is None or self.age_s < STALE_S:
            return ""
        return f"STALE: its agent last wrote NodeRoutingStatus {self.age_s / 60:.0f} minutes ago"


class Located(NamedTuple):
    """Who an end of a packet is, as the cluster knows it. `trouble` says why it is no end now; empty if it is one."""

    kind: str  # Pod, Node, or empty for an address that may be some pod's of a node
    name: str  # NAMESPACE/NAME of a pod
    node: str
    addresses: tuple[str, ...] = ()
    trouble: str = ""


class Service(NamedTuple):
    """What the cluster knows of a service address. Without a name no Service has it."""

    name: str = ""  # NAMESPACE/NAME
    cidr: str = ""  # the range of service addresses that it is in, where that is known
    pods: tuple[str, ...] = ()  # that are ready to serve it
    ports: Mapping[str, str] = {}  # which port of the pods each port of the Service is, as in 53/UDP: 8053/UDP

    def words(self, address: str, port: str) -> str:
        """Say what becomes of a packet to it; empty where it is no service address. `port` may be empty."""
        if not self.name:
            return f"{address} is a service address (of {self.cidr}), but no Service has it" if self.cidr else ""
        what = f"{address} is the address of Service {self.name}"
        if self.ports and port and port not in self.ports:
            return f"{what}, which has no port {port}: it has {', '.join(self.ports)}"
        if not self.pods:
            return f"{what}, which no pod is ready to serve"
        first, *others = self.pods
        more = f", or {len(others)} other{'s' if len(others) > 1 else ''}" if others else ""
        target = f" {self.ports[port]}" if port in self.ports else ""
        return f"{what}: kube-proxy puts a pod's in its place; ask about {first}{target}{more}"


class Fleet(Protocol):
    """A cluster's nodes. `name` is for people: lab two-racks, cluster prod."""

    @property
    def name(self) -> str:
        """What is asked, for people."""

    async def nodes(self) -> Mapping[str, str]:
        """Return the nodes that are to have an agent, in order, each with why it cannot be asked, empty if it can.

        Raises FleetError.
        """

    async def locate(self, end: str) -> Sequence[Located]:
        """Return who may be meant by NAMESPACE/POD, a bare name, node:NAME or an address. Raises FleetError."""

    async def service_at(self, address: str) -> Service | None:
        """Return what is known of an address as a Service's; None where Services are not known. Raises FleetError."""

    async def recorded(self) -> Sequence[Record] | None:
        """Return what the agents wrote down of themselves; None where they do not. Raises FleetError."""

    async def run(self, node: str, words: Sequence[str]) -> Outcome:
        """Run `tortie WORDS` on a node. Raises NodeUnreachableError."""

    async def close(self) -> None:
        """Let go of connections."""


async def ask_all(
    fleet: Fleet, nodes: Sequence[str], words: Sequence[str]
) -> Mapping[str, Outcome | NodeUnreachableError]:
    """Run the same on many nodes, a few at a time, each within its deadline; in the order of `nodes`."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def ask(node: str) -> Outcome | NodeUnreachableError:
        async with turns:
            try:
                async with asyncio.timeout(DEADLINE_S):
                    return await fleet.run(node, words)
            except NodeUnreachableError as error:
                return error
            except TimeoutError:
                return NodeUnreachableError(f"no answer within {DEADLINE_S:.0f} s")

    return dict(zip(nodes, await asyncio.gather(*map(ask, nodes)), strict=True))
