"""Looks whether what is sent in VXLAN arrives whole, once for each device, and mends it where it does not.

`felix.offload` says what the fault is and how it is found; here is decided when to look: some seconds after a device
came, then less and less often until somebody answered, for a node that is alone learns nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from typing import Final

import structlog

from agent.carrier import Carrier
from bgp.carriage import How
from bgp.config import TunnelType
from felix.offload import Verdict, find_fault
from felix.tunnelmessages import Kind
from felix.tunnels import DEVICES
from inet.prefix import Family, IPAddress, family_of

MOST_ASKED: Final = 4
PAUSES_S: Final = (5, 10, 30, 60, 300)

log = structlog.get_logger("tunnels")


class ChecksumKeeper:
    """Does it until cancelled. `verdict` is what is known of the device that is there."""

    def __init__(
        self,
        carrier: Carrier,
        find: Callable[[str, Sequence[IPAddress]], Awaitable[Verdict]] = find_fault,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.verdict = Verdict.UNKNOWN
        self._carrier = carrier
        self._find = find
        self._sleep = sleep
        self._device: int | None = None  # that `verdict` is about

    async def run(self) -> None:
        """Look until cancelled."""
        looks = 0
        while True:
            await self._sleep(PAUSES_S[min(looks, len(PAUSES_S) - 1)])
            looks = 0 if await self.look() else looks + 1

    async def look(self) -> bool:
        """Look once, where there is something to find out; whether the device is another than before."""
        device = self._carrier.tunnels.interface(Kind.VXLAN)
        is_new = device != self._device
        if is_new:
            self._device, self.verdict = device, Verdict.UNKNOWN
        if device is None or self.verdict is not Verdict.UNKNOWN:
            return is_new
        try:
            found = {await self._find(DEVICES[Kind.VXLAN], ends) for ends in self._far_ends().values() if ends}
        except OSError as error:
            log.warning("tunnel.checksums_unknown", reason=error.strerror or str(error))
            return is_new
        if Verdict.BROKEN in found:
            self.verdict = Verdict.BROKEN
            self._carrier.tunnels.has_broken_checksums = True
            log.warning("tunnel.checksums_broken", device=DEVICES[Kind.VXLAN], done="left to the processor")
        elif Verdict.WORKS in found:
            self.verdict = Verdict.WORKS
        return is_new

    def _far_ends(self) -> dict[Family, list[IPAddress]]:
        """Return the ends of some tunnels: addresses that nodes have there."""
        found: dict[Family, list[IPAddress]] = {family: [] for family in Family}
        for (address, tried), trial in self._carrier.trials().items():  # which may not be answered for that alone
            ends = found[family_of(address)]
            if len(ends) < MOST_ASKED and tried.type is TunnelType.VXLAN:
                ends.append(ip_address(trial.far_end))
        for prefix, address in self._carrier.node_paths.next_hops.items():
            ends = found[prefix.family]
            if len(ends) == MOST_ASKED or prefix.is_host:
                continue
            carriage, tunnel = self._carrier.carriage(address)
            if carriage.how is How.TUNNEL and tunnel is not None and tunnel.type is TunnelType.VXLAN:
                ends.append(ip_address(prefix.packed))
        return found
