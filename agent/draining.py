"""Who wants this node drained, remembered over restarts: `tortie drain` by a file, a taint by the Node object.

`bgp.drain` makes stages of it and `agent.routing` carries them out. What is kept here is when each wish began: an
agent that restarts in the middle goes on where it was, and one that was drained does not announce anything first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec
import structlog

from bgp.config import Node
from bgp.drain import Wish

COMMAND: Final = "command"
TAINT: Final = "taint"

log = structlog.get_logger("drain")


class DrainError(Exception):
    """What was asked for cannot be done; the text says why and what to do."""


class Drainable(Protocol):
    """What is drained: `agent.routing.Routing`."""

    def set_drain(self, wishes: Mapping[str, Wish]) -> None:
        """Take over all wishes there are; times are of a monotonic clock."""


class _Remembered(msgspec.Struct, rename="camel", frozen=True):
    """A wish as the file has it. Times are seconds of the wall clock: a monotonic one ends with a boot."""

    since: float
    withdraw_at: float
    reason: str = ""


class Draining:
    """One node's wishes to be drained. Reads the file at once."""

    def __init__(
        self,
        target: Drainable,
        file: Path,
        *,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._target = target
        self._file = file
        self._now = now
        self._wall = wall
        self._wishes = self._read()
        if self._wishes:
            self._tell()

    def drain(self, wait_s: float, reason: str) -> None:
        """Begin, or give what has begun so long from now. Raises DrainError where it cannot be remembered."""
        self._set(COMMAND, wait_s, reason)

    def undrain(self) -> None:
        """Take `drain` back. Raises DrainError where that leaves the node drained, and if it never was."""
        if COMMAND not in self._wishes and TAINT not in self._wishes:
            raise DrainError("the node is not drained")
        self._drop(COMMAND)
        if TAINT in self._wishes:
            raise DrainError("the node stays drained: its Node object has the taint tortie.dev/drain; remove that")

    def follow(self, node: Node) -> None:
        """Take over what the Node object says."""
        if node.drain_wait_s is None:
            self._drop(TAINT)
        elif TAINT not in self._wishes:
            try:
                self._set(TAINT, node.drain_wait_s, "taint tortie.dev/drain")
            except DrainError as error:
                log.warning("drain.not_remembered", reason=str(error))

    def _set(self, by: str, wait_s: float, reason: str) -> None:
        before = self._wishes.get(by)
        wish = _Remembered(before.since if before else self._wall(), self._wall() + wait_s, reason)
        self._wishes = {**self._wishes, by: wish}
        log.info("drain.wanted", by=by, wait_s=wait_s, reason=reason)
        self._tell()
        self._write()

    def _drop(self, by: str) -> None:
        if by in self._wishes:
            self._wishes = {name: wish for name, wish in self._wishes.items() if name != by}
            log.info("drain.over", by=by)
            self._tell()
            self._write()

    def _tell(self) -> None:
        offset = self._now() - self._wall()
        self._target.set_drain(
            {by: Wish(wish.since + offset, wish.withdraw_at + offset, wish.reason) for by, wish in self._wishes.items()}
        )

    def _read(self) -> dict[str, _Remembered]:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, _Remembered])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            log.warning("drain.forgotten", file=str(self._file), reason=str(error))
            return {}

    def _write(self) -> None:
        try:
            if not self._wishes:
                self._file.unlink(missing_ok=True)
                return
            temporary = self._file.with_suffix(".new")
            temporary.write_bytes(msgspec.json.encode(self._wishes))
            temporary.replace(self._file)
        except OSError as error:
            raise DrainError(f"it is so now, but a restart will not know: {self._file}: {error.strerror}") from None
