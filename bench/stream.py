"""Data from one pod to another as fast as it goes; run inside namespaces by path, standard library alone.

`receive KIND` takes what comes and prints an empty line when it is ready; `send KIND SECONDS` sends and prints what got
through: bytes (tcp) or packets (udp) a second, or seconds for a round trip (rtt).
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from typing import Final

_PORT: Final = 5001
_FAR: Final = ("10.42.2.2", _PORT)


def receive(kind: str) -> None:
    """Take what comes."""
    if kind == "tcp":
        with socket.create_server(("", _PORT)) as server:
            print(flush=True)
            connection, _ = server.accept()
            received = 0
            while data := connection.recv(1 << 20):
                received += len(data)
            connection.close()
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as echo:
        echo.bind(("", _PORT))
        print(flush=True)
        counted = 0
        while True:
            data, sender = echo.recvfrom(2048)
            counted += 1
            if kind == "rtt":
                echo.sendto(data, sender)
            elif data == b"end":
                echo.sendto(str(counted).encode(), sender)


def send(kind: str, seconds: float) -> float:
    """Send for some seconds; return what got through."""
    if kind == "tcp":
        with socket.create_connection(_FAR) as stream:
            piece, sent, began = bytes(1 << 17), 0, time.monotonic()
            while time.monotonic() - began < seconds:
                stream.sendall(piece)
                sent += len(piece)
            return sent / (time.monotonic() - began)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(_FAR)
        sender.settimeout(1)
        began, count, piece = time.monotonic(), 0, bytes(1400 if kind == "udp" else 64)
        while time.monotonic() - began < seconds:
            sender.send(piece)
            count += 1
            if kind == "rtt":
                sender.recv(2048)
        taken = time.monotonic() - began
        if kind == "rtt":
            return taken / count
        for _ in range(20):
            with contextlib.suppress(TimeoutError):
                sender.send(b"end")
                return int(sender.recv(64)) / taken
    raise OSError("no answer")


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(sys.argv[2])
    else:
        sys.stdout.write(str(send(sys.argv[2], float(sys.argv[3]))))
