"""Tracked connections: which there are for some addresses, and their end (linux/netfilter/nfnetlink_conntrack.h).

A connection is told by real addresses, whatever was translated on the way: the client's is the source of the original
direction, the server's, with its port, the source of the reply. That holds for service addresses, node ports with and
without masquerading, and a pod that reaches itself through its own service. The other ends of the two directions are
what packets show while they are translated, and are never looked at here.

To delete an entry cuts the connection only where rules then refuse packets that begin in the middle: for TCP the
kernel would take it up again from either side. A packet that was judged before a new rule took hold may still be on
its way and make its entry a moment later, so who forbids something looks twice.

The kernel's own deletion by filter is no use: for IPv6 it deletes what does not match.
"""

from __future__ import annotations

import errno
from collections.abc import Container, Iterable
from typing import Final, NamedTuple

from felix.netlink import ATTRIBUTE, Failure, NetlinkSocket, attribute, attributes, message
from felix.nfnetlink import (
    FAMILY_HEADER,
    NETLINK_NETFILTER,
    NfFamily,
    Reader,
    Subsystem,
    nested,
    request,
)

_GET: Final = 1  # IPCTNL_MSG_CT_GET
_DELETE: Final = 2

_TUPLE_ORIGINAL: Final = 1
_TUPLE_REPLY: Final = 2
_ID: Final = 12
_ZONE: Final = 18

_TUPLE_PROTOCOL: Final = 2
_PROTOCOL_NUMBER: Final = 1
_PROTOCOL_SOURCE_PORT: Final = 2

_SOURCE: Final = 3 * ATTRIBUTE.size  # of the source address within a tuple: behind its, the addresses', its own header
_ADDRESS_BYTES: Final[dict[int, int]] = {NfFamily.IPV4: 4, NfFamily.IPV6: 16}


class Flow(NamedTuple):
    """A tracked connection. Addresses are packed."""

    client: bytes
    server: bytes
    protocol: int
    port: int | None  # the server's; None where the protocol has none
    entry: bytes  # what names it to the kernel


class Conntrack:
    """The tracked connections of the network namespace that this is made in. For one task at a time.

    Its sockets are kept: when one of this protocol is closed, whoever writes to nf_tables may have to wait until the
    kernel has tidied up after the transaction before, 25 ms.
    """

    def __init__(self) -> None:
        self._reader = Reader()
        self._writer = NetlinkSocket(NETLINK_NETFILTER)

    def close(self) -> None:
        """Close the sockets. May wait."""
        self._reader.close()
        self._writer.close()

    async def flows(self, addresses: Container[bytes]) -> list[Flow]:
        """Return the connections, of both families, whose client or server is among the addresses. Raises OSError."""

        def parse(data: bytes, start: int, end: int) -> Flow | None:
            # Nearly all rows are of others: they are told by two slices. The two tuples come first, in this order.
            size = _ADDRESS_BYTES.get(data[start])
            original = start + FAMILY_HEADER.size
            reply = original + (ATTRIBUTE.unpack_from(data, original)[0] + 3 & ~3)
            if size is None or ATTRIBUTE.unpack_from(data, reply)[1] & 0x3FFF != _TUPLE_REPLY:
                return None
            client = data[original + _SOURCE : original + _SOURCE + size]
            server = data[reply + _SOURCE : reply + _SOURCE + size]
            if client not in addresses and server not in addresses:
                return None
            return _flow(data, start, end, client, server)

        # The kernel walks the table that all network namespaces share, and tells of ours.
        return await self._reader.dump(request(Subsystem.CONNTRACK, _GET, 0, NfFamily.UNSPECIFIED), parse, is_slow=True)

    async def delete(self, doomed: Iterable[Flow]) -> list[Failure]:
        """Delete connections; return what failed, by position. One that has ended meanwhile is no failure."""
        requests = (message(Subsystem.CONNTRACK << 8 | _DELETE, 0, flow.entry) for flow in doomed)
        return [failure for failure in await self._writer.write(requests) if failure.errno != errno.ENOENT]


def _flow(data: bytes, start: int, end: int, client: bytes, server: bytes) -> Flow:
    found = dict(attributes(data, start + FAMILY_HEADER.size, end))
    reply = dict(attributes(found[_TUPLE_REPLY], 0, len(found[_TUPLE_REPLY])))
    protocol = dict(attributes(reply[_TUPLE_PROTOCOL], 0, len(reply[_TUPLE_PROTOCOL])))
    port = protocol.get(_PROTOCOL_SOURCE_PORT)
    entry = FAMILY_HEADER.pack(data[start], 0, 0) + nested(_TUPLE_ORIGINAL, found[_TUPLE_ORIGINAL])
    entry += b"".join(attribute(kind, found[kind]) for kind in (_ID, _ZONE) if kind in found)
    return Flow(client, server, protocol[_PROTOCOL_NUMBER][0], None if port is None else int.from_bytes(port), entry)
