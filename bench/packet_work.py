"""Work for the way between the two routers of a network, by piece of about a millisecond, in one thread.

Each kind of work is a context manager that gives a function: it does a piece, both ends of it, and returns how much
that was: datagrams, bytes, exchanges.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from bench import network
from bench.network import Network
from felix.namespaces import entered
from inet.prefix import Family, IPAddress, family_of

BATCHES: Final = 140
"""How many there are of new flows: the kernel remembers each flow for half a minute, and 65,536 of them."""

_PORT: Final = 5001
_DATAGRAMS: Final = 200  # at a time
_EXCHANGES: Final = 60
_STREAM: Final = 2 << 20
_WRITE: Final = 1 << 16
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class _Part(ctypes.Structure):  # struct iovec
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):  # struct mmsghdr
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("parts", ctypes.c_void_p),
        ("part_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent", ctypes.c_uint),
    )


class _Batch:
    """Datagrams of one byte to an address, one for each port, for one system call."""

    def __init__(self, target: IPAddress, ports: Iterable[int]) -> None:
        self._names = [ctypes.create_string_buffer(socket_address(target, port)) for port in ports]
        self._byte = ctypes.create_string_buffer(b"!")
        self._part = _Part(ctypes.addressof(self._byte), 1)
        self._messages = (_Message * len(self._names))()
        for message, name in zip(self._messages, self._names, strict=True):
            message.name, message.name_length = ctypes.addressof(name), len(name) - 1
            message.parts, message.part_count = ctypes.addressof(self._part), 1

    def send(self, sender: socket.socket) -> int:
        """Send them; return how many."""
        count: int = _LIBC.sendmmsg(sender.fileno(), self._messages, len(self._messages), 0)
        if count < 0:
            raise OSError(ctypes.get_errno(), "sendmmsg")
        return count


def socket_address(address: IPAddress, port: int) -> bytes:
    """Return an address and port as the kernel takes them: sockaddr_in, sockaddr_in6."""
    family = struct.pack("=H", family_of(address)) + struct.pack("!H", port)
    return family + (address.packed + bytes(8) if address.version == 4 else bytes(4) + address.packed + bytes(4))


def one_flow(net: Network, family: Family) -> contextlib.AbstractContextManager[Callable[[], float]]:
    """Send datagrams of one flow."""
    return _datagrams(net, family, [[_PORT] * _DATAGRAMS])


def new_flows(net: Network, family: Family) -> contextlib.AbstractContextManager[Callable[[], float]]:
    """Send datagrams of which each is a new flow."""
    first = range(20_000, 20_000 + BATCHES * _DATAGRAMS, _DATAGRAMS)
    return _datagrams(net, family, [range(port, port + _DATAGRAMS) for port in first])


@contextlib.contextmanager
def _datagrams(net: Network, family: Family, ports: Iterable[Iterable[int]]) -> Iterator[Callable[[], float]]:
    """Send batch after batch. One flow ends at a socket that is full, or errors would come back."""
    address = network.address(2, 2, family)
    with contextlib.ExitStack() as stack:
        receiver, sender = (stack.enter_context(_socket(net, end, socket.SOCK_DGRAM, family)) for end in (1, 0))
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        receiver.bind((str(address), _PORT))
        batches = itertools.cycle([_Batch(address, each) for each in ports])
        yield lambda: next(batches).send(sender)


def stream(net: Network, family: Family) -> contextlib.AbstractContextManager[Callable[[], float]]:
    """Send bytes in one connection."""

    def piece(client: socket.socket, server: socket.socket) -> float:
        return sum(_pass(client, server, data, buffer) for _ in range(_STREAM // _WRITE))

    data, buffer = bytes(_WRITE), bytearray(_WRITE)
    return _connection(net, family, piece)


def _pass(sender: socket.socket, receiver: socket.socket, data: bytes, buffer: bytearray) -> int:
    sender.sendall(data)
    missing = len(data)
    while missing:
        missing -= receiver.recv_into(buffer, missing)
    return len(data)


def requests(net: Network, family: Family) -> contextlib.AbstractContextManager[Callable[[], float]]:
    """Send a byte there and back in one connection."""

    def piece(client: socket.socket, server: socket.socket) -> float:
        for _ in range(_EXCHANGES):
            client.send(b"?")
            server.recv_into(buffer)
            server.send(b"!")
            client.recv_into(buffer)
        return _EXCHANGES

    buffer = bytearray(1)
    return _connection(net, family, piece)


@contextlib.contextmanager
def _connection(
    net: Network, family: Family, piece: Callable[[socket.socket, socket.socket], float]
) -> Iterator[Callable[[], float]]:
    """Give a piece of work both ends of an established connection."""
    with contextlib.ExitStack() as stack:
        listener, client = (stack.enter_context(_socket(net, end, socket.SOCK_STREAM, family)) for end in (1, 0))
        for each, option in itertools.product((listener, client), (socket.SO_SNDBUF, socket.SO_RCVBUF)):
            each.setsockopt(socket.SOL_SOCKET, option, 4 * _WRITE)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(network.address(2, 2, family)), _PORT))
        listener.listen()
        client.connect(listener.getsockname()[:2])
        server = stack.enter_context(listener.accept()[0])
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield lambda: piece(client, server)


def _socket(net: Network, end: int, kind: socket.SocketKind, family: Family) -> socket.socket:
    with entered(net.routers[end]):
        return socket.socket(family, kind)
