"""What Kubernetes says about a packet, straight from the objects: no index, no sets, no chains.

Slow and plain on purpose, written from the API's own words, to hold the engine against.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from ipaddress import ip_address, ip_network

from policy.compiler import Update
from policy.evaluator import Packet
from policy.objects import Namespace, Node, Pod
from policy.policies import (
    Action,
    BlockPeer,
    NodePeer,
    Peer,
    PodPeer,
    Policy,
    PolicyRule,
    PortMatch,
    Selection,
    Tier,
)


class Oracle:
    """The objects of a cluster, and this node's view of a packet."""

    def __init__(self, objects: Iterable[Update], here: str) -> None:
        self._here = here
        values = list(objects)
        self._pods = [
            each
            for each in values
            if isinstance(each, Pod) and not each.host_network and not each.completed and each.addresses
        ]
        self._namespaces = {each.name: each for each in values if isinstance(each, Namespace)}
        self._nodes = {each.name: each for each in values if isinstance(each, Node)}
        self._policies = [each for each in values if isinstance(each, Policy)]

    def allows(self, packet: Packet) -> bool:
        node = self._nodes[self._here]
        if packet.source in node.addresses:
            return True
        source, destination = self._local(packet.source), self._local(packet.destination)
        is_to_node = packet.destination in node.addresses
        if source is not None and packet.source == packet.destination:
            return True  # "a Pod cannot block access to itself"
        if source is None and _in_ranges(node, packet.source) and not is_to_node:
            return False
        if source is not None and not self._direction_allows(source, packet, "node" if is_to_node else "egress"):
            return False
        if destination is not None:
            return self._direction_allows(destination, packet, "ingress")
        return is_to_node or not _in_ranges(node, packet.destination)

    def _local(self, address: bytes) -> Pod | None:
        for pod in self._pods:
            if pod.node == self._here and address in pod.addresses:
                return pod
        return None

    def _direction_allows(self, pod: Pod, packet: Packet, direction: str) -> bool:
        selecting = [each for each in self._policies if self._selects(each.subject, pod)]
        speaking = [each for each in selecting if (each.ingress if direction == "ingress" else each.egress) is not None]
        decided = self._first_match(speaking, Tier.ADMIN, packet, direction)
        if decided in {Action.ACCEPT, Action.DENY}:
            return decided is Action.ACCEPT
        if any(each.tier is Tier.NETWORK_POLICY for each in speaking):
            # NetworkPolicy never keeps a pod from its own node.
            return (
                direction == "node" or self._first_match(speaking, Tier.NETWORK_POLICY, packet, direction) is not None
            )
        return self._first_match(speaking, Tier.BASELINE, packet, direction) is not Action.DENY

    def _first_match(self, policies: list[Policy], tier: Tier, packet: Packet, direction: str) -> Action | None:
        in_order = sorted((each for each in policies if each.tier is tier), key=lambda each: (each.priority, each.ref))
        for policy in in_order:
            for rule in (policy.ingress if direction == "ingress" else policy.egress) or ():
                if self._matches(rule, packet, direction):
                    return rule.action
        return None

    def _matches(self, rule: PolicyRule, packet: Packet, direction: str) -> bool:
        other = packet.source if direction == "ingress" else packet.destination
        return (rule.peers is None or any(self._is_peer(each, other) for each in rule.peers)) and (
            rule.ports is None or any(self._is_port(each, packet) for each in rule.ports)
        )

    def _is_peer(self, peer: Peer, address: bytes) -> bool:
        match peer:
            case PodPeer():
                return any(address in pod.addresses and self._selects(peer.selection, pod) for pod in self._pods)
            case NodePeer():
                return any(
                    address in node.addresses and peer.selector.matches(node.labels) for node in self._nodes.values()
                )
            case BlockPeer():
                return _in_block(str(peer.block), address) and not any(
                    _in_block(str(each), address) for each in peer.exceptions
                )
            case _:
                return False

    def _is_port(self, match: PortMatch, packet: Packet) -> bool:
        if match.name is None:
            if match.protocol != packet.protocol:
                return False
            return match.numbers is None or (
                packet.port is not None and match.numbers[0] <= packet.port <= match.numbers[1]
            )
        return any(
            (name, protocol, port) == (match.name, packet.protocol, packet.port)
            and match.protocol in {None, packet.protocol}
            for pod in self._pods
            if packet.destination in pod.addresses
            for name, protocol, port in pod.ports
        )

    def _selects(self, selection: Selection, pod: Pod) -> bool:
        namespace = self._namespaces[pod.namespace]
        if selection.namespace is not None and selection.namespace != pod.namespace:
            return False
        if selection.namespaces is not None and not selection.namespaces.matches(namespace.labels):
            return False
        return selection.pods.matches(pod.labels)


def _in_ranges(node: Node, address: bytes) -> bool:
    return any(_in_block(str(block), address) for block in node.pod_cidrs)


@cache
def _in_block(block: str, address: bytes) -> bool:
    network, value = ip_network(block), ip_address(address)
    return network.version == value.version and value in network
