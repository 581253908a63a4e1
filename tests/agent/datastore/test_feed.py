from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.datastore import Batch
from agent.datastore.feed import Feed
from agent.objects import Key, Node, Problem


def node(name: str, version: int = 0) -> Node:
    return Node.model_validate({"metadata": {"name": name, "labels": {"version": str(version)}}})


async def take(feed: Feed) -> Batch:
    async with asyncio.timeout(30):
        return await anext(feed.batches())


async def test_only_the_last_word_about_a_key_is_handed_out() -> None:
    feed = Feed()
    feed.put(node("a", 1))
    feed.delete(node("a").key)
    feed.put(node("a", 2))
    feed.put(node("b"))
    feed.delete(node("b").key)

    batch = await take(feed)

    assert batch.changed == {node("a").key: node("a", 2)}
    assert batch.deleted == {node("b").key}


async def test_problems_of_one_source_replace_each_other_and_come_sorted() -> None:
    feed = Feed()
    first, second, third = (Problem(file=file, message="bad") for file in ("a", "b", "c"))
    feed.set_problems("x", [third])
    feed.set_problems("y", [second])
    feed.set_problems("x", [first])
    assert (await take(feed)).problems == (first, second)

    feed.set_problems("x", [])
    assert (await take(feed)).problems == (second,)


async def test_the_same_problems_again_are_no_news() -> None:
    feed = Feed()
    feed.set_problems("x", [Problem(message="bad")])
    await take(feed)

    feed.set_problems("x", [Problem(message="bad")])
    feed.set_problems("y", [])
    feed.listed()

    assert (await take(feed)).full_lists == 1
    waiting = asyncio.create_task(take(feed))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    feed.close()
    with pytest.raises(StopAsyncIteration):
        await waiting


async def test_an_error_ends_the_batches_where_they_are_taken() -> None:
    feed = Feed()
    feed.close(RuntimeError("broken"))

    with pytest.raises(RuntimeError, match="broken"):
        await take(feed)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 3)) | st.none(), max_size=30))
def test_whenever_batches_are_taken_the_end_is_the_same(script: list[tuple[str, int | None] | None]) -> None:
    """A step changes or deletes an object, or has the consumer take what there is."""

    async def replay() -> None:
        feed, truth, told = Feed(), dict[Key, Node](), dict[Key, object]()

        async def consume() -> None:
            feed.listed()
            batch = await take(feed)
            told.update(batch.changed)
            for key in batch.deleted:
                told.pop(key, None)

        for step in [*script, None]:
            match step:
                case None:
                    await consume()
                    assert told == truth
                case (name, None):
                    truth.pop(node(name).key, None)
                    feed.delete(node(name).key)
                case (name, int(version)):
                    truth[node(name).key] = node(name, version)
                    feed.put(node(name, version))

    asyncio.run(replay())
