"""Send small UDP packets at a steady pace and note which never came back; or send back what comes.

A program of its own, run inside namespaces by path (standard library alone, so it starts at once); `traffic` is
its other end. `echo ADDRESS` answers and prints its port. `send ADDRESS PORT INTERVAL_S FLOWS` sends, on each
beat, one packet of every flow (its own source port, so that flows take different ones of several equal ways), until
its standard input ends; then waits for stragglers and prints what was lost as JSON. It prints an empty line when
it begins.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Final

STRAGGLERS_S: Final = 3.0
"""How late an answer may be and still count. A lost packet is not late: it never comes."""

BUFFER: Final = 8 << 20
"""Bytes that wait while this program waits for a processor: some ten thousand packets, which else the kernel drops."""

_SO_RCVBUFFORCE: Final = 33  # <asm-generic/socket.h>: beyond net.core.rmem_max

_PAYLOAD: Final = struct.Struct("!QHH")  # beat, flow, padding


@dataclass(slots=True)
class Tally:
    """What was sent and not (yet) answered: (beat, flow) → (wall clock, why)."""

    sent: int = 0
    outstanding: dict[tuple[int, int], tuple[float, str]] = field(default_factory=dict)

    def report(self) -> dict[str, object]:
        """Return the tally as the other end reads it."""
        lost = [[when, flow, why] for (_, flow), (when, why) in sorted(self.outstanding.items())]
        return {"sent": self.sent, "lost": lost}


def send(address: str, port: int, interval_s: float, flows: int) -> Tally:
    """Send until standard input ends."""
    tally = Tally()
    sockets = [_connect(address, port) for _ in range(flows)]
    poller = select.poll()
    by_descriptor = {it.fileno(): it for it in sockets}
    for it in sockets:
        poller.register(it, select.POLLIN)
    poller.register(sys.stdin, select.POLLIN | select.POLLHUP)
    start = time.monotonic()
    end = float("inf")
    beat = 0
    while True:
        now = time.monotonic()
        if end == float("inf") and now >= start + beat * interval_s:
            # Beats that were missed are not made up: a burst of them is what nobody sends.
            start = max(start, now - beat * interval_s)
            for flow, it in enumerate(sockets):
                _send_one(it, beat, flow, tally)
            beat += 1
            continue
        if end != float("inf") and (not tally.outstanding or (now >= end and not poller.poll(0))):
            return tally  # what has come in while nobody ran counts
        until = min(end, start + beat * interval_s if end == float("inf") else end)
        for descriptor, _ in poller.poll(max(0.0, until - now) * 1000):
            if descriptor == sys.stdin.fileno():
                poller.unregister(sys.stdin)
                end = time.monotonic() + STRAGGLERS_S
            else:
                _receive(by_descriptor[descriptor], tally)


def _open(address: str) -> socket.socket:
    opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
    except PermissionError:  # in a user namespace: as much as anybody may
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    return opened


def _connect(address: str, port: int) -> socket.socket:
    connected = _open(address)
    connected.settimeout(0)
    connected.connect((address, port))
    return connected


def _send_one(it: socket.socket, beat: int, flow: int, tally: Tally) -> None:
    tally.sent += 1
    tally.outstanding[beat, flow] = (time.time(), "no answer")
    try:
        it.send(_PAYLOAD.pack(beat, flow, 0))
    except OSError as error:
        # An ICMP error for an earlier packet is reported on the next call, which then sends nothing.
        tally.outstanding[beat, flow] = (time.time(), error.strerror or str(error))


def _receive(it: socket.socket, tally: Tally) -> None:
    try:
        beat, flow, _ = _PAYLOAD.unpack(it.recv(_PAYLOAD.size))
    except OSError:
        return  # an ICMP error: the packet it is about stays outstanding
    tally.outstanding.pop((beat, flow), None)


def echo(address: str) -> None:
    """Send every packet back, until standard input ends."""
    answering = _open(address)
    answering.bind((address, 0))
    sys.stdout.write(f"{answering.getsockname()[1]}\n")
    sys.stdout.flush()
    while True:
        ready, _, _ = select.select([answering, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        try:
            data, sender = answering.recvfrom(64)
            answering.sendto(data, sender)
        except OSError:
            continue  # no way back just now: the other side counts it


def main(argv: list[str]) -> None:
    """Run one side."""
    match argv:
        case ["echo", address]:
            echo(address)
        case ["send", address, port, interval_s, flows]:
            sys.stdout.write("\n")
            sys.stdout.flush()
            tally = send(address, int(port), float(interval_s), int(flows))
            sys.stdout.write(json.dumps(tally.report()) + "\n")
        case _:
            raise SystemExit("echo ADDRESS | send ADDRESS PORT INTERVAL_S FLOWS")


if __name__ == "__main__":
    main(sys.argv[1:])
