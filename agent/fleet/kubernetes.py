"""The nodes of a Kubernetes cluster, from an administrator's machine.

What agents wrote down is read from the API server; for the rest `tortie` is run in the agent's pod, as `kubectl exec`
would (pods/exec over a WebSocket).

Nothing but the administrator's own kubeconfig and rights is used: list Nodes and NodeRoutingStatuses, list Pods of the
agent's namespace, create pods/exec there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import ConfigException, load_kube_config

from agent.fleet import FleetError, NodeUnreachableError, Outcome
from agent.objects.kinds import KINDS, OWN_NAMESPACE
from agent.objects.node_routing_status import NodeRoutingStatus
from agent.objects.problem import Invalid

T = TypeVar("T")
AGENT_LABELS: Final = "app.kubernetes.io/name=tortie,app.kubernetes.io/component=agent"
AGENT_CONTAINER: Final = "agent"
_PAGE: Final = 500
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"
_STDOUT, _STDERR, _ENDING = 1, 2, 3  # channels of v4.channel.k8s.io: the first byte of each message


class _Meta(msgspec.Struct, frozen=True):
    name: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    node_name: str = ""


class _PodStatus(msgspec.Struct, frozen=True, rename="camel"):
    phase: str = ""


class _Pod(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()
    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()


class _Named(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()


class _Pods(msgspec.Struct, frozen=True):
    items: list[_Pod] = []
    metadata: _Meta = _Meta()


class _Nameds(msgspec.Struct, frozen=True):
    items: list[_Named] = []
    metadata: _Meta = _Meta()


class _Documents(msgspec.Struct, frozen=True):
    items: list[dict[str, Any]] = []
    metadata: _Meta = _Meta()


class _Cause(msgspec.Struct, frozen=True):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct, frozen=True):
    causes: list[_Cause] = []


class _Ending(msgspec.Struct, frozen=True):
    """What comes last: a metav1.Status."""

    status: str = ""
    message: str = ""
    details: _Details | None = None


class KubernetesFleet:
    """See `agent.fleet.Fleet`."""

    def __init__(self, configuration: Configuration, namespace: str = OWN_NAMESPACE) -> None:
        self._configuration = configuration
        self._session: aiohttp.ClientSession | None = None
        self._host = configuration.host.rstrip("/")
        self._namespace = namespace
        self._agents: Mapping[str, _Pod] | None = None

    @classmethod
    async def connect(
        cls, kubeconfig: Path | None = None, context: str = "", namespace: str = OWN_NAMESPACE
    ) -> KubernetesFleet:
        """Return the cluster of a kubeconfig, by default kubectl's. Raises FleetError."""
        configuration = Configuration()
        try:
            await load_kube_config(  # type: ignore[no-untyped-call] # it has no types
                config_file=str(kubeconfig) if kubeconfig else None,
                context=context or None,
                client_configuration=configuration,
            )
        except (ConfigException, OSError, TypeError, ValueError) as error:
            raise FleetError(f"{kubeconfig or 'the kubeconfig'} cannot be used: {error}") from None
        return cls(configuration, namespace)

    @property
    def name(self) -> str:
        """What is asked, for people."""
        return f"the cluster at {self._host}"

    async def nodes(self) -> Mapping[str, str]:
        """Return every Node, and why there is no agent to ask on it."""
        agents = await self._agent_pods()
        found: dict[str, str] = {}
        async for page in self._pages("/api/v1/nodes", _Nameds, accept=_METADATA_ONLY):
            found.update({item.metadata.name: _absence(agents.get(item.metadata.name)) for item in page.items})
        return dict(sorted(found.items()))

    async def node_of(self, end: str) -> str:
        """Return the node of a pod, by NAMESPACE/NAME, NAME or address; of several of a name, of none."""
        namespace, slash, name = end.rpartition("/")
        if slash:
            path, field = f"/api/v1/namespaces/{quote(namespace)}/pods", f"metadata.name={name}"
        elif ":" in end or end.replace(".", "").isdecimal():
            path, field = "/api/v1/pods", f"status.podIP={end}"
        else:
            path, field = "/api/v1/pods", f"metadata.name={name}"
        nodes = {
            pod.spec.node_name
            async for page in self._pages(path, _Pods, fieldSelector=field)
            for pod in page.items
            if pod.status.phase == "Running"
        }
        return nodes.pop() if len(nodes) == 1 else ""

    async def recorded(self) -> Sequence[NodeRoutingStatus] | None:
        """Return the NodeRoutingStatus of every node."""
        kind = KINDS[NodeRoutingStatus.kind]
        found: list[NodeRoutingStatus] = []
        async for page in self._pages(f"/apis/{kind.group_version}/{kind.plural}", _Documents):
            for document in page.items:
                try:
                    status = kind.decode(document)
                except Invalid:  # of another version of the agent: it can be asked itself
                    continue
                if isinstance(status, NodeRoutingStatus):
                    found.append(status)
        return found

    async def run(self, node: str, words: Sequence[str]) -> Outcome:
        """Run `tortie` in the agent's pod on a node."""
        try:
            pod = (await self._agent_pods()).get(node)
        except FleetError as error:
            raise NodeUnreachableError(str(error)) from None
        if reason := _absence(pod):
            raise NodeUnreachableError(reason)
        name = pod.metadata.name if pod else ""
        query = urlencode(
            [
                ("container", AGENT_CONTAINER),
                *(("command", word) for word in ("tortie", *words)),
                ("stdout", "true"),
                ("stderr", "true"),
            ]
        )
        url = f"{self._host}/api/v1/namespaces/{quote(self._namespace)}/pods/{quote(name)}/exec?{query}"
        try:
            return await self._exec(url)
        except aiohttp.WSServerHandshakeError as error:
            raise NodeUnreachableError(_why_no_exec(error.status, name, self._namespace)) from None
        except (aiohttp.ClientError, OSError) as error:
            raise NodeUnreachableError(f"pod {name}: {error}") from None

    async def close(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()

    async def _exec(self, url: str) -> Outcome:
        headers = await self._headers({"sec-websocket-protocol": "v4.channel.k8s.io"})
        channels = {_STDOUT: bytearray(), _STDERR: bytearray(), _ENDING: bytearray()}
        async with self._open().ws_connect(
            url.replace("http", "ws", 1),
            headers=headers,
            max_msg_size=0,  # a whole answer may come as one message
            proxy=self._configuration.proxy,
        ) as connection:
            async for said in connection:
                if said.type is aiohttp.WSMsgType.BINARY and said.data and said.data[0] in channels:
                    channels[said.data[0]] += said.data[1:]
        complaint = channels[_STDERR].decode(errors="replace").strip()
        return Outcome(_status(bytes(channels[_ENDING])), bytes(channels[_STDOUT]), complaint)

    async def _agent_pods(self) -> Mapping[str, _Pod]:
        if self._agents is None:
            path = f"/api/v1/namespaces/{quote(self._namespace)}/pods"
            pods = [pod async for page in self._pages(path, _Pods, labelSelector=AGENT_LABELS) for pod in page.items]
            # While one is replaced there are two: the one that runs counts.
            pods.sort(key=lambda pod: pod.status.phase == "Running")
            self._agents = {pod.spec.node_name: pod for pod in pods}
        return self._agents

    async def _pages(
        self, path: str, page: type[T], *, accept: str = "application/json", **query: str
    ) -> AsyncIterator[T]:
        """List page by page. Raises FleetError."""
        headers = await self._headers({"accept": accept})
        query["limit"] = str(_PAGE)
        while True:
            try:
                async with self._open().get(
                    f"{self._host}{path}?{urlencode(query)}", headers=headers, proxy=self._configuration.proxy
                ) as response:
                    body = await response.read()
                    if response.status != 200:
                        raise FleetError(f"{self._host}{path}: {_said(body) or response.reason or response.status}")
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise FleetError(f"{self.name} does not answer: {str(error) or type(error).__name__}") from None
            found = msgspec.json.decode(body, type=page)
            yield found
            query["continue"] = found.metadata.continue_  # type: ignore[attr-defined] # every page has metadata
            if not query["continue"]:
                return

    def _open(self) -> aiohttp.ClientSession:
        """Return the session, which is made inside the loop that uses it."""
        if self._session is None:
            tls = RESTClientObject(self._configuration).ssl_context  # as the client library reads a kubeconfig
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=tls), timeout=aiohttp.ClientTimeout(total=None, sock_connect=10)
            )
        return self._session

    async def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Add the administrator's credentials; a token that has run out is renewed by this."""
        token = await self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        return {**headers, **({"authorization": token} if token else {})}


