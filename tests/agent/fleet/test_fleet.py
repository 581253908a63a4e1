from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from agent import fleet
from agent.fleet import Fleet, FleetError, NodeUnreachableError, Outcome, ask_all
from agent.fleet.fake import FakeFleet


class SlowFleet(FakeFleet):
    """Nodes that answer when they are told to, and a count of those that are asked at a time."""

    def __init__(self, nodes: int) -> None:
        super().__init__({f"n{number:03}": Outcome(0, b"") for number in range(nodes)})
        self.may_answer = asyncio.Event()
        self.running = 0
        self.most = 0

    async def run(self, node: str, words: Sequence[str]) -> Outcome:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.may_answer.wait()
            return await super().run(node, words)
        finally:
            self.running -= 1


async def test_nodes_are_asked_side_by_side_and_not_all_at_once() -> None:
    slow = SlowFleet(100)
    asking = asyncio.create_task(ask_all(slow, list(await slow.nodes()), ["status"]))
    for _ in range(200):  # turns of the loop: more than it takes to begin them all
        await asyncio.sleep(0)
    slow.may_answer.set()
    answers = await asking
    assert slow.most == fleet.AT_ONCE
    assert list(answers) == [f"n{number:03}" for number in range(100)]


async def test_a_node_that_does_not_answer_in_time_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "DEADLINE_S", 0.01)
    slow = SlowFleet(3)
    answers = await ask_all(slow, list(await slow.nodes()), ["status"])
    assert all(isinstance(each, NodeUnreachableError) for each in answers.values())
    assert slow.running == 0


async def test_one_node_that_cannot_be_reached_leaves_the_others_alone() -> None:
    asked: Fleet = FakeFleet({"n1": Outcome(0, b"fine"), "n2": "no agent pod is there"})
    answers = await ask_all(asked, ["n1", "n2"], ["status"])
    assert answers["n1"] == Outcome(0, b"fine")
    assert str(answers["n2"]) == "no agent pod is there"


async def test_a_cluster_that_cannot_be_asked_says_so_whatever_is_asked() -> None:
    dead = FakeFleet({})
    dead.error = "connection refused"
    for ask in (dead.nodes, dead.recorded, lambda: dead.locate("a/b")):
        with pytest.raises(FleetError, match="connection refused"):
            await ask()
