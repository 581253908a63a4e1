"""A steady stream of UDP packets from the node to everything behind the routers, to see what a failure costs.

One numbered packet every 0.1 ms, to a random prefix's first host each, so that every route and both next hops of
each are used. Run as a process of its own in the node; the routers own all of the load's addresses (a local route)
and keep what they got in socket buffers, which `Probe` reads at the end.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from bench import load
from bench.network import run
from felix.namespaces import entered
from inet.prefix import Family

INTERVAL_MS: Final = 0.1
_PORT: Final = 9797
_NUMBER: Final = struct.Struct("!Q")
_BUFFER_BYTES: Final = 256 << 20
_SO_RCVBUFFORCE: Final = 33
_PR_SET_TIMERSLACK: Final = 29
_ROOT: Final = Path(__file__).parent.parent


class Probe:
    """The stream and its receivers. A context manager; the stream runs for `seconds` from its beginning."""

    def __init__(self, node: str, routers: Sequence[str], family: Family, count: int, seconds: float) -> None:
        self._receivers = [_receiver(router, family) for router in routers]
        argv = [sys.executable, "-m", "bench.probe", str(int(family)), str(count), str(seconds)]
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", node, *argv], cwd=_ROOT, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdout is not None  # noqa: S101 - asked for
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        for receiver in self._receivers:
            receiver.close()

    def wait_flowing(self) -> None:
        """Wait until the stream has begun and settled: neighbours are known, nothing is lost any more."""
        assert self._process.stdout is not None  # noqa: S101 - asked for
        self._process.stdout.readline()

    def lost(self) -> int:
        """Wait for the end of the stream; return how many packets of those after `wait_flowing` did not arrive."""
        said = json.loads(self._process.communicate()[0])
        arrived: set[int] = set()
        for receiver in self._receivers:
            try:
                while data := receiver.recv(64):
                    arrived.add(_NUMBER.unpack(data)[0])
            except BlockingIOError:
                pass
        return sum(1 for number in range(said["settled"], said["sent"]) if number not in arrived)


def own_everything(router: str) -> None:
    """Have a router take in packets to any address of the load."""
    for family, cover in load.COVERS.items():
        run(
            "ip",
            "-n",
            router,
            "-4" if family is Family.IPV4 else "-6",
            "route",
            "add",
            "local",
            str(cover),
            "dev",
            "lo",
        )


def _receiver(router: str, family: Family) -> socket.socket:
    with entered(router):
        receiver = socket.socket(family, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    receiver.setblocking(False)  # noqa: FBT003 - the parameter has no name
    receiver.bind(("::" if family is Family.IPV6 else "0.0.0.0", _PORT))
    return receiver


def stream(family: Family, count: int, seconds: float) -> None:
    """Send; say when it has settled, and in the end how much it was."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    size = family.bits // 8
    chosen = random.Random(97)  # noqa: S311 - any order will do, and the same one each time
    hosts = [
        socket.inet_ntop(family, (int.from_bytes(prefix.packed) + 1).to_bytes(size))
        for prefix in load.prefixes(family, count)
    ]
    chosen.shuffle(hosts)
    targets = [(host, _PORT) for host in hosts]
    settle = int(200 / INTERVAL_MS)
    sending = socket.socket(family, socket.SOCK_DGRAM)
    began = time.monotonic()
    for number in range(settle + int(seconds * 1000 / INTERVAL_MS)):
        wait_s = began + number * INTERVAL_MS / 1000 - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        with contextlib.suppress(OSError):  # no route: lost
            sending.sendto(_NUMBER.pack(number), targets[number % len(targets)])
        if number == settle:
            sys.stdout.write("\n")
            sys.stdout.flush()
    sys.stdout.write(json.dumps({"settled": settle, "sent": number + 1}))


if __name__ == "__main__":
    stream(Family(int(sys.argv[1])), int(sys.argv[2]), float(sys.argv[3]))
