"""What others do to our table: `nft flush ruleset`, a rule added by hand, a table put to sleep.

Out comes one event for each transaction of somebody else that touched the table; what to do about it is `sync`'s to
find out. The kernel tells of every transaction of everybody: what it did, and then, as its end, which thread of whom
it was (NFNLGRP_NFTABLES, NFT_MSG_NEWGEN). Our own are known by their port id, where we have one and a socket filter
drops them unseen, and by the name of the thread where libnftables made its own socket. Those of others to other
tables cost a glance at a buffer.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from felix.netlink import HEADER, SOL_NETLINK, Message, attributes, leave_out, messages, open_socket, readable
from felix.nfnetlink import FAMILY_HEADER, NETLINK_NETFILTER, NfFamily, Subsystem, name, read_be32, read_name
from felix.nft.table import TABLE

_ADD_MEMBERSHIP: Final = 1
_NFTABLES_GROUP: Final = 7  # NFNLGRP_NFTABLES

_NEWGEN: Final = Subsystem.NFTABLES << 8 | 15
_NEWGEN_BYTES: Final = struct.pack("=H", _NEWGEN)
_GENERATION_PROCESS: Final = 2  # NFTA_GEN_PROC_PID
_GENERATION_NAME: Final = 3  # NFTA_GEN_PROC_NAME

_OURS: Final = name(1, TABLE)[: 4 + len(TABLE) + 1]  # the name of the table is the first attribute of every message

_RECEIVE_BUFFER: Final = 16 * 1024 * 1024  # the events of 5,000 chains
_RECEIVE_BYTES: Final = 64 * 1024
_BATCH: Final = 512


@dataclass(frozen=True, slots=True)
class TableChanged:
    """Someone changed our table. Name and id of the thread that did it, as the first PID namespace counts."""

    by: str
    process: int


@dataclass(frozen=True, slots=True)
class Overflow:
    """News was lost: the table may have been changed."""


Event: TypeAlias = TableChanged | Overflow


class TableMonitor:
    """Listens from the moment it is made, in the network namespace of the thread that makes it."""

    def __init__(self, own_port: int, own_writer: str, *, receive_buffer: int = _RECEIVE_BUFFER) -> None:
        self._own_port = own_port
        self._own_writer = own_writer
        self._receive_buffer = receive_buffer
        self._touched: set[int] = set()  # port ids of those whose transaction is not at its end yet
        self._is_lossy = False
        self._socket = self._listen()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield news for ever; what comes in together, only once. Raises OSError only if no socket can be opened."""
        while True:
            await (asyncio.sleep(0) if self._is_lossy else readable(self._socket))
            for event in dict.fromkeys(self._drain()):
                yield event

    def _listen(self) -> socket.socket:
        netlink = open_socket(self._receive_buffer, NETLINK_NETFILTER)
        leave_out(netlink, self._own_port)
        netlink.bind((0, 0))
        netlink.setsockopt(SOL_NETLINK, _ADD_MEMBERSHIP, _NFTABLES_GROUP)
        return netlink

    def _drain(self) -> Iterator[Event]:
        """Read what there is.

        A socket that has lost something hears nothing more, and says nothing of that, until it is empty. So that is
        when the loss is told: everything after it will be heard.
        """
        for _ in range(_BATCH):
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                if self._is_lossy:
                    self._is_lossy = False
                    yield Overflow()
                return
            except OSError as error:
                self._is_lossy = True
                self._touched.clear()
                if error.errno != errno.ENOBUFS:
                    self._socket.close()
                    self._socket = self._listen()
                continue
            if not self._is_lossy and (_OURS in data or _NEWGEN_BYTES in data):
                for news in messages(data):
                    yield from self._read(data, news)

    def _read(self, data: bytes, news: Message) -> Iterator[Event]:
        port = HEADER.unpack_from(data, news.start - HEADER.size)[4]
        attributes_start = news.start + FAMILY_HEADER.size
        if news.kind == _NEWGEN:
            if port in self._touched:
                self._touched.discard(port)
                found = dict(attributes(data, attributes_start, news.end))
                writer = read_name(found.get(_GENERATION_NAME, b""))
                if writer != self._own_writer:
                    yield TableChanged(writer, read_be32(found.get(_GENERATION_PROCESS, bytes(4))))
        elif data[news.start] == NfFamily.INET and data.startswith(_OURS, attributes_start):
            self._touched.add(port)
