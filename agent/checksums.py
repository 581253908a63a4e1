"""Looks whether what is sent in VXLAN arrives whole, once for the devices there are, and mends it where it does not.

`felix.offload` says what the fault is and how it is found; here is decided when to look: some seconds after one
came, then less and less often until somebody answered, for a node that is alone learns nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from typing import Final

import structlog

from agent.carrier import Carrier
from agent.tunnel_devices import device_of
from bgp.carriage import How, Tunnel
from bgp.config import TunnelType
from felix.offload import Verdict, find_fault
from felix.tunnelmessages import DeviceId, Kind
from inet.prefix import IPAddress

MOST_ASKED: Final = 4
PAUSES_S: Final = (5, 10, 30, 60, 300)

log = structlog.get_logger("tunnels")


class ChecksumKeeper:
    """Does it until cancelled. `verdict` is what is known of the devices that are there."""

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
        self._devices: set[int] = set()  # that `verdict` is about

    async def run(self) -> None:
        """Look until cancelled."""
        looks = 0
        while True:
            await self._sleep(PAUSES_S[min(looks, len(PAUSES_S) - 1)])
            looks = 0 if await self.look() else looks + 1

    async def look(self) -> bool:
        """Look once, where there is something to find out; whether devices are others than before."""
        interfaces = self._carrier.tunnels.interfaces
        devices = {interface for device, interface in interfaces.items() if device.kind is Kind.VXLAN}
        is_new = devices != self._devices
        if is_new:
            self._devices, self.verdict = devices, Verdict.UNKNOWN
        if not devices or self.verdict is not Verdict.UNKNOWN:
            return is_new
        try:
            found = {await self._find(device.name, ends) for device, ends in self._far_ends().items()}
        except OSError as error:
            log.warning("tunnel.checksums_unknown", reason=error.strerror or str(error))
            return is_new
        if Verdict.BROKEN in found:
            self.verdict = Verdict.BROKEN
            self._carrier.tunnels.has_broken_checksums = True
            log.warning("tunnel.checksums_broken", done="left to the processor")
        elif Verdict.WORKS in found:
            self.verdict = Verdict.WORKS
        return is_new

    def _far_ends(self) -> dict[DeviceId, list[IPAddress]]:
        """Return the ends of some tunnels, by their devices: addresses that nodes have there."""
        found: dict[DeviceId, list[IPAddress]] = {}

        def note(far_end: IPAddress, address: IPAddress, tunnel: Tunnel) -> None:
            ends = found.setdefault(device_of(address, tunnel), [])
            if len(ends) < MOST_ASKED:
                ends.append(far_end)

        for (address, tunnel), trial in self._carrier.trials().items():  # may be unanswered for that alone
            if tunnel.type is TunnelType.VXLAN:
                note(ip_address(trial.far_end), address, tunnel)
        for prefix, address in self._carrier.node_paths.next_hops.items():
            carriage, in_force = self._carrier.carriage(address)
            is_tunnelled = carriage.how is How.TUNNEL and not prefix.is_host
            if is_tunnelled and in_force is not None and in_force.type is TunnelType.VXLAN:
                note(ip_address(prefix.packed), address, in_force)
        return found
