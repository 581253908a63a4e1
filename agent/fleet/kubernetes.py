"""The nodes of a Kubernetes cluster, from an administrator's machine.

What agents wrote down is read from the API server; for the rest `tortie` is run in the agent's pod, as `kubectl exec`
does it. Nothing but the administrator's own kubeconfig and rights is used: list Nodes, Pods and NodeRoutingStatuses,
and create pods/exec in the agent's namespace.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import msgspec

from agent.fleet import FleetError, NodeUnreachableError, Outcome, Record
from agent.kubernetes.access import Access
from agent.kubernetes.client import Client, Request, Resource
from agent.kubernetes.errors import Refused, Unreachable
from agent.kubernetes.exec import run_in_pod
from agent.namespace import OWN_NAMESPACE
from agent.objects.kinds import KINDS
from agent.objects.node_routing_status import NodeRoutingStatus
from agent.objects.problem import Invalid

AGENT_LABELS: Final = "app.kubernetes.io/name=tortie,app.kubernetes.io/component=agent"
AGENT_CONTAINER: Final = "agent"
PAGE: Final = 500

_NODES: Final = Resource("", "v1", "nodes")
_PODS: Final = Resource("", "v1", "pods")


class _ListMeta(msgspec.Struct, frozen=True):
    continue_: str = msgspec.field(name="continue", default="")


class _Meta(msgspec.Struct, frozen=True):
    name: str = ""


class _PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    node_name: str = ""


class _PodAddress(msgspec.Struct, frozen=True):
    ip: str = ""


class _PodStatus(msgspec.Struct, frozen=True):
    phase: str = ""
    addresses: list[_PodAddress] = msgspec.field(name="podIPs", default_factory=list)


class _Node(msgspec.Struct, frozen=True):
    metadata: _Meta


class _Pod(msgspec.Struct, frozen=True):
    metadata: _Meta
    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()


class _Page(Protocol):
    @property
    def metadata(self) -> _ListMeta: ...


P = TypeVar("P", bound=_Page)


class _Nodes(msgspec.Struct, frozen=True):
    items: list[_Node]
    metadata: _ListMeta = _ListMeta()


class _Pods(msgspec.Struct, frozen=True):
    items: list[_Pod]
    metadata: _ListMeta = _ListMeta()


class _Documents(msgspec.Struct, frozen=True):
    items: list[dict[str, Any]]
    metadata: _ListMeta = _ListMeta()


class KubernetesFleet:
    """See `agent.fleet.Fleet`."""

    def __init__(self, client: Client, namespace: str = OWN_NAMESPACE) -> None:
        self._client = client
        self._namespace = namespace
        self._agents: Mapping[str, _Pod] | None = None

    @classmethod
    def of(cls, kubeconfig: Path, context: str, namespace: str) -> KubernetesFleet:
        """Return the cluster of a kubeconfig, with agents in a namespace."""
        return cls(Client(Access(kubeconfig, context or None)), namespace)

    @property
    def name(self) -> str:
        """What is asked, for people."""
        return str(self._client)

    async def nodes(self) -> Mapping[str, str]:
        """Return every Node, and why there is no agent to ask on it."""
        agents = await self._agent_pods()
        found = [
            node.metadata.name async for page in self._pages(Request("list", _NODES), _Nodes) for node in page.items
        ]
        return {name: _absence(agents.get(name), self._namespace) for name in sorted(found)}

    async def node_of(self, end: str) -> str:
        """Return the node of a pod, by NAMESPACE/NAME, NAME or address; of several of a name, of none."""
        nodes = {pod.spec.node_name for pod in await self._pods_called(end)}
        return nodes.pop() if len(nodes) == 1 else ""

    async def addresses_of(self, end: str) -> Sequence[str]:
        """Return the addresses of a pod, found as by `node_of`; of several of a name, none."""
        pods = await self._pods_called(end)
        return [each.ip for each in pods[0].status.addresses] if len(pods) == 1 else []

    async def _pods_called(self, end: str) -> list[_Pod]:
        namespace, _, name = end.rpartition("/")
        is_address = ":" in end or end.replace(".", "").isdecimal()
        field = f"status.podIP={end}" if is_address else f"metadata.name={name}"
        request = Request("list", _PODS, namespace, query={"fieldSelector": f"{field},status.phase=Running"})
        return [pod async for page in self._pages(request, _Pods) for pod in page.items]

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


def _absence(pod: _Pod | None, namespace: str) -> str:
    if pod is None:
        return f"no agent pod is there in namespace {namespace}"
    phase = pod.status.phase
    return "" if phase == "Running" else f"its agent's pod {pod.metadata.name} is {phase or 'not started'}"
