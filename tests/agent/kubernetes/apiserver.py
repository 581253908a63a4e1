"""An API server that answers what a test tells it to, in the place of a `Client`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from agent.kubernetes.client import REQUEST_S, Request


class FakeClient:
    """See `agent.kubernetes.client.Client`. `answer` gives an object to be sent as JSON, or raises."""

    def __init__(self, answer: Callable[[Request], Any] = lambda _request: {}) -> None:
        self.answer = answer
        self.asked: list[Request] = []
        self.clock = 1_800_000_000.0

    def time(self) -> float:
        return self.clock

    def __str__(self) -> str:
        return "API server https://api"

    async def send(self, request: Request, timeout_s: float = REQUEST_S) -> bytes:
        del timeout_s
        self.asked.append(request)
        return msgspec.json.encode(self.answer(request))

    async def close(self) -> None:
        pass

    def verbs(self) -> list[str]:
        """Return what was asked, in short, and forget it."""
        words = [
            f"{each.verb} {each.resource}{'/' if each.subresource else ''}{each.subresource}" for each in self.asked
        ]
        self.asked.clear()
        return words
