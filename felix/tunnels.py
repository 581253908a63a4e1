"""The tunnel devices of this node: one for VXLAN, whatever the family, one each for IPv4 in IPv4 and IPv6 in IPv6.

In goes which there should be (`want`), and who lives behind them; `mend` looks what the kernel has and puts right
what differs: a device that is missing, renamed, down, or set up otherwise. Devices have no far end of their own:
next hops bear it (`felix.encap`). VXLAN carries Ethernet, so each far end needs a hardware address besides, which
stands in the neighbour table for good; nothing is learned and nothing asked for.

A link that only has our name, or another's that has our UDP port, is left alone, and said to be in the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Protocol

from felix import links, linkstats, offload, tunnelmessages
from felix.delta import Delta
from felix.netlink import Failure, NetlinkSocket, dump, in_turns
from felix.sysctl import PROC_SYS
from felix.tunnelmessages import DUMP_LINKS, Device, FoundLink, Kind
from inet.prefix import Family

DEVICES: Final = {Kind.VXLAN: "tortie-vxlan", Kind.IPIP: "tortie-ipip", Kind.IP6TNL: "tortie-ip6tnl"}
"""Names of our devices."""

ALIAS: Final = "tortie {}"
"""What stands on a link of ours as its alias, with its kind: so it is known by another name, too."""

_MODULES: Final = {Kind.VXLAN: "vxlan", Kind.IPIP: "ipip", Kind.IP6TNL: "ip6_tunnel"}
_STRICT, _LOOSE = "1", "2"  # rp_filter: what comes out of a tunnel may be from a node that is reached directly


class Tunnels(Protocol):
    """Our tunnel devices. The real ones are `KernelTunnels`, those for tests `felix.faketunnels`."""

    @property
    def problems(self) -> Mapping[Kind, str]:
        """Why a wanted device is not there, for people."""

    has_broken_checksums: bool
    """Whether it was found that the processor has to compute checksums of what is in a tunnel."""

    @property
    def repaired(self) -> int:
        """How often a device was found changed by others."""

    def interface(self, kind: Kind) -> int | None:
        """Return the ifindex of a device that works, as it was last seen."""

    async def want(self, devices: Iterable[Device], neighbours: Mapping[bytes, bytes]) -> None:
        """Say which devices should be, and the hardware address of each far end of VXLAN; all else goes."""

    async def mend(self, *, thorough: bool = False) -> bool:
        """Look what there is and put it right. Return whether a device came, went or became another.

        `thorough` looks at every far end, too: after news of a device of ours, and every few minutes.
        """

    async def present(self) -> set[Kind]:
        """Return the kinds of devices of ours that there are, wanted or not; none where links cannot be read."""

    async def received(self, kind: Kind) -> int:
        """Return how many packets have come out of a device; 0 where there is none."""

    def close(self) -> None:
        """Let go of the kernel; devices stay."""


class KernelTunnels:
    """The devices of the network namespace that this is made in. See `Tunnels`."""

    def __init__(self, proc_sys: Path = PROC_SYS) -> None:
        self.problems: dict[Kind, str] = {}
        self.repaired = 0
        self.has_broken_checksums = False
        self._proc_sys = proc_sys
        self._netlink = NetlinkSocket()
        self._wanted: dict[Kind, Device] = {}
        self._addressed: dict[Kind, tuple[Device, int]] = {}  # for what, and which link, addresses were looked at
        self._interfaces: dict[Kind, int] = {}  # of devices that are as they should be
        self._neighbours: Delta[bytes, bytes] = Delta()
        self._neighbours_of = 0  # the ifindex that `_neighbours.actual` was read from
        self._known: set[Kind] = set()  # kinds that were looked at, and were there then
        self._lock = asyncio.Lock()

    def close(self) -> None:
        """Let go of the kernel; devices stay."""
        self._netlink.close()

    def interface(self, kind: Kind) -> int | None:
        """Return the ifindex of a device that works, as it was last seen."""
        return self._interfaces.get(kind)

    async def want(self, devices: Iterable[Device], neighbours: Mapping[bytes, bytes]) -> None:
        """Say which devices should be, and the hardware address of each far end of VXLAN; all else goes."""
        wanted = {device.kind: device for device in devices}
        for address in self._neighbours.desired.keys() - neighbours.keys():
            self._neighbours.unwant(address)
        known = self._neighbours.desired
        changed = [(address, mac) for address, mac in neighbours.items() if known.get(address) != mac]
        for address, mac in changed:
            self._neighbours.want(address, mac)
        if wanted != self._wanted:
            self._wanted = wanted
            await self.mend()
        else:
            async with self._lock:
                await self._write_neighbours()

    async def mend(self, *, thorough: bool = False) -> bool:
        """Look what there is and put it right. Return whether a device came, went or became another."""
        async with self._lock:
            before = dict(self._interfaces)
            for kind in Kind:
                await self._mend(kind, thorough=thorough)
            if thorough or self._neighbours_of != self._interfaces.get(Kind.VXLAN, 0):
                with contextlib.suppress(OSError):  # then they are written, known or not
                    await self._read_neighbours()
            await self._write_neighbours()
            return before != self._interfaces

    async def present(self) -> set[Kind]:
        """Return the kinds of devices of ours that there are, wanted or not; none where links cannot be read."""
        try:
            rows = await dump(DUMP_LINKS, tunnelmessages.parse_link)
        except OSError:
            return set()
        marks = {(row.kind, row.alias) for row in rows}
        return {kind for kind in Kind if (kind.value, ALIAS.format(kind.value)) in marks}

    async def received(self, kind: Kind) -> int:
        """Return how many packets have come out of a device; 0 where there is none."""
        try:
            counts = (await linkstats.traffic()).get(self._interfaces.get(kind, 0))
        except OSError:
            return 0
        return counts.received_packets if counts else 0

    async def _mend(self, kind: Kind, *, thorough: bool) -> None:
        device = self._wanted.get(kind)
        try:
            found = await self._find(kind)
            if device is None:
                await self._remove(kind, found)
                return
            link = await self._have(device, found)
            if thorough or self._addressed.get(kind) != (device, link.interface) or not link.is_up:
                await self._address(device, link.interface)
                self._addressed[kind] = (device, link.interface)
            await self._configure(device, link)
        except _InTheWayError as error:
            self._set_aside(kind, str(error))
        except OSError as error:
            self._set_aside(kind, await self._explain(kind, device, error))
        else:
            self.problems.pop(kind, None)
            self._known.add(kind)
            self._interfaces[kind] = link.interface

    def _set_aside(self, kind: Kind, reason: str) -> None:
        self._interfaces.pop(kind, None)
        self.problems[kind] = reason

    async def _find(self, kind: Kind) -> FoundLink | None:
        """Return the link of our name, or the one that bears our mark and another name."""
        try:
            data = self._netlink.ask(tunnelmessages.get(DEVICES[kind]))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
        else:
            return tunnelmessages.parse_link(data, 0, len(data))
        if kind not in self._known and kind not in self._wanted:
            return None  # nobody ever needs to look through all links for what was never made
        rows = await dump(DUMP_LINKS, tunnelmessages.parse_link)
        return next((row for row in rows if row.kind == kind.value and row.alias == ALIAS.format(kind.value)), None)

    async def _remove(self, kind: Kind, found: FoundLink | None) -> None:
        self._interfaces.pop(kind, None)
        self.problems.pop(kind, None)
        self._known.discard(kind)
        if found is not None and found.kind == kind.value and found.alias == ALIAS.format(kind.value):
            await self._do(tunnelmessages.delete(found.interface))

    async def _have(self, device: Device, found: FoundLink | None) -> FoundLink:
        """Return the link, made or made anew where it cannot be changed. Raises OSError, _InTheWayError."""
        name = DEVICES[device.kind]
        is_repair = device.kind in self._known
        if found is not None and found.kind != device.kind.value:
            raise _InTheWayError(
                f"there is a link {name} of kind {found.kind or 'device'} that is not Tortie's: rename or remove it"
            )
        if found is not None and not (found.is_external and found.port == device.port):
            await self._do(tunnelmessages.delete(found.interface))
            found = None
        if found is None:
            self.repaired += is_repair
            await self._do(tunnelmessages.create(device, name))
            data = self._netlink.ask(tunnelmessages.get(name))
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

    async def _rename(self, found: FoundLink, name: str) -> None:
        failures = await self._netlink.write([tunnelmessages.rename(found.interface, name)])
        if failures:  # before Linux 6.2 a link must be down for that
            await self._do(tunnelmessages.set_up(found.interface, up=False))
            await self._do(tunnelmessages.rename(found.interface, name))

    async def _configure(self, device: Device, link: FoundLink) -> None:
        """Give a link everything that can be changed; what is right is left alone."""
        interface, mtu, alias = link.interface, dict(device.mtu), ALIAS.format(device.kind.value)
        if link.alias != alias:
            await self._do(tunnelmessages.mark(interface, alias))
        if device.mac and (link.mac != device.mac or not link.is_up):
            self._neighbours_of = 0  # the kernel forgets a link's neighbours with its address, and when it goes down
        if device.mac and link.mac != device.mac:
            await self._do(tunnelmessages.set_mac(interface, device.mac))
        if mtu and link.mtu != max(mtu.values()):
            await self._do(tunnelmessages.set_mtu(interface, max(mtu.values())))
        name = DEVICES[device.kind]
        self._loosen(name)
        if self.has_broken_checksums or offload.is_checksum_broken(os.uname().release):
            with contextlib.suppress(OSError):  # a link that cannot be told
                offload.set_transmit_checksum(name, on=False)
        if not link.is_up:
            await self._do(tunnelmessages.set_up(interface, up=True))
        if Family.IPV6 in mtu:  # the kernel sets it to the link's whenever that changes, or comes up
            self._set("ipv6", name, "mtu", str(mtu[Family.IPV6]))

    async def _address(self, device: Device, interface: int) -> None:
        """Give a link its addresses, and take away others."""
        present = {row.address.packed for row in await links.addresses() if row.interface == interface}
        wanted = set(device.addresses)
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

    async def _explain(self, kind: Kind, device: Device | None, error: OSError) -> str:
        """Say what stands in the way of a device, and what to do."""
        name = DEVICES[kind]
        if error.errno in {errno.EOPNOTSUPP, errno.ENODEV}:
            advice = "" if kind is Kind.VXLAN else ", or set encapsulation.type to VXLAN"
            return f"this kernel cannot make {name}: load the module {_MODULES[kind]}{advice}"
        if error.errno in {errno.EADDRINUSE, errno.EEXIST} and device is not None:
            rows = await dump(DUMP_LINKS, tunnelmessages.parse_link)
            others = [row for row in rows if row.kind == kind.value and row.name != name]
            if kind is Kind.VXLAN:
                others = [row for row in others if row.port == device.port]
                who = f"link {others[0].name} (VNI {others[0].vni})" if others else "another program"
                return f"{name} cannot have UDP port {device.port}: {who} has it; remove it or set encapsulation.port"
            others = [row for row in others if row.is_external]
            if others:
                return f"{name} cannot be: link {others[0].name} takes all packets of kind {kind.value}; remove it"
        return f"{name}: {error.strerror or error}"

    # Neighbours

    async def _read_neighbours(self) -> None:
        interface = self._neighbours_of = self._interfaces.get(Kind.VXLAN, 0)
        present: dict[bytes, bytes] = {}
        for family in Family if interface else ():
            rows = await dump(tunnelmessages.dump_neighbours(family, interface), tunnelmessages.parse_neighbour)
            present |= {address: mac for link, address, mac in rows if link == interface}
        for address in self._neighbours.actual.keys() - present.keys():
            self._neighbours.lost(address)
        for address, mac in present.items():
            if self._neighbours.actual.get(address) != mac:
                self._neighbours.found(address, mac)

    async def _write_neighbours(self) -> None:
        interface = self._interfaces.get(Kind.VXLAN)
        if interface is None:
            return
        async for piece in in_turns(list(self._neighbours.pending)):
            wanted = [(address, self._neighbours.desired.get(address)) for address in piece]
            failures = await self._netlink.write(
                tunnelmessages.put_neighbour(interface, address, mac)
                if mac
                else tunnelmessages.drop_neighbour(interface, address)
                for address, mac in wanted
            )
            refused = {failure.position for failure in failures}
            for position, (address, mac) in enumerate(wanted):
                if position in refused:
                    continue  # the kernel asks for it by itself, through the tunnel
                if mac:
                    self._neighbours.found(address, mac)
                else:
                    self._neighbours.lost(address)

    async def _do(self, request: bytes) -> None:
        if failure := await self._try(request):
            raise OSError(failure.errno, failure.message)

    async def _try(self, request: bytes) -> Failure | None:
        return next(iter(await self._netlink.write([request])), None)


class _InTheWayError(Exception):
    """Someone else's link stands where ours should be."""
