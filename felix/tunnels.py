"""The tunnel devices of this node: one of VXLAN for each family and VNI, one each for IP in IP of the two families.

In goes which there should be (`want`), and who lives behind them; `mend` looks what the kernel has and puts right
what differs: a device that is missing, renamed, down, or set up otherwise. Where packets leave to is said by forwarding
entries of VXLAN devices (`felix.farends`) and, for IP in IP, by next hops (`felix.encap`).

A link that only has our name, or another's that has our UDP port, is left alone, and said to be in the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from felix import links, linkstats, offload, tunnelmessages
from felix.farends import FarEnd, FarEnds
from felix.netlink import Failure, NetlinkSocket, dump
from felix.sysctl import PROC_SYS
from felix.tunnelmessages import DUMP_LINKS, Device, DeviceId, FoundLink, Kind
from inet.prefix import Family

_MODULES: Final = {Kind.VXLAN: "vxlan", Kind.IPIP: "ipip", Kind.IP6TNL: "ip6_tunnel"}
_STRICT, _LOOSE = "1", "2"  # rp_filter: what comes out of a tunnel may be from a node that is reached directly


class Tunnels(Protocol):
    """Our tunnel devices. The real ones are `KernelTunnels`, those for tests `felix.faketunnels`."""

    @property
    def problems(self) -> Mapping[DeviceId, str]:
        """Why a wanted device is not there, for people."""

    has_broken_checksums: bool
    """Whether it was found that the processor has to compute checksums of what is in a tunnel."""

    @property
    def repaired(self) -> int:
        """How often a device was found changed by others."""

    @property
    def interfaces(self) -> Mapping[DeviceId, int]:
        """The ifindexes of the devices that work, as they were last seen."""

    async def want(self, devices: Iterable[Device], far_ends: Mapping[Family, Sequence[FarEnd]]) -> None:
        """Say which devices should be, and who lives behind those of VXLAN, by family; all else goes."""

    async def mend(self, *, thorough: bool = False) -> bool:
        """Look what there is and put it right. Return whether a device came, went or became another.

        `thorough` looks at every far end, too: after news of a device of ours, and every few minutes.
        """

    async def present(self) -> dict[DeviceId, int]:
        """Return the devices of ours that there are, wanted or not, and their ifindexes."""

    async def received(self, device: DeviceId) -> int:
        """Return how many packets have come out of a device; 0 where there is none."""

    def close(self) -> None:
        """Let go of the kernel; devices stay."""


class KernelTunnels:
    """The devices of the network namespace that this is made in. See `Tunnels`."""

    def __init__(self, proc_sys: Path = PROC_SYS) -> None:
        self.problems: dict[DeviceId, str] = {}
        self.interfaces: dict[DeviceId, int] = {}
        self.repaired = 0
        self.has_broken_checksums = False
        self._proc_sys = proc_sys
        self._netlink = NetlinkSocket()
        self._wanted: dict[DeviceId, Device] = {}
        self._addressed: dict[DeviceId, tuple[Device, int]] = {}  # for what, and which link, addresses were looked at
        self._far_ends: dict[DeviceId, FarEnds] = {}  # of each wanted device of VXLAN
        self._known: set[DeviceId] = set()  # which were there at some time
        self._was_read = False  # what an agent before this one left
        self._lock = asyncio.Lock()

    def close(self) -> None:
        """Let go of the kernel; devices stay."""
        self._netlink.close()

    async def want(self, devices: Iterable[Device], far_ends: Mapping[Family, Sequence[FarEnd]]) -> None:
        """Say which devices should be, and who lives behind those of VXLAN, by family; all else goes."""
        wanted = {device.id: device for device in devices}
        vxlan = [device for device in wanted if device.kind is Kind.VXLAN]
        async with self._lock:  # nobody who mends a device finds it gone meanwhile
            self._far_ends = {each: self._far_ends.get(each) or FarEnds(self._netlink, each.family) for each in vxlan}
            for device, known in self._far_ends.items():
                known.want(far_ends.get(device.family, ()))
            if wanted != self._wanted:
                self._wanted = wanted
                await self._mend_all()
            else:
                await self._sync_far_ends()

    async def mend(self, *, thorough: bool = False) -> bool:
        """Look what there is and put it right. Return whether a device came, went or became another."""
        async with self._lock:
            before = dict(self.interfaces)
            await self._mend_all(thorough=thorough)
            return before != self.interfaces

    async def _mend_all(self, *, thorough: bool = False) -> None:
        if thorough or not self._was_read:
            self._known.update(await self.present())
            self._was_read = True
        for device in self._known - self._wanted.keys():  # first: one that goes may hold the port
            await self._mend(device, thorough=thorough)
        for device in self._wanted:
            await self._mend(device, thorough=thorough)
        await self._sync_far_ends(thorough=thorough)

    async def _sync_far_ends(self, *, thorough: bool = False) -> None:
        for device, far_ends in self._far_ends.items():
            if thorough:
                far_ends.doubt()
            if device in self.interfaces:
                await far_ends.sync(self.interfaces[device])

    async def present(self) -> dict[DeviceId, int]:
        """Return the devices of ours that there are, wanted or not, and their ifindexes."""
        try:
            rows = await dump(DUMP_LINKS, tunnelmessages.parse_link)
        except OSError:
            return {}
        return {device: row.interface for row in rows if (device := row.device) is not None}

    async def received(self, device: DeviceId) -> int:
        """Return how many packets have come out of a device; 0 where there is none."""
        try:
            counts = (await linkstats.traffic()).get(self.interfaces.get(device, 0))
        except OSError:
            return 0
        return counts.received_packets if counts else 0

    async def _mend(self, id_: DeviceId, *, thorough: bool) -> None:
        device = self._wanted.get(id_)
        try:
            found = await self._find(id_)
            if device is None:
                await self._remove(id_, found)
                return
            link = await self._have(device, found)
            if thorough or self._addressed.get(id_) != (device, link.interface) or not link.is_up:
                await self._address(device, link.interface)
                self._addressed[id_] = (device, link.interface)
            await self._configure(device, link)
        except _InTheWayError as error:
            self._set_aside(id_, str(error))
        except OSError as error:
            self._set_aside(id_, await self._explain(id_, device, error))
        else:
            self.problems.pop(id_, None)
            self._known.add(id_)
            self.interfaces[id_] = link.interface

    def _set_aside(self, device: DeviceId, reason: str) -> None:
        self.interfaces.pop(device, None)
        self.problems[device] = reason

    async def _find(self, device: DeviceId) -> FoundLink | None:
        """Return the link of our name, or the one that bears our mark and another name."""
        try:
            data = await self._netlink.ask_aside(tunnelmessages.get(device.name))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
        else:
            return tunnelmessages.parse_link(data, 0, len(data))
        rows = await dump(DUMP_LINKS, tunnelmessages.parse_link)
        return next((row for row in rows if row.device == device), None)

    async def _remove(self, device: DeviceId, found: FoundLink | None) -> None:
        self.interfaces.pop(device, None)
        self.problems.pop(device, None)
        if found is not None and found.device == device:
            await self._do(tunnelmessages.delete(found.interface))
        self._known.discard(device)

    async def _have(self, device: Device, found: FoundLink | None) -> FoundLink:
        """Return the link, made or made anew where it cannot be changed. Raises OSError, _InTheWayError."""
        kind, name = device.id.kind, device.id.name
        is_repair = device.id in self._known
        if found is not None and found.kind != kind.value:
            raise _InTheWayError(
                f"there is a link {name} of kind {found.kind or 'device'} that is not Tortie's: rename or remove it"
            )
        if found is not None and not await self._can_stay(device, found):
            await self._do(tunnelmessages.delete(found.interface))
            found = None
        if found is None:
            self.repaired += is_repair
            await self._do(tunnelmessages.create(device))
            data = await self._netlink.ask_aside(tunnelmessages.get(name))
            made = tunnelmessages.parse_link(data, 0, len(data))
            if made is None:
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
            return made
        if found.name != name:
            self.repaired += 1
            await self._rename(found, name)
            return found._replace(name=name, is_up=False)
        self.repaired += is_repair and not found.is_up
        return found

    async def _can_stay(self, device: Device, found: FoundLink) -> bool:
        """Whether a link is what is wanted, or has been made so. The kernel changes the outer source of VXLAN alone."""
        if device.id.kind is not Kind.VXLAN:
            return found.is_external
        if found.is_external or (found.port, found.vni) != (device.port, device.id.vni):
            return False
        if found.local == device.local:
            return True
        if await self._try(tunnelmessages.set_local(found.interface, device)):
            return False  # a source of the other family, for one
        await self._far_ends[device.id].renew(found.interface)
        return True

    async def _rename(self, found: FoundLink, name: str) -> None:
        failures = await self._netlink.write([tunnelmessages.rename(found.interface, name)])
        if failures:  # before Linux 6.2 a link must be down for that
            await self._do(tunnelmessages.set_up(found.interface, up=False))
            await self._do(tunnelmessages.rename(found.interface, name))

    async def _configure(self, device: Device, link: FoundLink) -> None:
        """Give a link everything that can be changed; what is right is left alone."""
        interface, id_ = link.interface, device.id
        if link.alias != id_.alias:
            await self._do(tunnelmessages.mark(interface, id_.alias))
        if device.mac and (link.mac != device.mac or not link.is_up):
            # The kernel forgets a link's neighbours with its address, and when it goes down.
            self._far_ends[id_].doubt()
        if device.mac and link.mac != device.mac:
            await self._do(tunnelmessages.set_mac(interface, device.mac))
        if link.mtu != device.mtu:
            await self._do(tunnelmessages.set_mtu(interface, device.mtu))
        self._loosen(id_.name)
        if self.has_broken_checksums or offload.is_checksum_broken(os.uname().release):
            with contextlib.suppress(OSError):  # a link that cannot be told
                offload.set_transmit_checksum(id_.name, on=False)
        if not link.is_up:
            await self._do(tunnelmessages.set_up(interface, up=True))

    async def _address(self, device: Device, interface: int) -> None:
        """Give a link its address, and take away others."""
        present = {row.address.packed for row in await links.addresses() if row.interface == interface}
        wanted = {device.address} - {b""}
        link_local = {packed for packed in present if packed[:2] == b"\xfe\x80"}
        for packed in sorted(present - wanted - link_local):
            await self._do(tunnelmessages.put_address(interface, packed, is_wanted=False))
        for packed in sorted(wanted - present):
            # Where IPv6 is off there is no place for an address of it, nor for a route that would need one.
            await self._try(tunnelmessages.put_address(interface, packed, is_wanted=True))

    def _loosen(self, name: str) -> None:
        """Have sources checked loosely, or not where nobody checks any: it is a lookup for each packet."""
        if max(self._get("ipv4", each, "rp_filter") for each in ("all", name)) == _STRICT:  # the larger one counts
            self._set("ipv4", name, "rp_filter", _LOOSE)

    def _get(self, family: str, name: str, setting: str) -> str:
        with contextlib.suppress(OSError):  # a family that is off
            return (self._proc_sys / "net" / family / "conf" / name / setting).read_text(encoding="ascii").strip()
        return ""

    def _set(self, family: str, name: str, setting: str, value: str) -> None:
        if self._get(family, name, setting) != value:
            with contextlib.suppress(OSError):  # a family that is off; or what the sysctl report complains of anyway
                (self._proc_sys / "net" / family / "conf" / name / setting).write_text(value, encoding="ascii")

    async def _explain(self, id_: DeviceId, device: Device | None, error: OSError) -> str:
        """Say what stands in the way of a device, and what to do."""
        name = id_.name
        if error.errno in {errno.EOPNOTSUPP, errno.ENODEV}:
            advice = "" if id_.kind is Kind.VXLAN else ", or set encapsulation.type to VXLAN"
            return f"this kernel cannot make {name}: load the module {_MODULES[id_.kind]}{advice}"
        if error.errno in {errno.EADDRINUSE, errno.EEXIST} and device is not None:
            rows = await dump(DUMP_LINKS, tunnelmessages.parse_link)
            others = [row for row in rows if row.kind == id_.kind.value and row.device is None]
            if id_.kind is Kind.VXLAN:
                return f"{name} cannot have UDP port {device.port}: {_who_has(device, others)}"
            others = [row for row in others if row.is_external]
            if others:
                return f"{name} cannot be: link {others[0].name} takes all packets of kind {id_.kind.value}; remove it"
        return f"{name}: {error.strerror or error}"

    async def _do(self, request: bytes) -> None:
        if failure := await self._try(request):
            raise OSError(failure.errno, failure.message)

    async def _try(self, request: bytes) -> Failure | None:
        return next(iter(await self._netlink.write([request])), None)


class _InTheWayError(Exception):
    """Someone else's link stands where ours should be."""


def _who_has(device: Device, others: Iterable[FoundLink]) -> str:
    """Say whose the port of a VXLAN device is: links share one if their VNIs differ, and none takes all there are."""
    for other in others:
        if other.port == device.port and (other.is_external or other.vni == device.id.vni):
            vni = "any VNI" if other.is_external else f"VNI {other.vni}"
            return f"link {other.name} ({vni}) has it; remove it or set encapsulation.port"
    return "another program has it; remove it or set encapsulation.port"
