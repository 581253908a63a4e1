"""Waiting for something to become true, with a deadline and a last word."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

from agent.lab.namespaces import CommandError
from agent.lab.speakers import DaemonError

T = TypeVar("T")


@overload
async def eventually(
    probe: Callable[[], Awaitable[T]],
    accept: Callable[[T], object] = ...,
    *,
    within_s: float = ...,
    every_s: float = ...,
    what: str = ...,
) -> T: ...


@overload
async def eventually(
    probe: Callable[[], T],
    accept: Callable[[T], object] = ...,
    *,
    within_s: float = ...,
    every_s: float = ...,
    what: str = ...,
) -> T: ...


async def eventually(
    probe: Callable[[], T | Awaitable[T]],
    accept: Callable[[T], object] = bool,
    *,
    within_s: float = 30,
    every_s: float = 0.05,
    what: str = "",
) -> T:
    """Call `probe` until `accept` takes what it returns, and return that.

    A daemon that does not answer yet is asked again. Raises TimeoutError that shows the last value, or error.
    """
    deadline = time.monotonic() + within_s
    last = "nothing: the first look took too long"
    while True:
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + max(0.0, deadline - time.monotonic())):
                found = probe()
                value = await found if inspect.isawaitable(found) else found
        except (CommandError, DaemonError, OSError) as error:
            # A TimeoutError is an OSError: the deadline below tells.
            last = last if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
        else:
            if accept(value):
                return value
            last = repr(value)
        if time.monotonic() + every_s > deadline:
            raise TimeoutError(f"{what or 'condition'} not met within {within_s:g} s; last: {last}")
        await asyncio.sleep(every_s)
