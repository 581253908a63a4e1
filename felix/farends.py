"""Who lives behind a VXLAN device: a neighbour of each gateway, a forwarding entry of each hardware address.

VXLAN carries Ethernet, and nothing is learned nor asked for: a route leads to a gateway, the neighbour table says which
hardware address that has, and the forwarding database to which node's address packets for it go. All of them are there
for good, and a node that moves is one entry written in place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from felix import tunnelmessages as messages
from felix.delta import Delta
from felix.netlink import NetlinkSocket, dump, in_turns
from inet.prefix import Family


class FarEnd(NamedTuple):
    """Another node, as one family of packets knows it. All of it is packed."""

    gateway: bytes  # where routes lead; its length is that of the outer address
    mac: bytes
    address: bytes  # outer


class FarEnds:
    """The far ends of one device."""

    def __init__(self, netlink: NetlinkSocket, family: Family) -> None:
        self._netlink = netlink
        self._family = family
        self._wanted: Mapping[bytes, FarEnd] = {}  # by gateway
        self._neighbours: Delta[bytes, bytes] = Delta()
        self._entries: Delta[bytes, bytes] = Delta()
        self._read_from = 0  # the ifindex of the link that they were read from

    def want(self, far_ends: Iterable[FarEnd]) -> None:
        """Say which there should be. Those that share a hardware address have the same outer one."""
        former, wanted = self._wanted, {end.gateway: end for end in far_ends}
        gone = [former[gateway] for gateway in former.keys() - wanted.keys()]
        changed = [end for gateway, end in wanted.items() if former.get(gateway) != end]
        self._wanted = wanted
        for end in gone:
            self._neighbours.unwant(end.gateway)
        for end in changed:
            self._neighbours.want(end.gateway, end.mac)
            self._entries.want(end.mac, end.address)
        left = {end.mac for end in gone} | {former[end.gateway].mac for end in changed if end.gateway in former}
        left -= {end.mac for end in changed}  # a node that moves
        for mac in left - {end.mac for end in wanted.values()} if left else ():
            self._entries.unwant(mac)

    def doubt(self) -> None:
        """Have them read again before they are written: the kernel may have forgotten some."""
        self._read_from = 0

    async def sync(self, interface: int) -> None:
        """Write what differs, on the link of this ifindex. What is refused is written again the next time."""
        if interface != self._read_from:
            with contextlib.suppress(OSError):  # then they are written, known or not
                await self._read(interface)
        await self._write(interface, self._neighbours, messages.put_neighbour, messages.drop_neighbour)
        await self._write(interface, self._entries, messages.put_forwarding, messages.drop_forwarding)

    async def renew(self, interface: int) -> None:
        """Write forwarding entries anew: each remembers the outer source that the device had."""
        async for piece in in_turns(list(self._entries.actual.items())):
            requests = []
            for mac, address in piece:
                requests += [messages.drop_forwarding(interface, mac), messages.put_forwarding(interface, mac, address)]
            await self._netlink.write(requests)
        self.doubt()

    async def _read(self, interface: int) -> None:
        rows = await dump(messages.dump_neighbours(self._family, interface), messages.parse_neighbour)
        self._neighbours.found_these({gateway: mac for link, gateway, mac in rows if link == interface})
        rows = await dump(messages.dump_forwarding(interface), messages.parse_forwarding)
        self._entries.found_these({mac: address for link, mac, address in rows if link == interface})
        self._read_from = interface

    async def _write(
        self,
        interface: int,
        rows: Delta[bytes, bytes],
        put: Callable[[int, bytes, bytes], bytes],
        drop: Callable[[int, bytes], bytes],
    ) -> None:
        async for piece in in_turns(list(rows.pending)):
            wanted = [(key, rows.desired.get(key)) for key in piece]
            failures = await self._netlink.write(
                put(interface, key, value) if value else drop(interface, key) for key, value in wanted
            )
            refused = {failure.position for failure in failures}
            for position, (key, value) in enumerate(wanted):
                if position in refused:
                    continue
                if value:
                    rows.found(key, value)
                else:
                    rows.lost(key)
