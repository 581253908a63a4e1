"""The nodes of a Kubernetes cluster, from an administrator's machine.

What agents wrote down is read from the API server; for the rest `tortie` is run in the agent's pod, as `kubectl exec`
does it. Nothing but the rights of whoever asks is used: list Nodes and NodeRoutingStatuses, list Pods and DaemonSets in
the agent's namespace, and create pods/exec there for what is run.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.fleet import FleetError, Located, NodeUnreachableError, Outcome, Record, Service
from agent.fleet.services import ListMeta, P, service_at
from agent.kubernetes.access import Access
from agent.kubernetes.client import Client, Request, Resource
from agent.kubernetes.errors import Refused, Unreachable
from agent.kubernetes.exec import run_in_pod
from agent.namespace import OWN_NAMESPACE
from agent.objects.kinds import KINDS
from agent.objects.node_routing_status import NodeRoutingStatus
from agent.objects.problem import Invalid
from inet.prefix import IPAddress, Prefix

AGENT_LABELS: Final = "app.kubernetes.io/name=tortie,app.kubernetes.io/component=agent"
AGENT_CONTAINER: Final = "agent"
PAGE: Final = 500

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")  # RFC 1123, as objects are named
_ENDED: Final = frozenset({"Succeeded", "Failed"})
_NODES: Final = Resource("", "v1", "nodes")
_PODS: Final = Resource("", "v1", "pods")
_DAEMON_SETS: Final = Resource("apps", "v1", "daemonsets")


class _Meta(msgspec.Struct, frozen=True):
    name: str = ""
    namespace: str = ""


class _PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    node_name: str = ""


class _PodAddress(msgspec.Struct, frozen=True):
    ip: str = ""


class _PodStatus(msgspec.Struct, frozen=True):
    phase: str = ""
    addresses: list[_PodAddress] = msgspec.field(name="podIPs", default_factory=list)


class _NodeSpec(msgspec.Struct, frozen=True):
    pod_cidrs: list[str] = msgspec.field(name="podCIDRs", default_factory=list)


class _NodeAddress(msgspec.Struct, frozen=True):
    address: str = ""


class _NodeStatus(msgspec.Struct, frozen=True):
    addresses: list[_NodeAddress] = []


class _Node(msgspec.Struct, frozen=True):
    metadata: _Meta
    spec: _NodeSpec = _NodeSpec()
    status: _NodeStatus = _NodeStatus()


class _Pod(msgspec.Struct, frozen=True):
    metadata: _Meta
    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()


class _Nodes(msgspec.Struct, frozen=True):
    items: list[_Node]
    metadata: ListMeta = ListMeta()


class _Pods(msgspec.Struct, frozen=True):
    items: list[_Pod]
    metadata: ListMeta = ListMeta()


class _DaemonSetStatus(msgspec.Struct, frozen=True, rename="camel"):
    desired_number_scheduled: int = 0


class _DaemonSet(msgspec.Struct, frozen=True):
    status: _DaemonSetStatus = _DaemonSetStatus()


class _DaemonSets(msgspec.Struct, frozen=True):
    items: list[_DaemonSet]
    metadata: ListMeta = ListMeta()


class _Documents(msgspec.Struct, frozen=True):
    items: list[dict[str, Any]]
    metadata: ListMeta = ListMeta()


class KubernetesFleet:
    """See `agent.fleet.Fleet`."""

    def __init__(self, client: Client, namespace: str = OWN_NAMESPACE) -> None:
        self._client = client
        self._namespace = namespace
        self._agents: Mapping[str, _Pod] | None = None
        self._nodes: Sequence[_Node] | None = None

    @classmethod
    def of(cls, kubeconfig: Path | None, context: str, namespace: str) -> KubernetesFleet:
        """Return the cluster of a kubeconfig, or without one that of the pod, with agents in a namespace."""
        return cls(Client(Access(kubeconfig, context or None)), namespace)

    @property
    def name(self) -> str:
        """What is asked, for people."""
        return str(self._client)

    async def nodes(self) -> Mapping[str, str]:
        """Return every Node that is to have an agent, and why it has none to ask."""
        agents = await self._agent_pods()
        wanted = await self._wanted_agents()
        is_complete = wanted > 0 and wanted == len(agents.keys() - {""})
        names = sorted(node.metadata.name for node in await self._all_nodes())
        return {
            name: _absence(agents.get(name), self._namespace) for name in names if name in agents or not is_complete
        }

    async def _all_nodes(self) -> Sequence[_Node]:
        if self._nodes is None:
            self._nodes = [node async for page in self._pages(Request("list", _NODES), _Nodes) for node in page.items]
        return self._nodes

    async def locate(self, end: str) -> Sequence[Located]:
        """Return who may be meant. The pod of an address is looked for on the node whose pod CIDR holds it."""
        if end.startswith("node:"):
            return await self._nodes_called(end.removeprefix("node:"))
        try:
            address = ip_address(end.removeprefix("ip:").strip("[]"))
        except ValueError:
            return await self._called(end)
        for node in await self._all_nodes():
            if str(address) in (each.address for each in node.status.addresses):
                return [Located("Node", node.metadata.name, node.metadata.name)]
            if any(_holds(cidr, address) for cidr in node.spec.pod_cidrs):
                here = await self._pods(f"spec.nodeName={node.metadata.name}")
                nobody = Located("", "", node.metadata.name, (str(address),))
                return [each for each in here if str(address) in each.addresses] or [nobody]
        return await self._pods(f"status.podIP={address}")

    async def _called(self, end: str) -> list[Located]:
        namespace, slash, name = end.rpartition("/")
        if not all(_NAME.fullmatch(each) for each in ([namespace, name] if slash else [name])):
            return []
        found = await self._pods(f"metadata.name={name}", namespace)
        return found or ([] if slash else await self._nodes_called(name))

    async def _nodes_called(self, name: str) -> list[Located]:
        return [Located("Node", name, name) for node in await self._all_nodes() if node.metadata.name == name]

    async def _pods(self, field: str, namespace: str = "") -> list[Located]:
        """Return the pods that a field selector finds; of those that have ended only where there are no others."""
        request = Request("list", _PODS, namespace, query={"fieldSelector": field})
        pods = [pod async for page in self._pages(request, _Pods) for pod in page.items]
        living = [pod for pod in pods if pod.status.phase not in _ENDED]
        return [_located(pod) for pod in living or pods]

    async def service_at(self, address: str) -> Service | None:
        """Return the Service that has an address, with the pods behind it."""
        return await service_at(self._client, self._pages, address)

    async def recorded(self) -> Sequence[Record] | None:
        """Return the NodeRoutingStatus of every node."""
        kind = KINDS[NodeRoutingStatus.kind]
        group, _, version = kind.group_version.partition("/")
        found: list[Record] = []
        async for page in self._pages(Request("list", Resource(group, version, kind.plural)), _Documents):
            for document in page.items:
                try:
                    status = kind.decode(document)
                except Invalid:  # of another version of the agent: it can be asked itself
                    continue
                if isinstance(status, NodeRoutingStatus):
                    last = status.status.last_heartbeat_time
                    found.append(Record(status, self._client.time() - last.timestamp() if last else None))
        return found

    async def run(self, node: str, words: Sequence[str]) -> Outcome:
        """Run `tortie` in the agent's pod on a node."""
        try:
            pod = (await self._agent_pods()).get(node)
            if pod is None and node not in (names := await self.nodes()):
                raise NodeUnreachableError(f"there is no such Node; there is {', '.join(names) or 'none at all'}")
            if pod is None or _absence(pod, self._namespace):
                raise NodeUnreachableError(_absence(pod, self._namespace))
            ended = await run_in_pod(
                self._client, self._namespace, pod.metadata.name, AGENT_CONTAINER, ["tortie", *words]
            )
        except (FleetError, Refused, Unreachable) as error:
            raise NodeUnreachableError(str(error)) from None
        return Outcome(ended.status, ended.output, ended.complaint.decode(errors="replace").strip())

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()

    async def _agent_pods(self) -> Mapping[str, _Pod]:
        if self._agents is None:
            request = Request("list", _PODS, self._namespace, query={"labelSelector": AGENT_LABELS})
            pods = [pod async for page in self._pages(request, _Pods) for pod in page.items]
            # While one is replaced there are two: the one that runs counts.
            pods.sort(key=lambda pod: pod.status.phase == "Running")
            self._agents = {pod.spec.node_name: pod for pod in pods}
        return self._agents

    async def _wanted_agents(self) -> int:
        """Return how many nodes are to have an agent, by node selector and affinity; 0 if nobody says."""
        request = Request("list", _DAEMON_SETS, self._namespace, query={"labelSelector": AGENT_LABELS})
        try:
            return sum([
                each.status.desired_number_scheduled
                async for page in self._pages(request, _DaemonSets)
                for each in page.items
            ])  # fmt: skip
        except FleetError:  # whoever asks may not look: then any node may be one
            return 0

    async def _pages(self, request: Request, page: type[P]) -> AsyncIterator[P]:
        """List page by page. Raises FleetError."""
        query = {**request.query, "limit": str(PAGE)}
        while True:
            try:
                found = msgspec.json.decode(await self._client.send(request._replace(query=query)), type=page)
            except (Refused, Unreachable, msgspec.DecodeError) as error:
                raise FleetError(f"{self.name}: {request.verb} {request.resource}: {error}") from None
            yield found
            if not found.metadata.continue_:
                return
            query["continue"] = found.metadata.continue_


def _located(pod: _Pod) -> Located:
    name = f"{pod.metadata.namespace}/{pod.metadata.name}"
    addresses = tuple(each.ip for each in pod.status.addresses)
    trouble = "" if addresses else f"pod {name} has no address yet: it is {pod.status.phase or 'not started'}"
    if pod.status.phase in _ENDED:
        trouble = f"pod {name} has completed: it sends and receives nothing"
    return Located("Pod", name, pod.spec.node_name, addresses, trouble)


def _holds(cidr: str, address: IPAddress) -> bool:
    try:
        return Prefix.parse(cidr).contains(Prefix.of_host(address))
    except ValueError:
        return False


def _absence(pod: _Pod | None, namespace: str) -> str:
    if pod is None:
        return f"no agent pod is there in namespace {namespace}"
    phase = pod.status.phase
    return "" if phase == "Running" else f"its agent's pod {pod.metadata.name} is {phase or 'not started'}"
