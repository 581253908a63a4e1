"""The netlink wire: packing messages, sending many at once, reading answers and dumps.

In go messages built by `message` and `attribute`; out come failures by position, single answers, or the parsed
rows of a dump. The one idea: the kernel works a request off inside `send`, so its answer is there when `send`
returns. What takes long is cut into chunks, and the event loop gets a turn between two of them. Most requests of
NETLINK_ROUTE take rtnl_lock, one for all network namespaces of the machine, and whoever makes or removes many of them
may hold it for a tenth of a second and more: so `write` and `dump` wait for it in a thread, not on the event loop.
Numbers are from linux/netlink.h and linux/rtnetlink.h. Everything happens in the network namespace of the thread that
opened the socket. Sockets speak NETLINK_ROUTE where nobody says otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import socket
import struct
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import IntFlag
from functools import partial
from itertools import islice
from typing import Final, NamedTuple, TypeVar

Row = TypeVar("Row")
T = TypeVar("T")

HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
ATTRIBUTE: Final = struct.Struct("=HH")  # nlattr: length, type
U16: Final = struct.Struct("=H")
U32: Final = struct.Struct("=I")
_FLAGS: Final = struct.Struct("=H")
_FLAGS_OFFSET: Final = 6
_SEQUENCE_OFFSET: Final = 8
_PORT_OFFSET: Final = 12
_LAST_SEQUENCE: Final = 0x7FFFFFFF
_STATUS: Final = struct.Struct("=i")  # in NLMSG_ERROR and NLMSG_DONE: 0 or -errno

_ATTRIBUTE_MESSAGE: Final = 1  # NLMSGERR_ATTR_MSG, _OFFS
_ATTRIBUTE_OFFSET: Final = 2

ERROR: Final = 2  # NLMSG_ERROR: a failure, or an ACK
DONE: Final = 3  # NLMSG_DONE: the end of a dump

SOL_NETLINK: Final = 270
_CAP_ACK: Final = 10  # answers do not repeat the request
_EXT_ACK: Final = 11  # failures come with words
_GET_STRICT_CHK: Final = 12  # dumps are filtered in the kernel
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_SO_ATTACH_FILTER: Final = 26
_FPROG: Final = struct.Struct("@HP")  # sock_fprog: number of instructions, their address
_BPF: Final = struct.Struct("=HBBI")  # sock_filter

_CHUNK_MESSAGES: Final = 256
_CHUNK_BYTES: Final = 64 * 1024  # a send buffer holds 208 KiB where nobody changed it
_RECEIVE_BYTES: Final = 64 * 1024  # the kernel fills at most 32 KiB at a time
_RECEIVE_BUFFER: Final = 4 * 1024 * 1024  # holds the answers to a chunk in which every message fails
_PIECES_PER_TURN: Final = 2
_DUMP_ATTEMPTS: Final = 5

# One for all sockets: they would wait for the same lock, and so requests are done in the order of the calls.
_waiting_for_rtnl: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rtnl")


class Flag(IntFlag):
    """nlmsg_flags of what we send, and the two of what we get that matter."""

    REQUEST = 0x001
    ACK = 0x004
    REPLACE = 0x100
    EXCL = 0x200
    CREATE = 0x400
    DUMP = 0x300
    DUMP_INTR = 0x010  # received: the table changed while it was dumped
    ACK_TLVS = 0x200  # received: attributes follow the error


class Failure(NamedTuple):
    """A message of a `write` that the kernel refused: its position, errno, and the kernel's words or errno's."""

    position: int
    errno: int
    message: str


class Status(NamedTuple):
    """What an ERROR or DONE message says: errno (0: none), words about it, and where in the request it is about."""

    errno: int
    message: str = ""
    offset: int = 0  # of the attribute at fault, from the beginning of the request's header; 0 where nobody says


class Message(NamedTuple):
    """One message of a received buffer: its body lies between `start` and `end`."""

    kind: int
    flags: int
    sequence: int
    start: int
    end: int


async def in_turns(items: Iterable[Row], size: int = 1024) -> AsyncIterator[list[Row]]:
    """Cut work on many items into pieces, and give the event loop a turn between two of them."""
    source = iter(items)
    piece = list(islice(source, size))
    while piece:
        yield piece
        piece = list(islice(source, size))
        if piece:
            await asyncio.sleep(0)


def attribute(kind: int, payload: bytes = b"") -> bytes:
    """Pack one attribute, padded to four bytes. A flag is one without payload."""
    return ATTRIBUTE.pack(4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def message(kind: int, flags: int, body: bytes) -> bytes:
    """Pack a request. Its sequence number is filled in when it is sent."""
    return HEADER.pack(HEADER.size + len(body), kind, flags | Flag.REQUEST, 0, 0) + body


def attributes(data: bytes, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Take apart the attributes between two offsets: type (without the nested and byte-order bits), payload."""
    while start + 4 <= end:
        length, kind = ATTRIBUTE.unpack_from(data, start)
        if length < 4:
            return
        yield kind & 0x3FFF, data[start + 4 : start + length]
        start += (length + 3) & ~3


