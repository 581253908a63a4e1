"""Tunnel devices in memory: all are there as soon as they are wanted, unless a test says otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from felix.farends import FarEnd
from felix.tunnelmessages import Device, DeviceId
from inet.prefix import Family


class FakeTunnels:
    """See `felix.tunnels.Tunnels`. `break_` and `heal` are what a test does to devices."""

    def __init__(self) -> None:
        self.problems: dict[DeviceId, str] = {}
        self.interfaces: dict[DeviceId, int] = {}
        self.repaired = 0
        self.has_broken_checksums = False
        self.devices: dict[DeviceId, Device] = {}
        self.far_ends: list[FarEnd] = []
        self._broken: dict[DeviceId, str] = {}
        self.left: set[DeviceId] = set()  # by an agent before this one
        self.packets: dict[DeviceId, int] = {}  # that came out of devices

    def break_(self, device: DeviceId, reason: str) -> None:
        """Have a device not be there from the next look on."""
        self._broken[device] = reason

    def heal(self, device: DeviceId) -> None:
        """Undo `break_`."""
        self._broken.pop(device, None)

    async def want(self, devices: Iterable[Device], far_ends: Mapping[Family, Sequence[FarEnd]]) -> None:
        """Say which devices should be."""
        self.devices = {device.id: device for device in devices}
        self.far_ends = [end for family in far_ends.values() for end in family]
        await self.mend()

    async def mend(self, *, thorough: bool = False) -> bool:  # noqa: ARG002 - everything is looked at
        """Look what there is."""
        before = self.interfaces
        self.interfaces = {device: interface_of(device) for device in self.devices if device not in self._broken}
        self.problems = {device: reason for device, reason in self._broken.items() if device in self.devices}
        return before != self.interfaces

    async def present(self) -> dict[DeviceId, int]:
        """Return the devices of ours that there are, and their ifindexes."""
        return {device: interface_of(device) for device in {*self.interfaces, *self.left}}

    async def received(self, device: DeviceId) -> int:
        """Return how many packets have come out of a device."""
        return self.packets.get(device, 0)

    def close(self) -> None:
        """Let go of nothing."""


def interface_of(device: DeviceId) -> int:
    """Return the ifindex that a device has here."""
    return 1000 + list(type(device.kind)).index(device.kind) * 10 + device.family + device.vni * 100
