"""Dropped packets, as rules with `log prefix ... group N` report them (linux/netfilter/nfnetlink_log.h).

Out come counts by who wanted what from whom, at most so many of them and so often. What is too much waits in the
socket's buffer until that is full, and the kernel numbers what it logs, so what was left out is counted too. The
first bound is in the rules: what their `limit` leaves out nobody counts here; their counters do.
"""

from __future__ import annotations

import asyncio
import errno
import struct
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Final, NamedTuple

from felix.netlink import (
    ERROR,
    Flag,
    Message,
    Status,
    attribute,
    attributes,
    messages,
    open_socket,
    read_status,
    readable,
)
from felix.nfnetlink import (
    FAMILY_HEADER,
    NETLINK_NETFILTER,
    NfFamily,
    Subsystem,
    be32,
    read_be32,
    read_name,
    request,
)

INTERVAL_S: Final = 0.25
FLOWS: Final = 1024

_CONFIGURE: Final = 1  # NFULNL_MSG_CONFIG
_PACKET: Final = Subsystem.LOG << 8
_COMMAND: Final = 1  # NFULA_CFG_CMD
_MODE: Final = 2  # NFULA_CFG_MODE: how much of a packet is copied
_TIMEOUT: Final = 4  # NFULA_CFG_TIMEOUT: how long the kernel collects before it sends, in 1/100 s
_FLAGS: Final = 6  # NFULA_CFG_FLAGS
_BIND: Final = b"\1"
_COPY_PACKET: Final = 2
_COPY_BYTES: Final = 128  # every header up to the ports
_NUMBERED: Final = 1  # NFULNL_CFG_F_SEQ

_HEADER: Final = 1  # NFULA_PACKET_HDR
_IN: Final = 4
_PAYLOAD: Final = 9
_PREFIX: Final = 10
_NUMBER: Final = 12

_RECEIVE_BUFFER: Final = 256 * 1024
_RECEIVE_BYTES: Final = 64 * 1024
_DATAGRAMS: Final = 128

_ETHERTYPE_IPV4: Final = 0x0800
_ETHERTYPE_IPV6: Final = 0x86DD
_WITH_PORTS: Final = frozenset({6, 17, 33, 132, 136})  # TCP, UDP, DCCP, SCTP, UDP-Lite
_FRAGMENT: Final = 44
_AUTHENTICATION: Final = 51
_EXTENSIONS: Final = frozenset({0, 43, 60, 135})  # hop-by-hop, routing, destination options, mobility


class Drop(NamedTuple):
    """What was dropped, as far as packets of one kind are alike."""

    prefix: str  # of the rule's log
    source: bytes  # packed; empty where the packet is not of IP
    destination: bytes
    protocol: int
    port: int | None  # destination port; None where there is none, and in fragments behind the first
    interface_in: int  # ifindex; 0: none


class Drops(NamedTuple):
    """Packets by kind, and how many were lost or too different to be counted."""

    counts: Counter[Drop]
    left_out: int


