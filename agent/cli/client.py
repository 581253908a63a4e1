"""Asking an agent over its unix socket."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlencode

import msgspec

T = TypeVar("T")
DEFAULT_SOCKET: Final = Path("/run/tortie/agent.sock")
TIMEOUT_S: Final = 10.0


class UnreachableError(Exception):
    """No agent answered; the text says which socket and why."""


class RefusedError(Exception):
    """The agent did not take the question; the text is its answer, `reason` the same for machines, if there is one."""

    def __init__(self, text: str, reason: str = "") -> None:
        super().__init__(text)
        self.reason = reason


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))


def socket_path(given: Path | None) -> Path:
    """Return the socket to ask: as given, from TORTIE_SOCKET, or the default."""
    return given or Path(os.environ.get("TORTIE_SOCKET", DEFAULT_SOCKET))


def follow(path: Path, what: str, item: type[T]) -> Iterator[T]:
    """Yield what an agent tells as it happens, until it ends. Raises UnreachableError or RefusedError."""
    with _connection(path) as connection:
        connection.request("GET", f"/v1/{what}")
        response = _accepted(connection)
        if connection.sock is not None:  # else all of the answer is here
            connection.sock.settimeout(None)
        while said := response.readline():
            if said.strip():
                yield msgspec.json.decode(said, type=item)


def ask(path: Path, what: str, answer: type[T], **query: str) -> T:
    """Return the agent's answer. Raises UnreachableError or RefusedError."""
    return _converse(path, "GET", f"/v1/{what}" + (f"?{urlencode(query)}" if query else ""), None, answer)


def tell(path: Path, what: str, answer: type[T], **said: object) -> T:
    """Have the agent do something; return what it answers. Raises UnreachableError or RefusedError."""
    return _converse(path, "POST", f"/v1/{what}", msgspec.json.encode(said), answer)


def _converse(path: Path, method: str, target: str, body: bytes | None, answer: type[T]) -> T:
    with _connection(path) as connection:
        connection.request(method, target, body)
        return msgspec.json.decode(_accepted(connection).read(), type=answer)


@contextlib.contextmanager
def _connection(path: Path) -> Iterator[_UnixConnection]:
    """Talk to an agent, and say in one sentence why that cannot be."""
    connection = _UnixConnection(path)
    try:
        yield connection
    except FileNotFoundError:
        raise UnreachableError(
            f"no agent at {path}: is it running here? (--socket or TORTIE_SOCKET names another, --node another node's)"
        ) from None
    except OSError as error:
        raise UnreachableError(f"the agent at {path} does not answer: {error.strerror or error}") from None
    except http.client.IncompleteRead:
        raise UnreachableError(f"the agent at {path} ended in the middle of its answer") from None
    except (http.client.HTTPException, msgspec.DecodeError) as error:
        raise UnreachableError(f"the agent at {path} does not answer as one of this version does: {error}") from None
    finally:
        connection.close()


def _accepted(connection: _UnixConnection) -> http.client.HTTPResponse:
    """Return the answer, its body yet to be read. Raises RefusedError for one that says no."""
    response = connection.getresponse()
    if response.status != http.HTTPStatus.OK:
        raise _refusal(response.status, response.read())
    return response


def _refusal(status: int, body: bytes) -> RefusedError:
    try:
        said = msgspec.json.decode(body)
        return RefusedError(str(said["error"]), str(said.get("reason", "")))
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return RefusedError(f"the agent answered {status}")
