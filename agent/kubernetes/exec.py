"""A command in a container, run over the API server as `kubectl exec` does: pods/exec over a WebSocket.

The protocol is v4.channel.k8s.io: the first byte of each message names a channel (standard output, standard error,
and one for how it ended, a metav1.Status as JSON).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import aiohttp
import msgspec

from agent.kubernetes.client import Client, Resource
from agent.kubernetes.errors import Refused, Unreachable

PROTOCOL: Final = "v4.channel.k8s.io"
STDOUT, STDERR, ENDING = 1, 2, 3

_WHY: Final = {
    401: "the API server does not know who asks",
    403: "commands in pod {0} need the right to create pods/exec in namespace {1}",
    404: "pod {0} is gone",
}
_NO_WAY: Final = "pod {0} cannot be reached through its kubelet"

_PODS: Final = Resource("", "v1", "pods")


class Ended(NamedTuple):
    """What a command came to."""

    status: int
    output: bytes
    complaint: bytes


class _Cause(msgspec.Struct, frozen=True):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct, frozen=True):
    causes: list[_Cause] = []


class _Ending(msgspec.Struct, frozen=True):
    status: str = ""
    message: str = ""
    details: _Details | None = None


async def run_in_pod(client: Client, namespace: str, pod: str, container: str, argv: Sequence[str]) -> Ended:
    """Run a command to its end, without input. Raises Refused where it is not allowed, Unreachable where it fails."""
    path = _PODS.path(namespace, pod, "exec")
    query = [("container", container), *(("command", word) for word in argv), ("stdout", "true"), ("stderr", "true")]
    channels = {channel: bytearray() for channel in (STDOUT, STDERR, ENDING)}
    try:
        async with client.websocket(path, query, PROTOCOL) as connection:
            async for said in connection:
                if said.type is aiohttp.WSMsgType.BINARY and said.data and said.data[0] in channels:
                    channels[said.data[0]] += said.data[1:]
    except Refused as error:  # a refused WebSocket comes without a word
        raise Refused(error.status, "", _WHY.get(error.status, _NO_WAY).format(pod, namespace)) from None
    return Ended(_status(bytes(channels[ENDING])), bytes(channels[STDOUT]), bytes(channels[STDERR]))


def _status(ending: bytes) -> int:
    """Return the exit status. Raises Unreachable where the command was not run to its end."""
    if not ending:
        raise Unreachable("the connection ended before the command did")
    try:
        said = msgspec.json.decode(ending, type=_Ending)
    except msgspec.DecodeError:
        raise Unreachable(f"the command could not be run: {ending.decode(errors='replace')}") from None
    if said.status == "Success":
        return 0
    for cause in said.details.causes if said.details else ():
        if cause.reason == "ExitCode" and cause.message.isdecimal():
            return int(cause.message)
    raise Unreachable(f"the command could not be run: {said.message or 'no reason is given'}")
