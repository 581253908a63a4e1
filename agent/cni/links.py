"""The host's ends of pods' links, as the CNI side needs them: one Protocol, the real one, and a fake."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Sequence
from typing import Protocol

from felix import podinterfaces
from felix.podinterfaces import LinkGroups, PodLink
from policy.nftskeleton import POD_INTERFACE_GROUP


class PodLinks(Protocol):
    """The links of this network namespace."""

    def find(self, name: str) -> int:
        """Return the ifindex of a link. Raises OSError where there is none."""

    async def mark(self, link: int, alias: str) -> bool:
        """Make a link a pod's in the eyes of the rules, and write on it whose; False: it is gone. Raises OSError."""

    async def settle(self, link: int) -> None:
        """Have the gateway of a link that was just made answer at once, in IPv6 too. Raises OSError."""

    async def marked(self) -> Sequence[PodLink]:
        """Return the links that bear an alias, anybody's, with the addresses behind them. Raises OSError."""

    async def reached(self) -> set[bytes]:
        """Return the packed addresses that a link leads to. Raises OSError."""

    def close(self) -> None:
        """Let go of the kernel; links stay as they are."""


class KernelPodLinks:
    """The real ones."""

    def __init__(self) -> None:
        self._groups = LinkGroups()

    def find(self, name: str) -> int:
        """Return the ifindex of a link."""
        return socket.if_nametoindex(name)

    async def mark(self, link: int, alias: str) -> bool:
        """Put a link into the group of pods' links, and give it an alias unless that is empty."""
        return await self._groups.join(link, POD_INTERFACE_GROUP, alias)

    async def settle(self, link: int) -> None:
        """Have the pod's IPv6 gateway answer without a second of duplicate address detection."""
        await self._groups.settle(link)

    async def marked(self) -> Sequence[PodLink]:
        """Return the links that bear an alias."""
        return await podinterfaces.aliased_links()

    async def reached(self) -> set[bytes]:
        """Return the addresses that have a route of their own."""
        return await podinterfaces.host_route_addresses()

    def close(self) -> None:
        """Close the socket."""
        self._groups.close()


class FakePodLinks:
    """Links in memory: `wire` and `cut` do what ptp does."""

    def __init__(self) -> None:
        self.links: dict[str, PodLink] = {}
        self.error = 0  # errno of every mark
        self.settle_error = 0  # errno of every settling
        self.settled: list[int] = []  # by ifindex, in the order of the calls
        self.lock = asyncio.Lock()  # what marking a link has to wait for

    def wire(self, name: str, *addresses: bytes) -> int:
        """Make a link that leads to addresses; return its ifindex."""
        index = 10 + len(self.links)
        self.links[name] = PodLink(index, 0, "", addresses)
        return index

    def cut(self, name: str) -> None:
        """Take a link away."""
        del self.links[name]

    def find(self, name: str) -> int:
        """Return the ifindex of a link."""
        if name not in self.links:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return self.links[name].interface

    async def mark(self, link: int, alias: str) -> bool:
        """Put a link into the group, with an alias."""
        async with self.lock:
            if self.error:
                raise OSError(self.error, os.strerror(self.error))
            for name, found in self.links.items():
                if found.interface == link:
                    self.links[name] = found._replace(group=POD_INTERFACE_GROUP, alias=alias or found.alias)
                    return True
            return False

    async def settle(self, link: int) -> None:
        """Note it."""
        self.settled.append(link)
        if self.settle_error:
            raise OSError(self.settle_error, os.strerror(self.settle_error))

    async def marked(self) -> Sequence[PodLink]:
        """Return the links that bear an alias."""
        return [link for link in self.links.values() if link.alias]

    async def reached(self) -> set[bytes]:
        """Return the addresses that a link leads to."""
        return {address for link in self.links.values() for address in link.addresses}

    def close(self) -> None:
        """Nothing to let go of."""
