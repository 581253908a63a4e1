"""What `tortie path` is made of, as JSON has it: what each node knows of a packet, and the way put together from that.

As in `agent.report`: written by the agent, read by the command line, camelCase on the wire.
"""

from __future__ import annotations

from typing import Final

import msgspec

from policy.explain import Explanation

UNKNOWN_END: Final = "UnknownEnd"
"""Why an agent does not answer: it knows nobody by the name of one end. Others may."""


class End(msgspec.Struct, rename="camel", frozen=True):
    """One end of a packet's way. `kind` is Pod, Node, or empty for an address that is neither."""

    address: str
    kind: str = ""
    name: str = ""  # namespace/name of a pod
    node: str = ""  # the node it is on, or is; empty outside the cluster

    def __str__(self) -> str:
        return self.name or self.address


class LinkFacts(msgspec.Struct, rename="camel", frozen=True):
    """A link that packets cross. `inner` is what a pod calls its end of it, where that is to be seen."""

    name: str
    kind: str = ""
    mtu: int = 0
    is_up: bool = True  # and has a carrier
    inner: str = ""
    inner_mtu: int = 0


class WayFacts(msgspec.Struct, rename="camel", frozen=True):
    """One of the equal ways of a route."""

    interface: str
    gateway: str = ""  # empty: the destination is on the link
    node: str = ""  # whose address the gateway is, if a node's
    mtu: int = 0  # of the link, or of the route where that says less
    peer: str = ""  # whose BGP path it is, such as BGPPeer/tor-1
    neighbour: str = ""  # as `ip neigh` names its state; empty: nobody has spoken with it lately
    tunnel: str = ""  # how packets are wrapped, in words; empty: they are not


class RouteFacts(msgspec.Struct, rename="camel", frozen=True):
    """The route that packets match on one node. `error` says in words why they go nowhere."""

    prefix: str = ""
    kind: str = ""  # unicast, local, blackhole, ...
    owner: str = ""  # tortie, kernel, static, ...
    metric: int = 0
    origin: str = ""  # of a route of ours: eBGP 65100 65002
    ways: tuple[WayFacts, ...] = ()
    taken: int | None = None  # which of the ways this flow takes; None: it depends on what was not asked for
    error: str = ""


class NodeFacts(msgspec.Struct, rename="camel", frozen=True):
    """What one node knows of a packet. Links are those of its own pods."""

    node: str
    source: End
    destination: End
    source_link: LinkFacts | None
    destination_link: LinkFacts | None
    route: RouteFacts  # towards the destination
    back: RouteFacts  # towards the source, as the answer meets it
    policy: Explanation | None
    policy_error: str = ""  # why policy is not in the kernel as it should be
    nat: str = ""  # what its source address becomes, and why; empty: it stays
    service: str = ""  # the service addresses that the destination is one of; empty: it is none
    knows_services: bool = True  # which addresses are Services': NetworkConfiguration has serviceCIDRs
    drops: int = 0  # packets of this kind that policy dropped here within the last minute


class PolicyFacts(msgspec.Struct, rename="camel", frozen=True):
    """What one node knows of policy about a packet: its own part by what it enforces, another's as that would."""

    node: str
    source: End
    destination: End
    stories: dict[str, tuple[Explanation, ...]]  # by node, one for each family
    service: str = ""  # as in NodeFacts
    knows_services: bool = True


class Fact(msgspec.Struct, rename="camel", frozen=True):
    """Something that happens to the packet. `what` is policy, route, tunnel, nat, mtu, link, neighbour or unknown."""

    what: str
    text: str
    drops: bool = False


class Stage(msgspec.Struct, rename="camel", frozen=True):
    """A place on the way, as it is drawn, and what happens there, in order."""

    node: str  # empty: outside the cluster
    place: str
    facts: tuple[Fact, ...] = ()


class Journey(msgspec.Struct, rename="camel", frozen=True):
    """The whole way. `verdict` is arrives, dropped, or unknown where somebody on the way could not be asked."""

    verdict: str
    reason: str  # where it ends and why, or why that is not known; empty where it arrives
    answers: str  # why answers do not find back; empty where they do
    source: End
    destination: End
    protocol: str
    port: int | None
    mtu: int  # the smallest on the way, in bytes; 0: not known
    stages: tuple[Stage, ...]
    notes: tuple[str, ...]
    nodes: tuple[NodeFacts, ...]  # what it was put together from
