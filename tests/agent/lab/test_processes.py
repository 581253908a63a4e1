from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from agent.lab.processes import Process, find, start
from agent.lab.wait import eventually


async def test_a_process_outlives_nobody_but_its_stop(tmp_path: Path) -> None:
    process = await start(["sh", "-c", "echo started; exec sleep 1000"], tmp_path / "log")
    assert process is not None
    assert process.is_alive
    await eventually((tmp_path / "log").read_text, "started\n".__eq__)
    await process.stop()
    assert not process.is_alive


async def test_one_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    process = await start(["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.05; done"], tmp_path / "log")
    assert process is not None
    await eventually((tmp_path / "log").read_text, "deaf\n".__eq__)
    assert not await process.ended(within_s=0)
    await process.stop(within_s=0.1)
    assert not process.is_alive


async def test_an_id_that_became_another_process_is_left_alone() -> None:
    mine = find(os.getpid())
    assert mine is not None
    assert mine.is_alive
    stale = Process(mine.pid, mine.started - 1)
    assert not stale.is_alive
    stale.send(signal.SIGKILL)
    assert await stale.ended(within_s=1)


async def test_one_that_is_gone_has_ended(tmp_path: Path) -> None:
    process = await start(["true"], tmp_path / "log")
    assert process is None or await process.ended(within_s=5)
    gone = Process(2**22 - 1, 0)  # above any pid_max that is in use
    gone.send(signal.SIGKILL)
    assert await gone.ended(within_s=1)


@pytest.mark.parametrize("name", ["with space", "with) paren"])
async def test_a_name_with_odd_characters_is_no_trouble(tmp_path: Path, name: str) -> None:
    program = tmp_path / name
    program.symlink_to("/bin/sleep")
    process = await start([str(program), "1000"], tmp_path / "log")
    assert process is not None
    assert process.is_alive
    await process.stop()
