from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from felix.nft.kerneltable import KernelRuleTable
from felix.nft.table import Definition, SetText, Structure

pytestmark = pytest.mark.kernel

LARGE = Definition(
    sets={f"s{i}": SetText("type ipv4_addr") for i in range(100)},
    chains={f"c{i}": f"ip saddr @s{i % 100} accept\ncounter drop" for i in range(500)},
)


@pytest.mark.parametrize("call", ["define", "rehearse"])
async def test_the_event_loop_goes_on_during_a_large_load(kernel_table: KernelRuleTable, call: str) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await getattr(kernel_table, call)(LARGE)
    task.cancel()
    assert turns > 100


def surroundings() -> tuple[int, int, Path]:
    """Return the number of threads and of open files, and this thread's namespace."""
    home = Path("/proc/thread-self/ns/net").readlink()
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir())), home


async def test_a_rehearsal_leaves_neither_thread_nor_file_nor_table(
    kernel_table: KernelRuleTable, nft: Callable[..., str]
) -> None:
    before = surroundings()
    for _ in range(20):
        await kernel_table.rehearse(LARGE)
    assert surroundings() == before
    assert nft("list", "ruleset") == ""


async def test_what_a_killed_rehearsal_left_is_no_part_of_the_next(
    kernel_table: KernelRuleTable, nft: Callable[..., str]
) -> None:
    nft("add table inet tortie_rehearsal { flags dormant; chain left_over { }; }")
    foretold = await kernel_table.rehearse(Definition(chains={"forward": "counter drop"}))
    assert isinstance(foretold, Structure)
    assert foretold.chains.keys() == {"forward"}
    assert nft("list", "ruleset") == ""


async def test_a_rehearsal_that_is_given_up_leaves_nothing(
    kernel_table: KernelRuleTable, nft: Callable[..., str]
) -> None:
    task = asyncio.create_task(kernel_table.rehearse(LARGE))
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await kernel_table.define(Definition())  # the same worker: after what was given up
    assert "rehearsal" not in nft("list", "ruleset")


def test_the_thread_that_writes_bears_the_name_given(kernel_table: KernelRuleTable) -> None:
    assert len(kernel_table.writer) == 15  # what the kernel keeps of a name
    names = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    assert kernel_table.writer in names
