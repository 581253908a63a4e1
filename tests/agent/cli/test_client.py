"""Asking an agent, against a program on a unix socket that says what it was told to say."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec
import pytest

from agent.cli import client
from agent.cli.client import DEFAULT_SOCKET, RefusedError, UnreachableError, ask, follow, socket_path, tell

ANSWER_S = 20.0


class Said(msgspec.Struct, frozen=True):
    word: str


class Agent:
    """Listens at `path`, answers one question with the bytes given, and keeps what it was asked."""

    def __init__(self, path: Path, *pieces: bytes) -> None:
        self.path = path
        self.asked = b""
        self._pieces = pieces
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(path))
        self._listening.listen()
        self._listening.settimeout(ANSWER_S)
        self.goes_on = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.goes_on.set()
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        connection, _ = self._listening.accept()
        connection.settimeout(ANSWER_S)
        with connection, contextlib.suppress(OSError):
            while not self._is_asked:
                self.asked += connection.recv(65536)
            for piece in self._pieces:
                if piece:
                    connection.sendall(piece)
                else:
                    self.goes_on.wait(ANSWER_S)

    @property
    def _is_asked(self) -> bool:
        head, ends, body = self.asked.partition(b"\r\n\r\n")
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
        return bool(ends) and len(body) >= int(lengths[0] if lengths else 0)

    @property
    def request_line(self) -> str:
        return self.asked.partition(b"\r\n")[0].decode()


def http(body: bytes, status: str = "200 OK", *, length: int | None = None) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
WAIT = b""  # until the other side has seen what there is


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


END = chunk(b"")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # a socket's path may have 107 bytes, and pytest's may have more
    return Path("agent.sock")


def test_the_socket_is_the_one_given_or_that_of_the_environment_or_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORTIE_SOCKET", raising=False)
    assert socket_path(None) == DEFAULT_SOCKET == Path("/run/tortie/agent.sock")
    monkeypatch.setenv("TORTIE_SOCKET", "/run/other.sock")
    assert socket_path(None) == Path("/run/other.sock")
    assert socket_path(Path("given.sock")) == Path("given.sock")


class TestAsk:
    def test_an_answer_is_read_as_what_was_asked_for(self, path: Path) -> None:
        with Agent(path, http(b'[{"word": "a"}, {"word": "b"}]')) as agent:
            assert ask(path, "words", list[Said]) == [Said("a"), Said("b")]
        assert agent.request_line == "GET /v1/words HTTP/1.1"

    def test_the_query_is_escaped(self, path: Path) -> None:
        with Agent(path, http(b'{"word": ""}')) as agent:
            ask(path, "routes/explain", Said, prefix="fd42::/64", note="a&b ü")
        assert agent.request_line == "GET /v1/routes/explain?prefix=fd42%3A%3A%2F64&note=a%26b+%C3%BC HTTP/1.1"

    def test_an_answer_in_pieces_is_read_whole(self, path: Path) -> None:
        answer = http(b'{"word": "long"}')
        with Agent(path, *(answer[i : i + 1] for i in range(len(answer)))):
            assert ask(path, "words", Said) == Said("long")

    def test_what_is_to_be_done_is_posted_as_json(self, path: Path) -> None:
        with Agent(path, http(b'{"word": "done"}')) as agent:
            assert tell(path, "drain", Said, waitSeconds=600, reason="cable work") == Said("done")
        assert agent.request_line == "POST /v1/drain HTTP/1.1"
        assert json.loads(agent.asked.partition(b"\r\n\r\n")[2]) == {"waitSeconds": 600, "reason": "cable work"}


class TestRefusals:
    def test_a_refusal_is_the_agents_own_words(self, path: Path) -> None:
        with (
            Agent(path, http(b'{"error": "no such prefix"}', "400 Bad Request")),
            pytest.raises(RefusedError) as caught,
        ):
            ask(path, "routes/explain", Said)
        assert str(caught.value) == "no such prefix"

    @pytest.mark.parametrize("body", [b"", b"oops", b"[]", b"{}", b'"error"', b"\xff"])
    def test_a_refusal_without_words_is_told_by_its_number(self, path: Path, body: bytes) -> None:
        with Agent(path, http(body, "500 Internal Server Error")), pytest.raises(RefusedError) as caught:
            tell(path, "drain", Said)
        assert str(caught.value) == "the agent answered 500"

    def test_what_cannot_be_followed_is_refused_with_the_reason(self, path: Path) -> None:
        with (
            Agent(path, http(b'{"error": "no drops here"}', "404 Not Found")),
            pytest.raises(RefusedError, match="drops"),
        ):
            next(follow(path, "drops/follow", Said))


def ask_or_follow(path: Path, how: str) -> None:
    match how:
        case "ask":
            ask(path, "words", Said)
        case "tell":
            tell(path, "words", Said)
        case _:
            for _ in follow(path, "words", Said):
                pass


@pytest.mark.parametrize("how", ["ask", "tell", "follow"])
class TestNoAgent:
    def test_nobody_is_there(self, path: Path, how: str) -> None:
        with pytest.raises(UnreachableError) as caught:
            ask_or_follow(path, how)
        assert str(caught.value).startswith("no agent at agent.sock: is it running here? (--socket")

    def test_a_socket_that_was_left_behind(self, path: Path, how: str) -> None:
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as left:
            left.bind(str(path))
        with pytest.raises(UnreachableError, match=r"the agent at agent\.sock does not answer: Connection refused"):
            ask_or_follow(path, how)

    def test_a_path_that_no_socket_can_have(self, path: Path, how: str) -> None:
        with pytest.raises(UnreachableError, match="does not answer: AF_UNIX path too long"):
            ask_or_follow(path.parent / ("x" * 200), how)

    def test_an_agent_that_says_nothing_in_time(self, path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(client, "TIMEOUT_S", 0.2)
        with (
            Agent(path, WAIT),
            pytest.raises(UnreachableError, match=r"the agent at agent\.sock does not answer: timed out"),
        ):
            ask_or_follow(path, how)

    @pytest.mark.parametrize(
        "said",
        [
            (),
            (b"HTTP/1",),
            (b"220 mail.example.org ESMTP\r\n",),
            (http(b'{"word": "lo', length=99),),
            (http(b'{"word": 1}'),),
            (http(b'{"word": "lo'),),
            (http(b"\n[]\n"),),
            (STREAM, chunk(b'{"word": "a"}\n'), b"1f\r\n{"),
        ],
        ids=[
            "nothing",
            "half a line",
            "another protocol",
            "half an answer",
            "another type",
            "no JSON",
            "a list",
            "cut",
        ],
    )
    def test_whoever_it_is_does_not_speak_as_an_agent(self, path: Path, how: str, said: tuple[bytes, ...]) -> None:
        with Agent(path, *said), pytest.raises(UnreachableError, match=r"^the agent at agent\.sock ."):
            ask_or_follow(path, how)


class TestFollow:
    def test_what_happens_is_told_as_it_happens_until_it_ends(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "TIMEOUT_S", 0.2)  # for the first words alone: then nothing may happen for hours
        pieces = [
            STREAM,
            chunk(b'{"word": "a"}\n'),
            chunk(b"\n"),
            WAIT,
            chunk(b'{"word": "b"}\n{"word":'),
            chunk(b'"c"}\n'),
        ]
        with Agent(path, *pieces, END) as agent:
            told = follow(path, "drops/follow", Said)
            assert next(told) == Said("a")
            later = threading.Timer(0.5, agent.goes_on.set)
            later.start()
            assert list(told) == [Said("b"), Said("c")]
            later.join()
        assert agent.request_line == "GET /v1/drops/follow HTTP/1.1"

    def test_whoever_has_heard_enough_hangs_up(self, path: Path) -> None:
        with Agent(path, STREAM, chunk(b'{"word": "a"}\n'), WAIT) as agent:
            told: Iterator[Said] = follow(path, "drops/follow", Said)
            assert next(told) == Said("a")
            told.close()
            agent.goes_on.set()
