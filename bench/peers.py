"""The sender as a benchmark sees it: started in a router's namespace, told to send, asked when."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

from bench import sender
from bench.measure import BenchError
from bench.sender import Session

_ROOT: Final = Path(__file__).parent.parent


class Sender:
    """A running sender. A context manager."""

    def __init__(self, namespace: str, sessions: Sequence[Session]) -> None:
        """Start it; it calls until it is answered."""
        self._sessions = tuple(sessions)
        argv = [sys.executable, "-m", "bench.sender", sender.encode(self._sessions)]
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, *argv],
            cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None  # noqa: S101 - asked for
        assert self._process.stdout is not None  # noqa: S101 - asked for
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdin.close()
        self._process.stdout.close()

    def wait_up(self, within_s: float = 60.0) -> None:
        """Wait until every session is established."""
        missing = set(range(len(self._sessions)))
        deadline = time.monotonic() + within_s
        while missing:
            event = self._next(deadline, f"sessions {[self._sessions[number].local for number in sorted(missing)]}")
            if event["event"] == "up":
                missing.discard(event["session"])

    def send(self) -> None:
        """Have every session send its load."""
        self._tell("send")

    def wait_sent(self, within_s: float = 120.0) -> tuple[int, int]:
        """Wait until the first session's load is written; return when that began and ended."""
        event = self._await("sent", 0, within_s)
        return event["first"], event["last"]

    def wait_marker(self, session: int, within_s: float) -> int:
        """Wait until a session hears the marker; return when."""
        at: int = self._await("marker", session, within_s)["at"]
        return at

    def cease(self) -> int:
        """End every session by a NOTIFICATION; return when the first one was sent."""
        self._tell("cease")
        at: int = self._await("ended", 0, 5.0)["at"]
        return at

    def _await(self, what: str, session: int, within_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + within_s
        while True:
            event = self._next(deadline, what)
            if event["event"] == "down":
                raise BenchError(f"session {self._sessions[event['session']].local}: {event['reason']}")
            if event["event"] == what and event["session"] == session:
                return event

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None  # noqa: S101 - asked for
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def _next(self, deadline: float, what: str) -> dict[str, Any]:
        try:
            return self._events.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise BenchError(f"the sender waits in vain for: {what}") from None

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - asked for
        for line in self._process.stdout:
            self._events.put(json.loads(line))
