"""What both kernel route tables share: their socket, and the routes of others."""

from __future__ import annotations

from collections.abc import Container

from felix import routemessages
from felix.netlink import NetlinkSocket, dump
from felix.route import PROTOCOL
from felix.routemessages import MAIN_TABLE, KernelRoute
from felix.routetable import DropRoute, PutRoute, Rival
from inet.prefix import Family, Prefix


class KernelRoutes:
    """The netlink half of a route table."""

    def __init__(self) -> None:
        self.mtus: dict[Prefix, int] = {}
        """Routes with an MTU of their own, as they were last read or written."""
        self._netlink = NetlinkSocket()

    @property
    def port(self) -> int:
        """The port id on notifications of our own writes, for the monitor to leave out."""
        return self._netlink.port

    def close(self) -> None:
        """Let go of the kernel; routes stay."""
        self._netlink.close()

    def _note_mtu(self, change: PutRoute | DropRoute) -> None:
        """Remember what a change that took effect means for a route's MTU."""
        if isinstance(change, PutRoute) and change.mtu:
            self.mtus[change.destination] = change.mtu
        else:
            self.mtus.pop(change.destination, None)

    async def rivals(self, destinations: Container[Prefix]) -> dict[Prefix, Rival]:
        """Return which of the destinations others have routes to, in the main table. Raises OSError."""

        def parse(data: bytes, start: int, end: int) -> KernelRoute | None:
            if data[start + 5] == PROTOCOL:  # rtm_protocol: most rows are ours, and are not taken apart
                return None
            route = routemessages.parse(data, start, end)
            return route if route.table == MAIN_TABLE and route.destination in destinations else None

        found: dict[Prefix, Rival] = {}
        for family in Family:
            for route in await dump(routemessages.dump(family), parse):
                rival = Rival(route.metric, route.protocol)
                found[route.destination] = min(rival, found.get(route.destination, rival))
        return found