class DropLog:
    """Listens to a group from the moment it is made, in the network namespace of the thread that makes it.

    Raises OSError where that cannot be, as when somebody else listens to the group: only one can.
    """

    def __init__(self, group: int, *, receive_buffer: int = _RECEIVE_BUFFER) -> None:
        self._socket = open_socket(receive_buffer, NETLINK_NETFILTER)
        self._expected = 0  # number of the next packet
        try:
            self._bind(group)
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        """Stop listening. Rules go on logging to nobody."""
        self._socket.close()

    async def batches(self, interval_s: float = INTERVAL_S, *, flows: int = FLOWS) -> AsyncGenerator[Drops, None]:
        """Yield what was dropped, for ever: when there is something, and not more often than every so many seconds.

        Each batch has at most so many kinds of packets.
        """
        while True:
            await readable(self._socket)
            drops = self._drain(flows)
            if drops.counts or drops.left_out:
                yield drops
            await asyncio.sleep(interval_s)

    def _bind(self, group: int) -> None:
        self._socket.bind((0, 0))
        self._socket.sendto(
            request(
                Subsystem.LOG,
                _CONFIGURE,
                Flag.ACK,
                NfFamily.UNSPECIFIED,
                attribute(_COMMAND, _BIND),
                attribute(_MODE, struct.pack("!IBx", _COPY_BYTES, _COPY_PACKET)),
                be32(_TIMEOUT, 10),
                attribute(_FLAGS, struct.pack("!H", _NUMBERED)),
                resource=group,
            ),
            (0, 0),
        )
        status = self._answer()
        if status.errno in {errno.EPERM, errno.EBUSY}:
            raise OSError(status.errno, f"somebody else listens to nflog group {group}, or CAP_NET_ADMIN is missing")
        if status.errno:
            raise OSError(status.errno, f"nflog group {group}: {status.message}")

    def _answer(self) -> Status:
        while True:  # packets may come before it
            data = self._socket.recv(_RECEIVE_BYTES)
            for message in messages(data):
                if message.kind == ERROR:
                    return read_status(data, message)

    def _drain(self, flows: int) -> Drops:
        counts: Counter[Drop] = Counter()
        left_out = 0
        for _ in range(_DATAGRAMS):
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # the numbers will tell how many were lost
                    raise
                continue
            for message in messages(data):
                if message.kind != _PACKET:
                    continue
                number, drop = _read(data, message)
                left_out += (number - self._expected) & 0xFFFFFFFF
                self._expected = number + 1
                if drop in counts or len(counts) < flows:
                    counts[drop] += 1
                else:
                    left_out += 1
        return Drops(counts, left_out)


def _read(data: bytes, message: Message) -> tuple[int, Drop]:
    found = dict(attributes(data, message.start + FAMILY_HEADER.size, message.end))
    ethertype = int.from_bytes(found.get(_HEADER, b"")[:2])
    source, destination, protocol, port = read_packet(ethertype, found.get(_PAYLOAD, b""))
    drop = Drop(
        read_name(found.get(_PREFIX, b"")).strip(),
        source,
        destination,
        protocol,
        port,
        read_be32(found[_IN]) if _IN in found else 0,
    )
    return read_be32(found[_NUMBER]), drop


def read_packet(ethertype: int, packet: bytes) -> tuple[bytes, bytes, int, int | None]:
    """Return source, destination, protocol and destination port of the beginning of a packet, whatever is in it."""
    if ethertype == _ETHERTYPE_IPV4 and len(packet) >= 20:
        is_first = not int.from_bytes(packet[6:8]) & 0x1FFF
        protocol, offset = packet[9], (packet[0] & 0xF) * 4
        source, destination = packet[12:16], packet[16:20]
    elif ethertype == _ETHERTYPE_IPV6 and len(packet) >= 40:
        source, destination = packet[8:24], packet[24:40]
        protocol, offset, is_first = _skip_extensions(packet)
    else:
        return b"", b"", 0, None
    has_port = is_first and protocol in _WITH_PORTS and len(packet) >= offset + 4
    return source, destination, protocol, int.from_bytes(packet[offset + 2 : offset + 4]) if has_port else None


def _skip_extensions(packet: bytes) -> tuple[int, int, bool]:
    """Return the protocol behind the extension headers (RFC 8200 section 4), its offset, and if it begins there."""
    protocol, offset, is_first = packet[6], 40, True
    while is_first and len(packet) >= offset + 8:
        if protocol == _FRAGMENT:
            is_first = not int.from_bytes(packet[offset + 2 : offset + 4]) & 0xFFF8
            length = 8
        elif protocol == _AUTHENTICATION:
            length = (packet[offset + 1] + 2) * 4
        elif protocol in _EXTENSIONS:
            length = (packet[offset + 1] + 1) * 8
        else:
            break
        protocol, offset = packet[offset], offset + length
    return protocol, offset, is_first
