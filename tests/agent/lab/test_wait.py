from __future__ import annotations

import asyncio

import pytest

from agent.lab.speakers import DaemonError
from agent.lab.wait import eventually


async def test_the_value_that_was_waited_for_is_returned() -> None:
    values = iter([1, 2, 3])
    assert await eventually(lambda: next(values), lambda value: value == 3, every_s=0) == 3


async def test_a_coroutine_can_be_waited_for() -> None:
    async def probe() -> str:
        return "up"

    assert await eventually(probe) == "up"


async def test_the_last_value_is_shown_at_the_deadline() -> None:
    with pytest.raises(TimeoutError, match=r"session up not met within 0.02 s; last: 'Active'"):
        await eventually(lambda: "Active", "Established".__eq__, within_s=0.02, every_s=0.01, what="session up")


async def test_a_daemon_that_does_not_answer_yet_is_asked_again() -> None:
    answers = iter([DaemonError("not yet"), OSError("no socket"), "up"])

    def probe() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await eventually(probe, every_s=0) == "up"


async def test_the_last_error_is_shown_at_the_deadline() -> None:
    def probe() -> str:
        raise DaemonError("no such protocol")

    with pytest.raises(TimeoutError, match="last: DaemonError: no such protocol"):
        await eventually(probe, within_s=0.02, every_s=0.01)


async def test_other_errors_are_not_waited_out() -> None:
    def probe() -> str:
        raise ValueError("a mistake in the test")

    with pytest.raises(ValueError, match="a mistake in the test"):
        await eventually(probe)


async def test_a_look_that_hangs_ends_at_the_deadline() -> None:
    async def probe() -> bool:
        await asyncio.Event().wait()
        return True

    with pytest.raises(TimeoutError, match="the first look took too long"):
        await eventually(probe, within_s=0.02)
