"""How long programs ran that somebody else started, as the kernel tells it at their end (linux/taskstats.h)."""

from __future__ import annotations

import contextlib
import os
import select
import struct
import threading
import time
from collections.abc import Iterator
from typing import Final, NamedTuple, Self

from felix.netlink import HEADER, Flag, attribute, attributes, message, messages, open_socket

_GENERIC: Final = 16  # NETLINK_GENERIC, and the kind of what its controller is asked
_GENL_HEADER: Final = struct.Struct("=BBH")  # genlmsghdr: command, version
_GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 3, 1, 2  # CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, _NAME
_GET, _REGISTER_CPUMASK = 1, 3  # TASKSTATS_CMD_GET, _CMD_ATTR_REGISTER_CPUMASK
_AGGREGATE, _STATS = 4, 3  # TASKSTATS_TYPE_AGGR_PID, _TYPE_STATS
_NAME: Final = slice(80, 112)  # struct taskstats, ac_comm
_ELAPSED: Final = struct.Struct("=144xQ")  # ac_etime, µs
_PROCESS: Final = struct.Struct("=128xI236xI")  # ac_pid, ac_tgid: the same in a process's first thread
_RECEIVE_BUFFER: Final = 8 * 1024 * 1024
_RECEIVE_BYTES: Final = 64 * 1024


class Exit(NamedTuple):
    """A program that ended: when, on the clock of `time.time`, and the seconds since it was forked."""

    ended: float
    took: float


class Exits:
    """Ends of programs of one name, from now on. Use it as a context manager."""

    def __init__(self, name: str) -> None:
        self._name = name.encode()
        self._found: list[Exit] = []
        self._stop = threading.Event()
        self._socket = open_socket(_RECEIVE_BUFFER, _GENERIC)

    def __enter__(self) -> Self:
        self._socket.bind((0, 0))
        answer = self._ask(_GENERIC, _GET_FAMILY, attribute(_FAMILY_NAME, b"TASKSTATS\0"))
        told = dict(attributes(answer, HEADER.size + _GENL_HEADER.size, len(answer)))
        (family,) = struct.unpack("=H", told[_FAMILY_ID])
        cpus = f"0-{(os.cpu_count() or 1) - 1}\0".encode()
        self._ask(family, _GET, attribute(_REGISTER_CPUMASK, cpus))
        self._thread = threading.Thread(target=self._listen, name="ends of programs")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def take(self) -> list[Exit]:
        """Return what has ended since the last call."""
        found = self._found[:]
        del self._found[: len(found)]  # in place: the thread goes on adding
        return found

    def _ask(self, kind: int, command: int, body: bytes) -> bytes:
        self._socket.send(message(kind, Flag.ACK, _GENL_HEADER.pack(command, 1, 0) + body))
        self._wait()
        return self._socket.recv(_RECEIVE_BYTES)

    def _wait(self) -> bool:
        return bool(select.select([self._socket], [], [], 0.2)[0])

    def _listen(self) -> None:
        while not self._stop.is_set():
            if self._wait():
                with contextlib.suppress(BlockingIOError):
                    self._found.extend(self._read(self._socket.recv(_RECEIVE_BYTES)))

    def _read(self, data: bytes) -> Iterator[Exit]:
        now = time.time()
        for each in messages(data):
            for kind, nested in attributes(data, each.start + _GENL_HEADER.size, each.end):
                stats = dict(attributes(nested, 0, len(nested))).get(_STATS) if kind == _AGGREGATE else None
                if stats and stats[_NAME].split(b"\0")[0] == self._name:
                    process, group = _PROCESS.unpack_from(stats)
                    if process == group:
                        yield Exit(now, _ELAPSED.unpack_from(stats)[0] / 1e6)
