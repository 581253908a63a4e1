"""Which address of this node each peer is spoken to from: the one that the kernel chose, as long as the node has it.

A link that flaps, or another way to a peer, must not end the session on the address that it began with.
"""

from __future__ import annotations

from typing import Protocol

import structlog

from bgp.config import BgpConfig, Node
from bgp.path import PeerKey
from inet.prefix import IPAddress

log = structlog.get_logger("routing")


class Addresses(Protocol):
    """What the kernel is asked."""

    async def own_addresses(self) -> frozenset[IPAddress]:
        """Return the addresses of this node. Raises OSError."""

    def source(self, address: IPAddress) -> IPAddress | None:
        """Return the address that packets to another bear, None if there is no way to it."""


class LocalAddresses:
    """The choice for every peer that is known by its address."""

    def __init__(self, kernel: Addresses) -> None:
        self.by_peer: dict[PeerKey, IPAddress] = {}
        self._kernel = kernel

    async def look(self, config: BgpConfig, node: Node) -> bool:
        """Ask the kernel where the choice does not hold, or was never made; return whether any is another now."""
        try:
            own = await self._kernel.own_addresses()
        except OSError as error:
            log.warning("kernel.unreadable", reason=str(error))
            return False
        before = dict(self.by_peer)
        for peering in config.peerings:
            peer = peering.address
            if peer is None or node.name not in peering.nodes or self.by_peer.get(peer) in own:
                continue
            found = self._kernel.source(peer)
            if found is not None:
                self.by_peer[peer] = found
        return self.by_peer != before
