"""What a node's network settings depend on, out of all objects: its own pods, all nodes, what the cluster is told.

Outgoing NAT, MTU and sysctls look here. Of hundreds of thousands of pods only this node's are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Final, NamedTuple

from agent.datastore import Batch
from agent.objects import NetworkConfiguration, Node
from agent.objects.model import Key
from agent.objects.network_configuration import NetworkConfigurationSpec
from agent.objects.policy_objects import PolicyObject
from inet.prefix import IPAddress, Prefix
from policy.objects import Namespace, Pod


class KnownNode(NamedTuple):
    """What of a Node object matters here, ready to be used: there may be thousands."""

    name: str
    pod_cidrs: tuple[Prefix, ...]
    internal_addresses: tuple[IPAddress, ...]
    hosts: tuple[Prefix, ...]  # the same as prefixes

    @classmethod
    def of(cls, node: Node) -> KnownNode:
        """Return what matters of a Node object."""
        addresses = node.internal_addresses
        return cls(node.name, node.pod_cidrs, addresses, tuple(map(Prefix.of_host, addresses)))


class Surroundings:
    """The objects in force that matter to one node."""

    def __init__(self, node: str) -> None:
        self.network = NetworkConfigurationSpec()
        self.nodes: Final[dict[str, KnownNode]] = {}
        self.pods: Final[dict[Key, Pod]] = {}
        self.namespaces: Final[dict[str, Mapping[str, str]]] = {}
        """Labels of each namespace."""
        self.is_synced = False
        self._node = node

    @property
    def own(self) -> KnownNode | None:
        """This node's object; its last version where it is gone."""
        return self.nodes.get(self._node)

    @property
    def is_known(self) -> bool:
        """Whether all there is has been read, and this node is among it."""
        return self.is_synced and self.own is not None

    @property
    def others(self) -> list[KnownNode]:
        """The other nodes."""
        return [node for name, node in self.nodes.items() if name != self._node]

    @property
    def pod_cidrs(self) -> tuple[Prefix, ...]:
        """Addresses of pods anywhere in the cluster."""
        return (*self.network.pod_cidrs, *chain.from_iterable(node.pod_cidrs for node in self.nodes.values()))

    def take(self, batch: Batch) -> bool:
        """Take over what changed; whether nodes' addresses or settings are among it, or all there is has been read."""
        before = (self.is_synced, len(self.nodes), self.network)
        is_about_nodes = False
        for key, item in batch.changed.items():
            if isinstance(item, PolicyObject):
                self._take_policy_object(key, item.value)
            elif isinstance(item, Node):
                known = KnownNode.of(item)
                is_about_nodes |= self.nodes.get(item.name) != known
                self.nodes[item.name] = known
            elif isinstance(item, NetworkConfiguration):
                self.network = item.spec
        for key in batch.deleted:
            self._forget(key)
        self.is_synced |= batch.is_synced
        return is_about_nodes or before != (self.is_synced, len(self.nodes), self.network)

    def _take_policy_object(self, key: Key, value: object) -> None:
        if isinstance(value, Namespace):
            self.namespaces[value.name] = value.labels
        elif isinstance(value, Pod):
            if value.node == self._node and not value.host_network and not value.completed:
                self.pods[key] = value
            else:
                self.pods.pop(key, None)

    def _forget(self, key: Key) -> None:
        if key.kind == "Pod":
            self.pods.pop(key, None)
        elif key.kind == "Namespace":
            self.namespaces.pop(key.name, None)
        elif key.kind == Node.kind and key.name != self._node:
            self.nodes.pop(key.name, None)
        elif key.kind == NetworkConfiguration.kind:
            self.network = NetworkConfigurationSpec()
