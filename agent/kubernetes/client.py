"""Requests to the API server: one place that sends them, counts them, and says in words what went wrong.

The official library's ApiClient signs and sends; bodies stay bytes, to be decoded by those who know the few fields
they want (its own models cost 60 KB for a pod). Every request names its resource, so that what an agent asks for can be
compared with what it is allowed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
import traceback
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlencode

import aiohttp
import msgspec

from agent import __version__, metrics
from agent.kubernetes.access import Access, AccessError
from agent.kubernetes.errors import Refused, Unreachable, refusal
from agent.kubernetes.token import end_of

if TYPE_CHECKING:
    from kubernetes.aio.client.api_client import ApiClient

CONNECT_S: Final = 4.0
"""Two SYNs may be lost. No longer: one that was sent to the API server's Service before kube-proxy had a rule for it is
remembered untranslated, and so is every other of that connection. It takes a new one to get there."""
REQUEST_S: Final = 60.0
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
"""A server whose machine is gone is noticed after half a minute, on a connection where nothing is sent."""


class Resource(NamedTuple):
    """A kind of object as the API's paths name it."""

    group: str  # empty for the core group
    version: str
    plural: str

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return where its objects are, or one of them, or a part of one."""
        parts = ["apis", self.group, self.version] if self.group or not self.version else ["api", self.version]
        if namespace:
            parts += ["namespaces", namespace]
        return "/" + "/".join(filter(None, (*parts, self.plural, name, subresource)))


DISCOVERY: Final = Resource("", "", "")
"""No objects: the list of groups that the server has."""


class Request(NamedTuple):
    """One request. `verb` is RBAC's word for it."""

    verb: str
    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    query: Mapping[str, str] = {}
    body: Any = None
    content_type: str = "application/json"


_METHODS: Final = {"get": "GET", "list": "GET", "watch": "GET", "create": "POST", "patch": "PATCH", "delete": "DELETE"}


class _GroupVersion(msgspec.Struct, rename="camel"):
    group_version: str


class _Group(msgspec.Struct):
    versions: list[_GroupVersion]


class _Groups(msgspec.Struct, tag_field="kind", tag="APIGroupList"):
    """What the list of groups says; the kind is checked, since a 200 of something else would be taken for it."""

    groups: list[_Group]


_read_groups: Final = msgspec.json.Decoder(_Groups).decode


class _Identity:
    """The library's client, which says who we are; and how many requests are being sent by it."""

    __slots__ = ("api", "is_stale", "users")

    def __init__(self, api: ApiClient) -> None:
        self.api = api
        self.is_stale = False  # one does not know the other any more: token or certificates may have been replaced
        self.users = 0


