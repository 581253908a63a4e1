from __future__ import annotations

from agent.datastore.fake import FakeDatastore
from agent.objects import Node, Problem
from tests.agent.datastore.following import Follower


async def test_it_says_what_it_is_told_to_say() -> None:
    node = Node.model_validate({"metadata": {"name": "n1"}})
    store = FakeDatastore(node)
    follower = Follower(store)

    await follower.take()
    assert follower.objects == {node.key: node}
    assert not store.health().is_synced

    store.listed()
    store.set_problems(Problem(message="bad"))
    await follower.take()
    assert store.health().is_synced
    assert [str(problem) for problem in follower.problems] == ["bad"]


def test_it_can_be_lost_and_come_back() -> None:
    store = FakeDatastore()
    store.fail("connection refused")
    assert store.health().error == "connection refused"

    store.fail("")
    assert store.health().error == ""
