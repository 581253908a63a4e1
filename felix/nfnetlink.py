"""What nf_tables, conntrack and packet logs have in common over netlink (linux/netfilter/nfnetlink.h).

Requests begin with a family and a resource id, numbers in attributes are big-endian, names end in NUL.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Final, Protocol, TypeVar

from felix.netlink import HEADER, NetlinkSocket, attribute, message

Row = TypeVar("Row")

NETLINK_NETFILTER: Final = 12
_DUMP_ATTEMPTS: Final = 5

FAMILY_HEADER: Final = struct.Struct("!BBH")  # nfgenmsg: family, version, resource id
NESTED: Final = 0x8000

_BE32: Final = struct.Struct("!I")


class Subsystem(IntEnum):
    """Upper half of a message's type: NFNL_SUBSYS_*."""

    CONNTRACK = 1
    LOG = 4
    NFTABLES = 10


class NfFamily(IntEnum):
    """Families of requests: NFPROTO_*."""

    UNSPECIFIED = 0
    INET = 1
    IPV4 = 2
    IPV6 = 10


def request(
    subsystem: Subsystem, number: int, flags: int, family: NfFamily, *attributes: bytes, resource: int = 0
) -> bytes:
    """Pack a request: the number of its message within the subsystem, and its attributes."""
    body = FAMILY_HEADER.pack(family, 0, resource) + b"".join(attributes)
    return message(subsystem << 8 | number, flags, body)


BODY: Final = HEADER.size + FAMILY_HEADER.size
"""Where the attributes of a request begin."""


def nested(kind: int, *attributes: bytes) -> bytes:
    """Pack attributes into one."""
    return attribute(kind | NESTED, b"".join(attributes))


def be32(kind: int, value: int) -> bytes:
    """Pack a number of 32 bits, negative ones as the kernel's verdicts are."""
    return attribute(kind, _BE32.pack(value & 0xFFFFFFFF))


def name(kind: int, text: str) -> bytes:
    """Pack a name."""
    return attribute(kind, text.encode() + b"\0")


def read_be32(payload: bytes) -> int:
    """Read a number of 32 bits."""
    value: int = _BE32.unpack(payload)[0]
    return value


def read_name(payload: bytes) -> str:
    """Read a name."""
    return payload.rstrip(b"\0").decode(errors="replace")


class _Closable(Protocol):
    def close(self) -> None: ...


Closable = TypeVar("Closable", bound=_Closable)


@contextlib.contextmanager
def closing_aside(socket: Closable) -> Iterator[Closable]:
    """Close a socket of this protocol at the end, in a thread.

    That may have to wait until the kernel has tidied up after somebody's nf_tables transaction, 25 ms, and the next
    transaction waits with it: not for what is done often.
    """
    try:
        yield socket
    finally:
        asyncio.get_running_loop().run_in_executor(None, socket.close)


class Reader:
    """A socket for answers and dumps, one at a time, in the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket(NETLINK_NETFILTER)

    def close(self) -> None:
        """Close the socket. May wait: see `closing_aside`."""
        self._netlink.close()

    def ask(self, message: bytes) -> bytes:
        """Send a request that is answered by one message; return its body. Raises OSError with the kernel's words."""
        return self._netlink.ask(message)

    async def dump(
        self, message: bytes, parse: Callable[[bytes, int, int], Row | None], *, is_slow: bool = False
    ) -> list[Row]:
        """Send a dump request; return what `parse` makes of each row. See `felix.netlink`. Raises OSError."""
        for _ in range(_DUMP_ATTEMPTS):
            try:
                rows, was_interrupted = await self._netlink.dump(message, parse, is_slow=is_slow)
            except BaseException:  # what is left of it must not be taken for the next one's
                with closing_aside(self._netlink):
                    self._netlink = NetlinkSocket(NETLINK_NETFILTER)
                raise
            if not was_interrupted:
                break
        return rows