def messages(data: bytes) -> Iterator[Message]:
    """Take apart what one `recv` returned."""
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, sequence, _port = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            return
        yield Message(kind, flags, sequence, offset + HEADER.size, offset + length)
        offset += (length + 3) & ~3


def open_socket(receive_buffer: int, protocol: int = socket.NETLINK_ROUTE) -> socket.socket:
    """Open a non-blocking socket with a receive buffer of so many bytes, or as many as one without root may have."""
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    netlink.setblocking(False)  # noqa: FBT003 - the parameter has no name
    _resize(netlink, _SO_RCVBUFFORCE, socket.SO_RCVBUF, receive_buffer)
    return netlink


def resize_send_buffer(netlink: socket.socket, size: int) -> None:
    """Let a message of so many bytes be sent at once, or as many as net.core.wmem_max lets one without root."""
    _resize(netlink, _SO_SNDBUFFORCE, socket.SO_SNDBUF, size)


def _resize(netlink: socket.socket, beyond_limits: int, within_limits: int, size: int) -> None:
    """Set a buffer's size. Only who is root outside every user namespace may go beyond the limits."""
    try:
        netlink.setsockopt(socket.SOL_SOCKET, beyond_limits, size)
    except PermissionError:
        netlink.setsockopt(socket.SOL_SOCKET, within_limits, size)


def leave_out(netlink: socket.socket, port: int) -> None:
    """Attach a classic BPF program that drops notifications of what was written through a socket, by its port id."""
    # BPF loads words in network byte order, nlmsghdr is in the machine's.
    expected = int.from_bytes(port.to_bytes(4, sys.byteorder), "big")
    program = b"".join(
        _BPF.pack(*instruction)
        for instruction in (
            (0x20, 0, 0, _PORT_OFFSET),  # load the word: nlmsg_pid of the first message, and so of all
            (0x15, 0, 1, expected),  # if it is ours, go on, else skip one
            (0x06, 0, 0, 0),  # drop
            (0x06, 0, 0, 0xFFFFFFFF),  # take all of it
        )
    )
    buffer = ctypes.create_string_buffer(program)
    netlink.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _FPROG.pack(4, ctypes.addressof(buffer)))


