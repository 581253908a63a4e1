"""Processes that outlive the command which starts them, known by process id and start time.

A process id alone may have become somebody else's; with the start time the kernel keeps beside it, it cannot.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.lab.namespaces import run

_DETACH = 'log=$1; shift; setsid "$@" </dev/null >>"$log" 2>&1 & echo $!'
"""The shell ends at once, so the process is init's child: nobody here has to wait for it."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process; `started` is field 22 of /proc/PID/stat (clock ticks since boot, proc(5))."""

    pid: int
    started: int

    @property
    def is_alive(self) -> bool:
        """Whether it runs. One that ended and was not yet waited for does not."""
        fields = _stat(self.pid)
        return fields is not None and int(fields[19]) == self.started and fields[0] not in {"Z", "X"}

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when it has ended."""
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(self.pid)
            try:
                # The descriptor pins the process, so what is checked is what gets the signal.
                if self.is_alive:
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)

    async def ended(self, within_s: float) -> bool:
        """Wait until it has ended. Returns False when it still runs after that time."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(descriptor, gone.set)
        try:
            if self.is_alive:
                await asyncio.wait_for(gone.wait(), within_s)
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        return True

    async def stop(self, number: signal.Signals = signal.SIGTERM, *, within_s: float = 5) -> None:
        """Send a signal, wait, and kill what has not ended by then."""
        self.send(number)
        if not await self.ended(within_s):
            self.send(signal.SIGKILL)
            await self.ended(within_s)


def find(pid: int) -> Process | None:
    """Return the process that has this id now."""
    fields = _stat(pid)
    return Process(pid, int(fields[19])) if fields else None


async def start(argv: Sequence[str], log: Path) -> Process | None:
    """Start a process that stays when this one ends, its output in a file. None: it has ended already."""
    return find(int(await run(["sh", "-c", _DETACH, "sh", str(log), *argv])))


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat after the command's name: field 3 is number 0 here."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