class Client:
    """One agent's way to the API server. Used on one event loop; `close` it."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._identity: _Identity | None = None
        self._making = asyncio.Lock()
        self._ahead_s = 0.0  # of our clock is the server's

    def time(self) -> float:
        """Return the seconds since the epoch by the server's clock; by ours before it has answered."""
        return time.time() + self._ahead_s

    def __str__(self) -> str:
        if self._identity is None:
            return f"API server by {self._access}"
        return f"API server {self._identity.api.configuration.host}"

    async def send(self, request: Request, timeout_s: float = REQUEST_S) -> bytes:
        """Return the answer's body. Raises Refused, Unreachable."""
        response = await self._answer(request, aiohttp.ClientTimeout(timeout_s, sock_connect=CONNECT_S))
        with _in_words():
            return await response.read()

    async def served(self) -> frozenset[str]:
        """Return the groups and versions that the server has, such as `apps/v1`. Raises Refused, Unreachable."""
        body = await self.send(Request("get", DISCOVERY))
        with _in_words():
            groups = _read_groups(body).groups
        return frozenset(version.group_version for group in groups for version in group.versions)

    @contextlib.asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[AsyncIterator[bytes]]:
        """Give the answer's body as it comes, in whole lines, many at a time. Raises Refused, Unreachable.

        How long nothing may come once it has begun is for those to say who know what should.
        """
        with _in_words():
            async with asyncio.timeout(REQUEST_S):
                response = await self._answer(request, aiohttp.ClientTimeout(None, sock_connect=CONNECT_S))
        try:
            _keep_alive(response)
            yield _lines(response)
        finally:
            response.close()

    @contextlib.asynccontextmanager
    async def websocket(
        self, path: str, query: Sequence[tuple[str, str]], protocol: str
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Speak over a WebSocket, which is how commands are run in pods. Raises Refused, Unreachable."""
        with _in_words():
            api = (await self._ready()).api
            _, url, headers, *_ = await api.param_serialize("GET", path, auth_settings=["BearerToken"])
            session: Any = api.rest_client.pool_manager or api.rest_client._create_pool_manager()  # noqa: SLF001 - as the library's own WsApiClient does
            api.rest_client.pool_manager = session
            try:
                # A whole answer may come as one message, of any size.
                connection = await session.ws_connect(
                    f"{url}?{urlencode(query)}", headers=headers, protocols=[protocol], max_msg_size=0
                )
            except aiohttp.WSServerHandshakeError as error:
                raise refusal(error.status, b"", "") from None
            async with connection:
                yield connection

    async def close(self) -> None:
        """Let go of all connections."""
        if self._identity is not None:
            identity, self._identity = self._identity, None
            await _close(identity)

    async def _answer(self, request: Request, limits: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        """Send a request and return an answer that is no refusal, its body still to be read."""
        metrics.API_REQUESTS.labels(request.verb, f"{request.resource}/{request.subresource}".rstrip("/")).inc()
        with _in_words():
            async with self._in_use() as identity:
                try:
                    response = await _send(identity.api, request, limits)
                except aiohttp.ClientSSLError:
                    identity.is_stale = True
                    raise
                with contextlib.suppress(ValueError):  # it says none, or nonsense
                    self._ahead_s = parsedate_to_datetime(response.headers.get("Date", "")).timestamp() - time.time()
                if response.status < 400:
                    return response
                body = await response.read()
        refused = refusal(response.status, body, response.headers.get("Retry-After", ""))
        if response.status == 401:
            identity.is_stale = True
            raise Refused(refused.status, refused.reason, self._why_unknown(identity.api))
        raise refused

    @contextlib.asynccontextmanager
    async def _in_use(self) -> AsyncIterator[_Identity]:
        """Give what a request is sent by: it is closed only when nobody sends by it, however stale it is by then."""
        identity = await self._ready()
        identity.users += 1
        try:
            yield identity
        finally:
            identity.users -= 1
            if identity is not self._identity and not identity.users:
                await _close(identity)

    def _why_unknown(self, api: ApiClient) -> str:
        """Say what may be behind a 401, of which the server says nothing."""
        end = end_of(api.configuration.api_key.get("BearerToken", ""))
        if end is not None and end <= datetime.now(UTC):
            return f"the token of {self._access} ended at {end:%Y-%m-%d %H:%M:%SZ}"
        return f"the server does not know {self._access}"

    async def _ready(self) -> _Identity:
        """Return what requests are sent by; a new one where the server knew the one before no more."""
        async with self._making:
            return await self._made()

    async def _made(self) -> _Identity:
        if self._identity is not None and self._identity.is_stale:
            former, self._identity = self._identity, None
            if not former.users:
                await _close(former)
        if self._identity is None:
            configuration = await self._access.load()
            from kubernetes.aio.client.api_client import ApiClient  # noqa: PLC0415 - only where it is needed

            configuration.connection_pool_maxsize = 0  # every watch has a connection; their number is known
            api = ApiClient(configuration)
            api.user_agent = f"tortie/{__version__}"
            self._identity = _Identity(api)
        return self._identity


async def _close(identity: _Identity) -> None:
    await identity.api.close()  # type: ignore[no-untyped-call]  # the library's


async def _send(api: ApiClient, request: Request, limits: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
    serialized = await api.param_serialize(
        _METHODS[request.verb],
        request.resource.path(request.namespace, request.name, request.subresource),
        query_params=list(request.query.items()),
        # Compressing the list of a large cluster for every node costs the server more than sending it.
        header_params={"Accept": "application/json", "Accept-Encoding": "identity"}
        | ({"Content-Type": request.content_type} if request.body is not None else {}),
        body=request.body,
        auth_settings=["BearerToken"],
    )
    answered: aiohttp.ClientResponse = (await api.call_api(*serialized, _request_timeout=limits)).response
    return answered


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield what comes, cut at ends of lines."""
    rest = b""
    chunks = response.content.iter_any()
    while True:
        with _in_words():
            chunk = await anext(chunks, b"")
        if not chunk:
            break
        end = chunk.rfind(b"\n") + 1
        if end:
            yield rest + chunk[:end]
        rest = chunk[end:] if end else rest + chunk
    if rest.strip():
        raise Unreachable("the answer broke off")


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """Raise what goes wrong in the library as Unreachable."""
    try:
        yield
    except AccessError as error:
        raise Unreachable(str(error)) from None
    except (aiohttp.ClientError, OSError, ValueError, msgspec.DecodeError) as error:
        _let_go(error)
        raise Unreachable(_words(error)) from error


def _let_go(error: BaseException | None) -> None:
    """Take from an error what its frames hold, which hold it in turn: 170 KB where TLS got no answer.

    Such rings are looked for so seldom (`agent.garbage`) that a server which hangs for days would fill the memory.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    transport = response.connection.transport if response.connection else None
    peer: socket.socket | None = transport.get_extra_info("socket") if transport else None
    if peer is not None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            peer.setsockopt(socket.IPPROTO_TCP, option, value)


def _words(error: Exception) -> str:
    """Return what a person should read of it."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = error.strerror or str(error.os_error) or "it hung up"  # in the middle of the handshake
        if error.errno and reason.startswith("Connect call failed"):  # asyncio's words, which say no reason
            reason = os.strerror(error.errno)
        host = f"[{error.host}]" if ":" in error.host else error.host
        return f"cannot connect to {host}:{error.port}: {reason}"
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return "the answer broke off"
    return str(error) or type(error).__name__