async def readable(netlink: socket.socket) -> None:
    """Wait until there is something to receive."""
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()
    number = netlink.fileno()  # given the socket, the loop would put it into words each time, for an error nobody sees
    loop.add_reader(number, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(number)


async def dump(request: bytes, parse: Callable[[bytes, int, int], Row | None]) -> list[Row]:
    """Send a dump request; return what `parse(data, start, end)` makes of each row, None left out.

    Each dump has a socket of its own: it may be cancelled, and nobody waits for it. One that was overtaken by
    changes is taken again, a few times at most; then the last counts, and events or the next dump put right what
    it missed. Raises OSError with the kernel's words.
    """
    attempt = 0
    while True:
        attempt += 1
        with contextlib.closing(NetlinkSocket()) as netlink:
            rows, was_interrupted = await netlink.dump(request, parse)
        if not was_interrupted or attempt == _DUMP_ATTEMPTS:
            return rows


class NetlinkSocket:
    """A request socket. Several tasks may write through it at a time: chunks never mix.

    A task that is cancelled leaves a chunk done or not begun.
    """

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._takes_rtnl = protocol == socket.NETLINK_ROUTE
        self._lock = threading.Lock()  # from a request to its answer
        self._socket = open_socket(_RECEIVE_BUFFER, protocol)
        for option in (_CAP_ACK, _EXT_ACK, _GET_STRICT_CHK):
            with contextlib.suppress(OSError):  # before Linux 4.20 there is no strict check: every reader filters too
                self._socket.setsockopt(SOL_NETLINK, option, 1)
        self._socket.bind((0, 0))
        self._sequence = 0

    @property
    def port(self) -> int:
        """The port id that the kernel stamps on notifications of what was written through this socket."""
        port: int = self._socket.getsockname()[0]
        return port

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    async def write(self, requests: Iterable[bytes]) -> list[Failure]:
        """Send requests in order; return those that failed. All others are done.

        The loop gets a turn after each chunk of at most 256.
        """
        failures: list[Failure] = []
        position = 0
        source = iter(requests)
        rest = list(islice(source, _CHUNK_MESSAGES))
        while rest:
            count = _fitting(rest)
            failures += await self._aside(partial(self._write_chunk, rest[:count], position))
            position += count
            del rest[:count]
            rest += islice(source, _CHUNK_MESSAGES - len(rest))
            if rest:
                await asyncio.sleep(0)
        return failures

    def ask(self, request: bytes) -> bytes:
        """Send a request that is answered by one message; return its body. Raises OSError with the kernel's words.

        On an event loop ask only what the kernel answers without rtnl_lock, such as which way a packet goes.
        """
        with self._lock:
            sequence = self._send(request, 0)
            while True:
                data = self._socket.recv(_RECEIVE_BYTES)
                for answer in messages(data):
                    if answer.sequence == sequence:
                        _raise_failure(data, answer)
                        return data[answer.start : answer.end]

    async def ask_aside(self, request: bytes) -> bytes:
        """Ask what takes rtnl_lock. See `ask`."""
        return await self._aside(partial(self.ask, request))

    async def dump(
        self, request: bytes, parse: Callable[[bytes, int, int], Row | None], *, is_slow: bool = False
    ) -> tuple[list[Row], bool]:
        """Send a dump request; return its rows and whether changes overtook it. See the function of this name.

        A slow one makes the kernel look through much more than it tells, and does so in a thread even if it takes no
        rtnl_lock.
        """
        rows: list[Row] = []
        was_interrupted = False
        sequence, pieces = await self._aside(partial(self._begin_dump, request), is_slow=is_slow)
        while True:
            for data in pieces:
                for answer in messages(data):
                    if answer.sequence != sequence:
                        continue
                    was_interrupted |= bool(answer.flags & Flag.DUMP_INTR)
                    if answer.kind in (DONE, ERROR):
                        _raise_failure(data, answer)
                        return rows, was_interrupted
                    row = parse(data, answer.start, answer.end)
                    if row is not None:
                        rows.append(row)
            await asyncio.sleep(0)
            pieces = await self._aside(self._receive, is_slow=is_slow)

    async def _aside(self, work: Callable[[], T], *, is_slow: bool = False) -> T:
        """Do what may wait for a lock of the kernel's where the event loop does not wait with it."""
        if self._takes_rtnl:
            return await asyncio.get_running_loop().run_in_executor(_waiting_for_rtnl, work)
        return await asyncio.to_thread(work) if is_slow else work()

    def _begin_dump(self, request: bytes) -> tuple[int, list[bytes]]:
        with self._lock:
            return self._send(request, Flag.DUMP), self._receive()

    def _send(self, request: bytes, flags: int) -> int:
        self._sequence = self._sequence % _LAST_SEQUENCE + 1
        buffer = bytearray(request)
        U32.pack_into(buffer, _SEQUENCE_OFFSET, self._sequence)
        _add_flags(buffer, 0, flags)
        self._socket.sendto(buffer, (0, 0))
        return self._sequence

    def _receive(self) -> list[bytes]:
        """Return some pieces of a dump, the last of which may be its end: the kernel makes them as they are fetched."""
        pieces = [self._socket.recv(_RECEIVE_BYTES)]
        with contextlib.suppress(BlockingIOError):
            while len(pieces) < _PIECES_PER_TURN:
                pieces.append(self._socket.recv(_RECEIVE_BYTES))
        return pieces

    def _write_chunk(self, chunk: list[bytes], position: int) -> list[Failure]:
        """Send one chunk. An ACK is asked of the last message alone: the kernel reports failures unasked."""
        with self._lock:
            return self._exchange(chunk, position)

    def _exchange(self, chunk: list[bytes], position: int) -> list[Failure]:
        first = self._sequence + 1 if self._sequence + len(chunk) <= _LAST_SEQUENCE else 1
        self._sequence = last = first + len(chunk) - 1
        buffer = bytearray().join(chunk)
        offset = 0
        for sequence, request in enumerate(chunk, first):
            U32.pack_into(buffer, offset + _SEQUENCE_OFFSET, sequence)
            offset += len(request)
        _add_flags(buffer, offset - len(chunk[-1]), Flag.ACK)
        failures: list[Failure] = []
        try:
            self._socket.sendto(buffer, (0, 0))
            while True:
                data = self._socket.recv(_RECEIVE_BYTES)
                for answer in messages(data):
                    if answer.kind != ERROR or not first <= answer.sequence <= last:
                        continue
                    status = read_status(data, answer)
                    if status.errno:
                        failures.append(Failure(position + answer.sequence - first, status.errno, status.message))
                    if answer.sequence == last:
                        return failures
        except OSError as error:
            # The whole chunk was refused, or answers did not fit into the receive buffer. Nobody knows what took
            # effect: all of it counts as failed, and the next dump tells.
            number = errno.ENOBUFS if isinstance(error, BlockingIOError) else error.errno or errno.EIO
            return [Failure(position + index, number, os.strerror(number)) for index in range(len(chunk))]


def _add_flags(buffer: bytearray, offset: int, flags: int) -> None:
    """Set flags of the message that begins at an offset."""
    offset += _FLAGS_OFFSET
    _FLAGS.pack_into(buffer, offset, _FLAGS.unpack_from(buffer, offset)[0] | flags)


def _fitting(requests: list[bytes]) -> int:
    """Return how many of the requests make up one chunk: at least one."""
    size = 0
    for count, request in enumerate(requests):
        size += len(request)
        if size > _CHUNK_BYTES and count:
            return count
    return len(requests)


def read_status(data: bytes, answer: Message) -> Status:
    """Read an ERROR or DONE message."""
    number = -_STATUS.unpack_from(data, answer.start)[0]
    if not number:
        return Status(0)
    words = os.strerror(number)
    offset = 0
    if answer.flags & Flag.ACK_TLVS:
        # An error repeats the header of the request between status and attributes (struct nlmsgerr).
        repeated = HEADER.size if answer.kind == ERROR else 0
        for kind, payload in attributes(data, answer.start + _STATUS.size + repeated, answer.end):
            if kind == _ATTRIBUTE_MESSAGE:
                words = payload.rstrip(b"\0").decode(errors="replace")
            elif kind == _ATTRIBUTE_OFFSET:
                offset = U32.unpack(payload)[0]
    return Status(number, words, offset)


def _raise_failure(data: bytes, answer: Message) -> None:
    """Raise OSError if an answer reports one."""
    if answer.kind in (ERROR, DONE):
        status = read_status(data, answer)
        if status.errno:
            raise OSError(status.errno, status.message)
