"""How a command in a pod ended, as the API server's WebSocket tells it. With a real server: tests/kubernetes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import pytest

from agent.kubernetes.errors import Refused, Unreachable
from agent.kubernetes.exec import ENDING, PROTOCOL, STDERR, STDOUT, Ended, run_in_pod

SUCCESS = {"status": "Success"}


class Socket:
    """A `Client` whose WebSocket says these messages, or refuses."""

    def __init__(self, *said: tuple[int, bytes], refused: int = 0) -> None:
        self.said = [aiohttp.WSMessage(aiohttp.WSMsgType.BINARY, bytes([channel]) + data, "") for channel, data in said]
        self.refused = refused
        self.path = ""
        self.query: Sequence[tuple[str, str]] = ()

    @contextlib.asynccontextmanager
    async def websocket(
        self, path: str, query: Sequence[tuple[str, str]], protocol: str
    ) -> AsyncIterator[AsyncIterator[aiohttp.WSMessage]]:
        assert protocol == PROTOCOL
        self.path, self.query = path, query
        if self.refused:
            raise Refused(self.refused, "", "no explanation")
        yield self._messages()

    async def _messages(self) -> AsyncIterator[aiohttp.WSMessage]:
        for message in self.said:
            yield message


def ending(content: dict[str, Any]) -> tuple[int, bytes]:
    return ENDING, json.dumps(content).encode()


def failure(reason: str, message: str) -> dict[str, Any]:
    return {
        "status": "Failure",
        "message": "it failed",
        "details": {"causes": [{"reason": reason, "message": message}]},
    }


async def run(socket: Socket) -> Ended:
    return await run_in_pod(socket, "tortie-system", "agent-x", "agent", ["tortie", "status"])


async def test_what_a_command_wrote_is_put_together_by_channel() -> None:
    socket = Socket((STDOUT, b"ready"), (STDERR, b"hm"), (STDOUT, b", all of it"), ending(SUCCESS))
    assert await run(socket) == Ended(0, b"ready, all of it", b"hm")


async def test_it_is_asked_of_the_container_word_by_word() -> None:
    socket = Socket(ending(SUCCESS))
    await run(socket)
    assert socket.path == "/api/v1/namespaces/tortie-system/pods/agent-x/exec"
    assert [value for name, value in socket.query if name == "command"] == ["tortie", "status"]
    assert ("container", "agent") in socket.query


async def test_empty_messages_and_unknown_channels_are_passed_over() -> None:
    socket = Socket((STDOUT, b""), (7, b"later versions"), ending(SUCCESS))
    socket.said.insert(0, aiohttp.WSMessage(aiohttp.WSMsgType.BINARY, b"", ""))
    socket.said.insert(0, aiohttp.WSMessage(aiohttp.WSMsgType.TEXT, "text", ""))
    assert await run(socket) == Ended(0, b"", b"")


async def test_the_exit_status_is_the_commands() -> None:
    assert (await run(Socket(ending(failure("ExitCode", "3"))))).status == 3


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ([], "the connection ended before the command did"),
        ([(ENDING, b"container not found")], "the command could not be run: container not found"),
        ([ending(failure("InternalError", "x"))], "the command could not be run: it failed"),
        ([ending({"status": "Failure"})], "the command could not be run: no reason is given"),
    ],
    ids=["cut off", "no JSON", "no exit status", "no reason"],
)
async def test_a_command_that_was_not_run_to_its_end_has_no_status(said: list[tuple[int, bytes]], reason: str) -> None:
    with pytest.raises(Unreachable, match=reason):
        await run(Socket(*said))


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (403, "commands in pod agent-x need the right to create pods/exec in namespace tortie-system"),
        (404, "pod agent-x is gone"),
        (500, "pod agent-x cannot be reached through its kubelet"),
    ],
)
async def test_a_refusal_says_what_is_missing(status: int, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        await run(Socket(refused=status))