def _absence(pod: _Pod | None) -> str:
    if pod is None:
        return "no agent pod is there"
    phase = pod.status.phase
    return "" if phase == "Running" else f"its agent's pod {pod.metadata.name} is {phase or 'not started'}"


def _status(ending: bytes) -> int:
    """Return the exit status of what was run. Raises NodeUnreachableError where it was not run to its end."""
    if not ending:
        raise NodeUnreachableError("the connection ended before the command did")
    try:
        said = msgspec.json.decode(ending, type=_Ending)
        if said.status == "Success":
            return 0
        causes = said.details.causes if said.details else []
        return int(next(cause.message for cause in causes if cause.reason == "ExitCode"))
    except (msgspec.DecodeError, StopIteration, ValueError):
        raise NodeUnreachableError(f"the command could not be run: {_said(ending) or 'no reason is given'}") from None


def _why_no_exec(status: int, pod: str, namespace: str) -> str:
    match status:
        case 401 | 403:
            return f"not allowed to run commands in pod {pod} (create pods/exec in namespace {namespace})"
        case 404:
            return f"pod {pod} is gone"
        case _:
            return f"pod {pod} cannot be reached: its kubelet or the API server answered {status}"


def _said(body: bytes) -> str:
    """Return what the API server says of a failure, empty where it is not one of its Status objects."""
    try:
        return msgspec.json.decode(body, type=_Ending).message
    except (msgspec.DecodeError, msgspec.ValidationError):
        return ""
