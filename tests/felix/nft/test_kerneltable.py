from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from felix.nft.kerneltable import KernelRuleTable
from felix.nft.table import Definition, Refusal, SetText

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


@contextlib.contextmanager
def monitored(file: Path) -> Iterator[None]:
    """Have `nft monitor` write down what it hears meanwhile, of whatever table."""

    def say(word: str) -> None:
        """Make and remove a table until that is heard: a listener takes a moment to begin."""
        deadline = time.monotonic() + 20
        while word not in file.read_text():
            assert time.monotonic() < deadline
            subprocess.run(["nft", f"add table ip {word}; delete table ip {word}"], check=True)

    with file.open("wb") as output, subprocess.Popen(["nft", "monitor"], stdout=output) as process:
        say("first_word")
        yield
        say("last_word")  # it is heard last: so all that came before was heard, too
        process.terminate()


async def test_nobody_hears_of_a_rehearsal(
    kernel_table: KernelRuleTable, nft: Callable[..., str], tmp_path: Path
) -> None:
    assert await kernel_table.define(LARGE) == []
    bad = replace(LARGE, chains={**LARGE.chains, "bad": "goto absent"})
    before = nft("-a", "list", "ruleset")
    with monitored(heard := tmp_path / "heard"):
        assert await kernel_table.rehearse(LARGE) == await kernel_table.read()
        assert await kernel_table.rehearse(bad) == [Refusal("bad", "No such file or directory", "goto absent")]
    lines = heard.read_text().splitlines()
    assert [line for line in lines if "_word" not in line and not line.startswith("# new generation")] == []
    assert nft("-a", "list", "ruleset") == before


def test_the_thread_that_writes_bears_the_name_given(kernel_table: KernelRuleTable) -> None:
    assert len(kernel_table.writer) == 15  # what the kernel keeps of a name
    names = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    assert kernel_table.writer in names
