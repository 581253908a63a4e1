"""A BGP speaker that sends load: any number of sessions in one process, UPDATEs built before they are asked for.

Run in a router's namespace by `bench.peers`, told what to do by words on stdin, answering by JSON lines on stdout.
Times are CLOCK_MONOTONIC in nanoseconds, which all processes of the machine share. It always calls, never listens,
so that there is one connection and no collision.

| stdin | stdout |
|---|---|
|  | `{"event": "up", "session": 0, "at": …}` when a KEEPALIVE has come for our OPEN |
| `send` | `{"event": "sent", "session": 0, "first": …, "last": …}` when all UPDATEs and the End-of-RIB are written |
| `cease` | `{"event": "ended", "session": 0, "at": …}`: a NOTIFICATION Cease was sent, the connection is closed |
|  | `{"event": "marker", "session": 1, "at": …}` when an UPDATE that is not End-of-RIB has come |
|  | `{"event": "down", "session": 0, "reason": …}`; it calls again |
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import socket
import sys
import time
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, ip_address
from typing import Final

from bench import load, wire
from inet.prefix import Family, Prefix

_PIECE_BYTES: Final = 1 << 18
_RETRY_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Session:
    """One session of the sender, and what it will announce."""

    local: str
    remote: str
    local_asn: int
    remote_asn: int
    count: int = 0
    own_med: bool = False
    prefixes: tuple[str, ...] = ()  # these, in place of `count` generated ones
    marker: bool = False  # the family's marker after all others
    at_once: bool = False  # without waiting for `send`
    restart_time_s: int | None = None
    hold_time_s: int = 90

    @property
    def family(self) -> Family:
        """The family of the transport and of the routes."""
        return Family.IPV6 if ":" in self.local else Family.IPV4

    @property
    def router_id(self) -> IPv4Address:
        """A BGP Identifier of its own for each address."""
        return IPv4Address(0x0AC80000 | int(ip_address(self.local)) & 0xFFFF | self._cable << 8)

    @property
    def _cable(self) -> int:
        return ip_address(self.local).packed[3 if self.family is Family.IPV6 else 2]

    def updates(self) -> bytes:
        """Return everything it announces, ready to send."""
        prefixes = map(Prefix.parse, self.prefixes) if self.prefixes else load.prefixes(self.family, self.count)
        next_hop = ip_address(self.local)
        as_path = [self.local_asn] if self.local_asn != self.remote_asn else []
        parts = list(wire.updates(prefixes, next_hop, as_path, own_med=self.own_med))
        if self.marker:
            parts += wire.updates([load.MARKERS[self.family]], next_hop, as_path, own_med=False)
        return b"".join([*parts, wire.end_of_rib(self.family)])


class _Connection:
    """One session's connection: calls, opens, keeps alive, sends, reads."""

    def __init__(self, number: int, session: Session, selector: selectors.BaseSelector) -> None:
        self.number = number
        self._session = session
        self._selector = selector
        self._load = memoryview(session.updates())
        self._socket: socket.socket | None = None
        self._waiting = memoryview(b"")  # to be written
        self._received = bytearray()
        self._is_up = False
        self._is_over = False
        self._first_at: int | None = None  # of the load's first byte, while it is on its way
        self._call_at = 0.0
        self._keepalive_at = 0.0

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self._is_over:
            return
        if self._socket is None:
            if now >= self._call_at:
                self._call()
        elif self._is_up and now >= self._keepalive_at:
            self._keepalive_at = now + self._session.hold_time_s / 3
            if not self._waiting:  # UPDATEs do as well
                self._write(wire.message(wire.KEEPALIVE))

    def send_load(self) -> None:
        """Send everything, from now on."""
        self._first_at = time.monotonic_ns()
        self._write(self._load)

    def cease(self) -> None:
        """End by a NOTIFICATION."""
        at = time.monotonic_ns()
        self._write(wire.notification(wire.CEASE, wire.ADMINISTRATIVE_SHUTDOWN))
        self._drop()
        self._is_over = True
        self._say(event="ended", at=at)

    def ready(self, events: int) -> None:
        """The socket can be read or written."""
        try:
            if events & selectors.EVENT_WRITE:
                self._flush()
            if events & selectors.EVENT_READ and self._socket is not None:
                data = self._socket.recv(1 << 16)
                if not data:
                    raise ConnectionResetError(errno.ECONNRESET, "closed by the peer")
                self._received += data
                self._read()
        except OSError as error:
            if self._is_up or error.errno not in {errno.ECONNREFUSED, errno.ECONNRESET}:
                self._say(event="down", reason=str(error))
            self._drop()

    def _call(self) -> None:
        family = socket.AF_INET6 if self._session.family is Family.IPV6 else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setblocking(False)  # noqa: FBT003 - the parameter has no name
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.bind((self._session.local, 0))
        self._socket.connect_ex((self._session.remote, 179))
        session = self._session
        opening = wire.open_message(
            session.local_asn, session.hold_time_s, session.router_id, session.family, session.restart_time_s
        )
        self._waiting = memoryview(opening)
        self._selector.register(self._socket, selectors.EVENT_READ | selectors.EVENT_WRITE, self)

    def _drop(self) -> None:
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self._socket.close()
        self._socket = None
        self._is_up = False
        self._received.clear()
        self._first_at = None
        self._call_at = time.monotonic() + _RETRY_S

    def _write(self, data: bytes | memoryview) -> None:
        self._waiting = memoryview(b"".join([self._waiting, data])) if self._waiting else memoryview(data)
        self._flush()

    def _flush(self) -> None:
        if self._socket is None:
            return
        try:
            while self._waiting:
                self._waiting = self._waiting[self._socket.send(self._waiting[:_PIECE_BYTES]) :]
        except BlockingIOError:
            self._selector.modify(self._socket, selectors.EVENT_READ | selectors.EVENT_WRITE, self)
            return
        self._selector.modify(self._socket, selectors.EVENT_READ, self)
        if self._first_at is not None:
            self._say(event="sent", first=self._first_at, last=time.monotonic_ns())
            self._first_at = None

    def _read(self) -> None:
        while len(self._received) >= wire.HEADER_BYTES:
            length = int.from_bytes(self._received[16:18])
            if len(self._received) < length:
                return
            kind, body = self._received[18], bytes(self._received[wire.HEADER_BYTES : length])
            del self._received[:length]
            self._take(kind, body)

    def _take(self, kind: int, body: bytes) -> None:
        if kind == wire.OPEN:
            self._write(wire.message(wire.KEEPALIVE))
        elif kind == wire.NOTIFICATION:
            raise ConnectionAbortedError(f"NOTIFICATION {body[0]}/{body[1]}")
        elif kind == wire.KEEPALIVE and not self._is_up:
            self._is_up = True
            self._keepalive_at = time.monotonic() + self._session.hold_time_s / 3
            self._say(event="up", at=time.monotonic_ns())
            if self._session.at_once:
                self.send_load()
        elif kind == wire.UPDATE and not wire.is_end_of_rib(body):
            self._say(event="marker", at=time.monotonic_ns())

    def _say(self, **facts: object) -> None:
        sys.stdout.write(json.dumps({"session": self.number, **facts}) + "\n")
        sys.stdout.flush()


def encode(sessions: tuple[Session, ...]) -> str:
    """Return the argument that has a sender run these sessions."""
    return json.dumps([asdict(session) for session in sessions])


def main(argument: str) -> None:
    """Run the sessions until stdin ends."""
    selector = selectors.DefaultSelector()
    connections = [
        _Connection(number, Session(**{**each, "prefixes": tuple(each["prefixes"])}), selector)
        for number, each in enumerate(json.loads(argument))
    ]
    selector.register(sys.stdin, selectors.EVENT_READ)
    while True:
        now = time.monotonic()
        for connection in connections:
            connection.tick(now)
        for key, events in selector.select(_RETRY_S):
            if key.data is not None:
                key.data.ready(events)
                continue
            words = os.read(sys.stdin.fileno(), 4096).decode().split()
            if not words:
                return
            for word in words:
                for connection in connections:
                    connection.cease() if word == "cease" else connection.send_load()


if __name__ == "__main__":
    main(sys.argv[1])
