"""A cluster for tests: answers as they are told to it, nodes that cannot be reached, and what was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.fleet import FleetError, Located, NodeUnreachableError, Outcome, Record, Service


class FakeFleet:
    """See `agent.fleet.Fleet`. `answers` has what each node says to whatever it is asked, or why it cannot be.

    Several answers of one node are given one after the other, the last one again and again.
    """

    name = "fake cluster"

    def __init__(
        self,
        answers: Mapping[str, Outcome | str | list[Outcome]],
        *,
        located: Mapping[str, Sequence[Located]] | None = None,
        services: Mapping[str, Service] | None = None,
        recorded: Sequence[Record] | None = None,
    ) -> None:
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.error = ""  # why nothing can be asked at all
        self.is_closed = False
        self._answers = answers
        self._located = located or {}
        self._services = services
        self._recorded = recorded

    async def nodes(self) -> Mapping[str, str]:
        """Return the nodes there are answers of."""
        self._check()
        return {node: answer if isinstance(answer, str) else "" for node, answer in sorted(self._answers.items())}

    async def locate(self, end: str) -> Sequence[Located]:
        """Return whom it was told of."""
        self._check()
        return self._located.get(end, ())

    async def service_at(self, address: str) -> Service | None:
        """Return the Service it was told of."""
        self._check()
        return None if self._services is None else self._services.get(address, Service())

    async def recorded(self) -> Sequence[Record] | None:
        """Return what was given."""
        self._check()
        return self._recorded

    async def run(self, node: str, words: Sequence[str]) -> Outcome:
        """Return what the node was given to say."""
        self.asked.append((node, tuple(words)))
        answer = self._answers.get(node, "there is no such node")
        if isinstance(answer, str):
            raise NodeUnreachableError(answer)
        if isinstance(answer, list):
            return answer.pop(0) if len(answer) > 1 else answer[0]
        return answer

    async def close(self) -> None:
        """Note that it was closed."""
        self.is_closed = True

    def _check(self) -> None:
        if self.error:
            raise FleetError(self.error)
