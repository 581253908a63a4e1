"""How large a packet gets through to an address: tried with echo requests that nobody may fragment.

The first is small and says whether anybody answers at all. Then the size that should pass; where that fails, halving
finds the largest that does, to the byte. What routers say on the way (Fragmentation Needed, Packet Too Big) is kept
with the size it was said of; a firewall that says nothing is what this is for.

Sizes are of whole IP packets. What the kernel has learned about the path is neither used nor changed: it is asked to
probe (IP_PMTUDISC_PROBE). Needs CAP_NET_RAW, or an id within net.ipv4.ping_group_range.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final, NamedTuple

from inet.prefix import Family, IPAddress, family_of

ANSWER_S: Final = 1.0
ATTEMPTS: Final = 2
"""How long an answer is waited for, and how often it is asked: a single loss says nothing about size."""

_SMALLEST: Final = {Family.IPV4: 576, Family.IPV6: 1280}
_HEADERS: Final = {Family.IPV4: 20 + 8, Family.IPV6: 40 + 8}
_ECHO: Final = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence
_REQUEST: Final = {Family.IPV4: 8, Family.IPV6: 128}
_REPLY: Final = {Family.IPV4: 0, Family.IPV6: 129}
_PROTOCOL: Final = {Family.IPV4: socket.IPPROTO_ICMP, Family.IPV6: socket.IPPROTO_ICMPV6}
_DISCOVER: Final = {Family.IPV4: (socket.IPPROTO_IP, 10), Family.IPV6: (socket.IPPROTO_IPV6, 23)}  # IP_MTU_DISCOVER
_PROBE: Final = 3  # IP_PMTUDISC_PROBE: never fragment, heed no known path MTU
_ERRORS: Final = {Family.IPV4: (socket.IPPROTO_IP, 11), Family.IPV6: (socket.IPPROTO_IPV6, 25)}  # IP_RECVERR
_EXTENDED: Final = struct.Struct("=IBBBBII")  # sock_extended_err: errno, origin, type, code, pad, info, data


class Tried(NamedTuple):
    """One size, whether it got through, and if not, why: who said so and which size would, or that nobody answered."""

    size: int
    passed: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PathMtu:
    """What was found. `mtu` is the largest size that got through; None where nothing did."""

    address: IPAddress
    mtu: int | None
    tried: list[Tried] = field(default_factory=list)

    @property
    def reason(self) -> str:
        """Why the largest size that was tried did not get through; empty where it did."""
        return max(self.tried, default=Tried(0, passed=True)).reason


async def probe(address: IPAddress, expected: int, *, answer_s: float = ANSWER_S) -> PathMtu:
    """Find the largest packet, of `expected` bytes at most, that gets to an address and is answered. Raises OSError."""
    family = family_of(address)
    tried: list[Tried] = []
    with contextlib.closing(_Echo(address, family)) as echo:

        async def passes(size: int) -> bool:
            outcome = await echo.ask(size, answer_s)
            tried.append(outcome)
            return outcome.passed

        good, bad = min(_SMALLEST[family], expected), expected + 1
        if not await passes(good):
            return PathMtu(address, None, tried)
        if good < expected and not await passes(expected):
            bad = expected
        else:
            return PathMtu(address, expected, tried)
        while bad - good > 1:
            middle = (good + bad) // 2
            if await passes(middle):
                good = middle
            else:
                bad = middle
    return PathMtu(address, good, tried)


class _Echo:
    """Echo requests to one address, one at a time."""

    def __init__(self, address: IPAddress, family: Family) -> None:
        self._family = family
        self._sequence = 0
        self._identifier = os.getpid() & 0xFFFF
        self._is_raw = False
        try:
            self._socket = socket.socket(family, socket.SOCK_DGRAM, _PROTOCOL[family])
        except PermissionError:
            self._is_raw = True
            self._socket = socket.socket(family, socket.SOCK_RAW, _PROTOCOL[family])
        self._socket.setblocking(False)  # noqa: FBT003 - the parameter has no name
        self._socket.setsockopt(*_DISCOVER[family], _PROBE)
        self._socket.setsockopt(*_ERRORS[family], 1)
        self._socket.connect((str(address), 0))

    def close(self) -> None:
        self._socket.close()

    async def ask(self, size: int, answer_s: float) -> Tried:
        """Send a packet of a size until it is answered, or refused, or nobody answers."""
        for _ in range(ATTEMPTS):
            self._sequence = (self._sequence + 1) & 0xFFFF
            self._forget_errors()
            try:
                self._socket.send(self._packet(size))
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    return Tried(size, passed=False, reason="more than the link of this node takes")
                return Tried(size, passed=False, reason=error.strerror or str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(answer_s):
                    while (verdict := self._heard()) is None:
                        await _readable(self._socket)
            if verdict is None:  # it may have come while a busy machine kept us waiting
                verdict = self._heard()
            if verdict is not None:
                return Tried(size, passed=not verdict, reason=verdict)
        return Tried(size, passed=False, reason="no answer")

    def _packet(self, size: int) -> bytes:
        payload = bytes(size - _HEADERS[self._family])
        header = (_REQUEST[self._family], 0, 0, self._identifier, self._sequence)
        packet = _ECHO.pack(*header) + payload
        if self._family is Family.IPV6:
            return packet  # the kernel fills its checksum in
        return _ECHO.pack(*header[:2], _checksum(packet), *header[3:]) + payload

    def _heard(self) -> str | None:
        """Return what has been said of the request: nothing for an answer, else what is wrong; None: not a word yet."""
        while True:
            if said := self._error():
                return said
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return None
            except OSError:
                continue  # the error is in the queue
            if self._is_raw and self._family is Family.IPV4:
                data = data[(data[0] & 0xF) * 4 :]
            kind, _, _, identifier, sequence = _ECHO.unpack_from(data)
            is_ours = not self._is_raw or identifier == self._identifier
            if kind == _REPLY[self._family] and sequence == self._sequence and is_ours:
                return ""

    def _forget_errors(self) -> None:
        """Empty the queue of what was said of earlier requests."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recvmsg(0, 0, socket.MSG_ERRQUEUE)

    def _error(self) -> str:
        """Return what a router or this node's kernel has said of a packet; empty if nothing."""
        try:
            data, ancillary, _, _ = self._socket.recvmsg(_ECHO.size, 512, socket.MSG_ERRQUEUE)
        except OSError:
            return ""
        if len(data) >= _ECHO.size and _ECHO.unpack_from(data)[4] != self._sequence:
            return ""
        for _, _, content in ancillary:
            number, _, _, _, _, info, _ = _EXTENDED.unpack_from(content)
            if number == errno.EMSGSIZE:
                return f"{_offender(content)} says that {info} bytes are the most"
            return f"{_offender(content)}: {os.strerror(number)}"
        return ""


def _offender(content: bytes) -> str:
    """Return who said it (SO_EE_OFFENDER: a socket address behind the error)."""
    rest = content[_EXTENDED.size :]
    (family,) = struct.unpack_from("=H", rest) if len(rest) >= 8 else (0,)
    if family == socket.AF_INET:
        return str(ip_address(rest[4:8]))
    if family == socket.AF_INET6 and len(rest) >= 24:
        return str(ip_address(rest[8:24]))
    return "this node"


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of bytes, or of one more."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
