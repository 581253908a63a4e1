"""Raw transactions: a batch of messages that takes effect as a whole or not at all (linux/netfilter/nfnetlink.h).

A batch is one `send`: the kernel takes what comes in one piece as one transaction, so the send buffer is made as
large as the batch needs. Answers are there when `send` returns. The call blocks while someone else holds the kernel's
lock on nf_tables, as long as a large load of theirs takes: it is not for the thread of an event loop.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from felix.netlink import (
    ERROR,
    HEADER,
    SOL_NETLINK,
    Flag,
    Message,
    Status,
    message,
    messages,
    open_socket,
    read_status,
    resize_send_buffer,
)
from felix.nfnetlink import FAMILY_HEADER, NETLINK_NETFILTER, NfFamily, Subsystem, name, request
from felix.nft.elements import Request
from felix.nft.table import Refusal

_BEGIN: Final = message(0x10, 0, FAMILY_HEADER.pack(0, 0, Subsystem.NFTABLES))
_END: Final = message(0x11, 0, FAMILY_HEADER.pack(0, 0, Subsystem.NFTABLES))

_DELCHAIN: Final = 5
_DELRULE: Final = 8
_DELSET: Final = 11
_CHAIN_NAME: Final = 3
_RULE_CHAIN: Final = 2
_SET_NAME: Final = 2
_TABLE: Final = 1  # in all of them

_CAP_ACK: Final = 10
_EXT_ACK: Final = 11
_SEND_BUFFER: Final = 128 * 1024  # to begin with: 4,000 elements
_RECEIVE_BUFFER: Final = 4 * 1024 * 1024
_RECEIVE_BYTES: Final = 64 * 1024
_LAST_SEQUENCE: Final = 0x7FFFFFFF


def removals(table: str, chains: Iterable[str], sets: Iterable[str]) -> Iterator[Request]:
    """Pack the removal of chains and sets. Chains lose their rules first: so none is in use by another."""
    chains = list(chains)
    head = name(_TABLE, table)
    for chain in chains:
        yield _request(_DELRULE, chain, head, name(_RULE_CHAIN, chain))
    for each in sets:
        yield _request(_DELSET, each, head, name(_SET_NAME, each))
    for chain in chains:
        yield _request(_DELCHAIN, chain, head, name(_CHAIN_NAME, chain))


def _request(number: int, subject: str, *attributes: bytes) -> Request:
    return Request(request(Subsystem.NFTABLES, number, 0, NfFamily.INET, *attributes), subject)


class BatchSocket:
    """A socket for raw transactions, in the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        self._socket = open_socket(_RECEIVE_BUFFER, NETLINK_NETFILTER)
        for option in (_CAP_ACK, _EXT_ACK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        self._socket.bind((0, 0))
        self._sequence = 0
        self._room = 0
        self._make_room(_SEND_BUFFER)

    @property
    def port(self) -> int:
        """The port id that the kernel stamps on notifications of what was written through this socket."""
        port: int = self._socket.getsockname()[0]
        return port

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def write(self, requests: Sequence[Request]) -> list[Refusal]:
        """Let the kernel do all of it, or nothing and say why not. There is at least one request."""
        if self._sequence + len(requests) + 2 > _LAST_SEQUENCE:
            self._sequence = 0
        begin = self._sequence + 1
        self._sequence = end = begin + len(requests) + 1
        buffer = bytearray()
        for sequence, part in enumerate((_BEGIN, *(each.message for each in requests), _END), begin):
            # An acknowledgement is asked of the last request alone: failures are reported unasked.
            flags = Flag.ACK if sequence == end - 1 else Flag(0)
            offset = len(buffer)
            buffer += part
            length, kind, given, _, _ = HEADER.unpack_from(buffer, offset)
            HEADER.pack_into(buffer, offset, length, kind, given | flags, sequence, 0)
        try:
            self._make_room(len(buffer))
            self._socket.sendto(buffer, (0, 0))
            answers = list(self._answers(begin, end))
        except OSError as error:
            return [Refusal("", error.strerror or str(error))]
        refusals = [
            _refusal(requests, answer.sequence - begin - 1, status) for answer, status in answers if status.errno
        ]
        if not refusals and not answers:
            return [Refusal("", "the kernel did not answer")]
        return refusals

    def _make_room(self, size: int) -> None:
        if size + HEADER.size > self._room:
            self._room = 2 * size
            resize_send_buffer(self._socket, self._room)

    def _answers(self, begin: int, end: int) -> Iterator[tuple[Message, Status]]:
        """Yield everything that the kernel says to a batch: it does not stop at the first fault."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data = self._socket.recv(_RECEIVE_BYTES)
                for answer in messages(data):
                    if answer.kind == ERROR and begin <= answer.sequence <= end:
                        yield answer, read_status(data, answer)


def _refusal(requests: Sequence[Request], position: int, status: Status) -> Refusal:
    """Name what a failure is about: a chain, a set, an element; nothing if it is the transaction as a whole."""
    if not 0 <= position < len(requests):
        return Refusal("", status.message)
    failed = requests[position]
    index = bisect_right(failed.ends, status.offset)
    change = failed.changes[index] if status.offset and index < len(failed.changes) else None
    return Refusal(failed.subject, status.message, str(change or ""), change)
