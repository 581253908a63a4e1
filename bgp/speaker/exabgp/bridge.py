"""The helper that ExaBGP runs: everything ExaBGP says goes to the agent, everything the agent says to ExaBGP.

    python bridge.py SOCKET

ExaBGP writes to its helper with blocking writes and reads only between them: a helper that stops reading stops
every session, and one that blocks on writing while ExaBGP does too hangs both for ever. So this program never
blocks. It reads whatever there is to read, keeps what cannot be passed on yet in memory, without limit, and
knows nothing of what it carries. It ends with either side: what was in flight on a broken connection cannot be
made good, so the agent starts ExaBGP, and with it a new bridge, again.

It runs without the standard library's site and imports little, to stay small.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import sys

_CHUNK = 1 << 18
_PIPE_BYTES = 1 << 20


class Lane:
    """One direction: what was read from `source` and waits for `sink`."""

    __slots__ = ("sink", "source", "waiting")

    def __init__(self, source: int, sink: int) -> None:
        self.source = source
        self.sink = sink
        self.waiting = bytearray()

    def read(self) -> bool:
        """Take in what is there. False at the end of the source."""
        try:
            data = os.read(self.source, _CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.waiting += data
        return bool(data)

    def write(self) -> bool:
        """Pass on what the sink takes. False when it takes nothing any more."""
        try:
            while self.waiting:
                with memoryview(self.waiting) as view:
                    written = os.write(self.sink, view[:_CHUNK])
                del self.waiting[:written]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


def carry(lanes: tuple[Lane, Lane]) -> None:
    """Carry bytes both ways until one end closes; what was read by then is still passed on."""
    poll = select.poll()
    while True:
        interest: dict[int, int] = {}
        for lane in lanes:
            interest[lane.source] = interest.get(lane.source, 0) | select.POLLIN
            if lane.waiting:
                interest[lane.sink] = interest.get(lane.sink, 0) | select.POLLOUT
        for descriptor, events in interest.items():
            poll.register(descriptor, events)
        ready = dict(poll.poll())
        for descriptor in interest:
            poll.unregister(descriptor)
        for lane in lanes:
            if ready.get(lane.source) and not lane.read():
                lane.write()
                return
            if lane.waiting and not lane.write():
                return


def main(path: str) -> None:
    """Connect to the agent and carry."""
    agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    agent.connect(path)
    for size in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        agent.setsockopt(socket.SOL_SOCKET, size, _PIPE_BYTES)
    stdin, stdout = sys.stdin.fileno(), sys.stdout.fileno()
    for pipe in (stdin, stdout):
        with contextlib.suppress(OSError):  # above fs.pipe-max-size without the right to exceed it
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    for descriptor in (stdin, stdout, agent.fileno()):
        os.set_blocking(descriptor, False)
    carry((Lane(stdin, agent.fileno()), Lane(agent.fileno(), stdout)))


if __name__ == "__main__":
    main(sys.argv[1])
