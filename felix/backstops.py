"""Blackholes behind routes: what drops packets for a destination while its own route is not there.

A destination that must be reached in a tunnel must not be reached by the default route instead, unencapsulated, on a
network that may not know it: not before the tunnel is up, nor while somebody's hand has removed its device and all
routes with it. So each such destination has a second route, with the next metric, that drops. The kernel has it in
place the moment the first one goes; nobody has to be quick.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from felix import routemessages
from felix.delta import Delta
from felix.netlink import NetlinkSocket, dump, in_turns
from felix.route import BACKSTOP_METRIC, PROTOCOL, Kind
from felix.routemessages import MAIN_TABLE
from inet.prefix import Family, Prefix


class Backstops(Protocol):
    """Blackholes behind routes. The real ones are `KernelBackstops`, those for tests `FakeBackstops`."""

    @property
    def problem(self) -> str:
        """Why some are not in the kernel, for people."""

    async def want(self, destinations: Iterable[Prefix]) -> None:
        """Say which destinations have one; all others go. They are there when this returns."""

    async def mend(self) -> None:
        """Look what the kernel has and put it right."""

    def close(self) -> None:
        """Let go of the kernel; routes stay."""


class KernelBackstops:
    """Those of the network namespace that this is made in. See `Backstops`."""

    def __init__(self) -> None:
        self.problem = ""
        self._netlink = NetlinkSocket()
        self._routes: Delta[Prefix, Kind] = Delta()
        self._was_read = False

    def close(self) -> None:
        """Let go of the kernel; routes stay."""
        self._netlink.close()

    async def want(self, destinations: Iterable[Prefix]) -> None:
        """Say which destinations have one; all others go. They are there when this returns."""
        wanted = set(destinations)
        for destination in self._routes.desired.keys() - wanted:
            self._routes.unwant(destination)
        for destination in wanted - self._routes.desired.keys():
            self._routes.want(destination, Kind.BLACKHOLE)
        if self._was_read:
            await self._write()
        else:
            await self.mend()

    async def mend(self) -> None:
        """Look what the kernel has and put it right."""
        try:
            await self._read()
        except OSError as error:
            self.problem = f"routes cannot be read: {error.strerror or error}"
            return
        await self._write()

    async def _read(self) -> None:
        present: set[Prefix] = set()
        for family in Family:
            async for piece in in_turns(await dump(routemessages.dump(family, protocol=PROTOCOL), _parse)):
                present.update(piece)
        self._was_read = True
        for destination in self._routes.actual.keys() - present:
            self._routes.lost(destination)
        for destination in present - self._routes.actual.keys():
            self._routes.found(destination, Kind.BLACKHOLE)

    async def _write(self) -> None:
        self.problem = ""
        async for piece in in_turns(list(self._routes.pending)):
            wanted = [destination in self._routes.desired for destination in piece]
            failures = await self._netlink.write(
                routemessages.put_backstop(destination) if is_wanted else routemessages.delete_backstop(destination)
                for destination, is_wanted in zip(piece, wanted, strict=True)
            )
            refused = {failure.position: failure for failure in failures}
            for position, (destination, is_wanted) in enumerate(zip(piece, wanted, strict=True)):
                if is_wanted and (failure := refused.get(position)) is not None:
                    self.problem = f"{destination}: {failure.message}"
                elif is_wanted:
                    self._routes.found(destination, Kind.BLACKHOLE)
                else:
                    self._routes.lost(destination)


class FakeBackstops:
    """Blackholes in memory."""

    def __init__(self) -> None:
        self.problem = ""
        self.destinations: set[Prefix] = set()

    async def want(self, destinations: Iterable[Prefix]) -> None:
        """Say which destinations have one."""
        self.destinations = set(destinations)

    async def mend(self) -> None:
        """Find all in order."""

    def close(self) -> None:
        """Let go of nothing."""


def _parse(data: bytes, start: int, end: int) -> Prefix | None:
    route = routemessages.parse(data, start, end)
    is_one = route.protocol == PROTOCOL and route.table == MAIN_TABLE and route.metric == BACKSTOP_METRIC
    return route.destination if is_one and route.kind == Kind.BLACKHOLE else None
