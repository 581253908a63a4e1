"""Tunnel devices in memory: all are there as soon as they are wanted, unless a test says otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from felix.tunnelmessages import Device, Kind

INTERFACES: Final = {Kind.VXLAN: 1001, Kind.IPIP: 1002, Kind.IP6TNL: 1003}


class FakeTunnels:
    """See `felix.tunnels.Tunnels`. `break_` and `heal` are what a test does to devices."""

    def __init__(self) -> None:
        self.problems: dict[Kind, str] = {}
        self.repaired = 0
        self.has_broken_checksums = False
        self.devices: dict[Kind, Device] = {}
        self.neighbours: dict[bytes, bytes] = {}
        self._broken: dict[Kind, str] = {}
        self._seen: set[Kind] = set()
        self.left: set[Kind] = set()  # by an agent before this one
        self.packets: dict[Kind, int] = {}  # that came out of devices

    def break_(self, kind: Kind, reason: str) -> None:
        """Have a device not be there from the next look on."""
        self._broken[kind] = reason

    def heal(self, kind: Kind) -> None:
        """Undo `break_`."""
        self._broken.pop(kind, None)

    def interface(self, kind: Kind) -> int | None:
        """Return the ifindex of a device that works."""
        return INTERFACES[kind] if kind in self._seen else None

    async def want(self, devices: Iterable[Device], neighbours: Mapping[bytes, bytes]) -> None:
        """Say which devices should be."""
        self.devices = {device.kind: device for device in devices}
        self.neighbours = dict(neighbours)
        await self.mend()

    async def mend(self, *, thorough: bool = False) -> bool:  # noqa: ARG002 - everything is looked at
        """Look what there is."""
        before = set(self._seen)
        self._seen = {kind for kind in self.devices if kind not in self._broken}
        self.problems = {kind: reason for kind, reason in self._broken.items() if kind in self.devices}
        return before != self._seen

    async def present(self) -> set[Kind]:
        """Return the kinds of devices of ours that there are."""
        return self._seen | self.left

    async def received(self, kind: Kind) -> int:
        """Return how many packets have come out of a device."""
        return self.packets.get(kind, 0)

    def close(self) -> None:
        """Let go of nothing."""
