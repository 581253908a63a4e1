"""What this node knows of a packet, for `tortie path`: who its ends are, what policy says, and the kernel's own word.

The kernel is asked as if the packet came in by the link it would come in by, so that what it would do to it (a source
it does not believe, a link it does not forward from) shows. Nothing is sent.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from datetime import datetime
from ipaddress import ip_address
from typing import Final

import msgspec

from agent.drops import DropWatch
from agent.network import NodeNetwork
from agent.outgoing_nat import verdict
from agent.path import ends_of
from agent.pathreport import End, LinkFacts, NodeFacts, PolicyFacts, RouteFacts, WayFacts
from agent.routing import Routing
from agent.tunnel_devices import Wrapping
from agent.view import View
from bgp.carriage import OVERHEAD
from felix.devices import Device, Devices
from felix.flow import Flow, FlowLookup, FlowRoute
from felix.podinterfaces import pod_links
from felix.protocol import protocol_name
from felix.route import PROTOCOL, NextHop
from inet.prefix import Family, IPAddress, Prefix, family_of
from policy.explain import combine
from policy.objects import PROTOCOLS

_RECENT_S: Final = 60.0
_ICMP: Final = {Family.IPV4: 1, Family.IPV6: 58}
_NAMES: Final = {"vxlan": "VXLAN", "ipip": "IP in IP", "ip6tnl": "IPv6 in IPv6"}
_TUNNELS: Final = frozenset({"vxlan", "geneve", "ipip", "ip6tnl", "sit", "gre", "ip6gre", "wireguard"})


class PathQuestion(msgspec.Struct, frozen=True):
    """A packet, as people name it."""

    source: str
    destination: str
    port: str = ""  # 5432/TCP; empty: a ping
    source_port: int = 0  # 0: any
    family: Family | None = None  # None: the first that both ends have


class PathFinder:
    """Finds out for one node."""

    def __init__(self, view: View, routing: Routing, network: NodeNetwork) -> None:
        self._view = view
        self._routing = routing
        self._network = network

    async def facts(self, question: PathQuestion) -> NodeFacts:
        """Return what this node knows of a packet. Raises QuestionError where it does not know an end, or OSError."""
        policy = self._view.policy
        port = question.port or "ICMP"
        story = combine(await policy.explain(question.source, question.destination, port, question.family))
        source, destination = ends_of(story)
        packed = ip_address(source.address).packed, ip_address(destination.address).packed
        here = self._view.node
        own = [each for end, each in zip((source, destination), packed, strict=True) if _is_pod_of(end, here)]
        links = await pod_links(own) if own else {}
        family = Family.IPV4 if len(packed[0]) == 4 else Family.IPV6
        protocol = PROTOCOLS.get(story.protocol, _ICMP[family])
        source_link, destination_link = (links.get(each, 0) for each in packed)
        with ExitStack() as stack:
            look = _Look(stack.enter_context(closing(FlowLookup())), stack.enter_context(closing(Devices())))
            answer = Flow(packed[0], packed[1], destination_link, protocol)
            way_back = look.flows.route(answer if destination.node == here else Flow(packed[0]))
            arrives_by = source_link
            if source.node != here and way_back.ways:
                arrives_by = way_back.ways[0].interface  # from elsewhere: by the link that answers leave by
            # Of a packet that came by no link the kernel takes no source but its own.
            known_source = packed[0] if arrives_by or source.node == here else b""
            packet = Flow(packed[1], known_source, arrives_by, protocol, question.source_port, story.port or 0)
            return NodeFacts(
                node=here,
                source=self._placed(source),
                destination=self._placed(destination),
                source_link=look.link(source_link),
                destination_link=look.link(destination_link),
                route=self._route(look, look.flows.route(packet), packed[1]),
                back=self._route(look, way_back, packed[0]),
                policy=story,
                policy_error=policy.error,
                nat=(verdict(self._network.nat.wanted, *packed) or "") if _is_pod_of(source, here) else "",
                service=self._service(destination),
                knows_services=self._knows_services,
                drops=_recent(self._view.drops, source, destination, story.port),
            )

    async def policy_facts(self, question: PathQuestion) -> PolicyFacts:
        """Return what policy says of a packet, as far as this node knows. Raises QuestionError."""
        port = question.port or "ICMP"
        stories = await self._view.policy.explain(question.source, question.destination, port, question.family)
        source, destination = ends_of(combine(stories))
        return PolicyFacts(
            node=self._view.node,
            source=self._placed(source),
            destination=self._placed(destination),
            stories={node: tuple(each) for node, each in stories.items()},
            service=self._service(destination),
            knows_services=self._knows_services,
        )

    def _placed(self, end: End) -> End:
        """Return an end with the node whose pod addresses its own is of, if that is all that is known of it."""
        plan = self._routing.plan
        if end.node or plan is None:
            return end
        node = plan.ownership.pod_cidrs.covering(Prefix.of_host(ip_address(end.address)))
        return msgspec.structs.replace(end, node=node or "")

    def _service(self, destination: End) -> str:
        address, cidrs = ip_address(destination.address), self._network.around.network.service_cidrs
        return next((str(cidr) for cidr in cidrs if cidr.holds(address)), "")

    @property
    def _knows_services(self) -> bool:
        return bool(self._network.around.network.service_cidrs)

    def _route(self, look: _Look, route: FlowRoute, destination: bytes) -> RouteFacts:
        prefix, is_ours = route.prefix, route.protocol == PROTOCOL
        peers = self._peers(prefix) if prefix is not None and is_ours else {}
        return RouteFacts(
            prefix=str(prefix) if prefix is not None else "",
            kind=route.kind,
            owner=protocol_name(route.protocol) if route.protocol else "",
            metric=route.metric,
            origin=self._view.origin(prefix) if prefix is not None and is_ours else "",
            ways=tuple(self._way(look, way, destination, route.mtu, peers) for way in route.ways),
            taken=route.ways.index(route.taken) if route.taken in route.ways else None,
            error=route.error,
        )

    def _way(
        self, look: _Look, way: NextHop, destination: bytes, route_mtu: int, peers: Mapping[NextHop, str]
    ) -> WayFacts:
        device = look.device(way.interface)
        wrapping = self._routing.carrier.wrappings().of(way)
        mtus = [mtu for mtu in (route_mtu, device.mtu if device else 0, look.room_below(wrapping)) if mtu]
        gateway = ip_address(way.gateway) if way.gateway else None
        return WayFacts(
            interface=device.name if device else f"link {way.interface}, gone",
            gateway=str(gateway) if gateway else "",
            node=self._node_at(wrapping.far_end if wrapping else gateway),
            mtu=min(mtus, default=0),
            peer=peers.get(way, ""),
            neighbour=look.neighbour(way, destination),
            tunnel=_tunnel(wrapping, device),
        )

    def _node_at(self, address: IPAddress | None) -> str:
        plan = self._routing.plan
        return plan.ownership.addresses.get(address, "") if plan and address else ""

    def _peers(self, prefix: Prefix) -> dict[NextHop, str]:
        """Whose path each next hop is of."""
        found: dict[NextHop, str] = {}
        for candidate in self._routing.rib.explain(prefix):
            peer = self._routing.peers.get(candidate.path.source.peer)
            if candidate.used and peer is not None:
                for hop in self._routing.forwarding.hops([candidate.path]):
                    found.setdefault(hop, peer.planned.session.origin)
        return found


class _Look:
    """The kernel, asked for one question."""

    def __init__(self, flows: FlowLookup, devices: Devices) -> None:
        self.flows = flows
        self._devices = devices

    def device(self, interface: int) -> Device | None:
        try:
            return self._devices.get(interface)
        except OSError:
            return None

    def link(self, interface: int) -> LinkFacts | None:
        device = self.device(interface) if interface else None
        if device is None:
            return None
        inner = self._devices.other_end(device)
        return LinkFacts(
            name=device.name,
            kind=device.kind,
            mtu=device.mtu,
            is_up=device.is_up and device.has_carrier,
            inner=inner.name if inner else "",
            inner_mtu=inner.mtu if inner else 0,
        )

    def room_below(self, wrapping: Wrapping | None) -> int:
        """Return what the links below a tunnel take, less what it adds, in bytes; 0 where there is no tunnel."""
        if wrapping is None:
            return 0
        ways = self.flows.route(Flow(wrapping.far_end.packed)).ways
        below = [link.mtu for each in ways if (link := self.device(each.interface))]
        return min(below) - OVERHEAD[wrapping.type, family_of(wrapping.far_end)] if below else 0

    def neighbour(self, way: NextHop, destination: bytes) -> str:
        try:
            return self.flows.neighbour(way, destination)
        except OSError:
            return ""


def _tunnel(wrapping: Wrapping | None, device: Device | None) -> str:
    """Say how packets are wrapped: in a tunnel of ours, or by somebody's tunnel device."""
    kind = device.kind if device else ""
    if wrapping is None:
        return f"through {kind} {device.name}" if device and kind in _TUNNELS else ""
    words = f"in {_NAMES.get(kind, kind)} to {wrapping.far_end}"
    return f"{words} VNI {wrapping.vni}" if wrapping.vni else words


def _is_pod_of(end: End, node: str) -> bool:
    return end.kind == "Pod" and end.node == node


def _recent(drops: DropWatch, source: End, destination: End, port: int | None) -> int:
    """Count packets of this kind that policy dropped here lately."""
    since = time.time() - _RECENT_S
    return sum(
        each.count
        for each in drops.recent
        if (each.source_address, each.destination_address, each.port) == (source.address, destination.address, port)
        and datetime.fromisoformat(each.time).timestamp() >= since
    )
