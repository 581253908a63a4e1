"""The links that lead to other nodes, and how large a packet they take.

By name where somebody says which, else by the kernel's own routes: the ways to the other nodes' addresses, all of
them where several share the load; where there is no other node, the default routes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from socket import if_indextoname
from typing import Final, NamedTuple

from felix import routemessages
from felix.devices import Device
from felix.flow import Flow, FlowLookup
from felix.netlink import NetlinkSocket
from inet.prefix import Family

_IPV6_SETTINGS: Final = Path("/proc/sys/net/ipv6/conf")
_ADVERTISED: Final = 9  # RTPROT_RA
_ANYWHERE: Final = (bytes((192, 0, 2, 1)), bytes.fromhex("20010db8" + "00" * 11 + "01"))
"""Addresses that nobody has a route to but the default one (RFC 5737, RFC 3849)."""


class Uplink(NamedTuple):
    """A link and the largest packet that goes out there, in bytes: its own MTU, or less by a route's word."""

    interface: int
    name: str
    mtu: int


def named(devices: Iterable[Device], patterns: Collection[str]) -> list[Uplink]:
    """Return the links, up, whose name matches a pattern."""
    return [
        Uplink(each.interface, each.name, _takes(each))
        for each in devices
        if each.is_up and any(fnmatchcase(each.name, pattern) for pattern in patterns)
    ]


def routed(devices: Iterable[Device], destinations: Sequence[bytes]) -> list[Uplink]:
    """Return the links, among those given, on the way to packed addresses; without any on the default way.

    Asks the kernel once for each address, 10 to 20 µs: for thousands not on the thread of an event loop.
    """
    by_index = {each.interface: each for each in devices}
    smallest: dict[int, int] = {}
    with contextlib.closing(FlowLookup()) as lookup:
        for some in (destinations, _ANYWHERE):
            for destination in some:
                route = lookup.route(Flow(destination))
                for way in route.ways:
                    if (device := by_index.get(way.interface)) is not None and not device.is_loopback:
                        mtu = min(_takes(device), route.mtu or device.mtu)
                        smallest[way.interface] = min(mtu, smallest.get(way.interface, mtu))
            if smallest:
                break
    return [Uplink(index, by_index[index].name, mtu) for index, mtu in sorted(smallest.items())]


def _takes(device: Device) -> int:
    """Return what a link takes: a router may have advertised less for IPv6 than it could (RFC 4861 section 4.6.4)."""
    try:
        return min(device.mtu, int((_IPV6_SETTINGS / device.name / "mtu").read_text(encoding="ascii")))
    except (OSError, ValueError):  # a link without IPv6
        return device.mtu


def advertised() -> set[str]:
    """Return the names of links that have routes from router advertisements (RTPROT_RA). Asks the kernel."""
    found = set()
    with contextlib.closing(NetlinkSocket()) as netlink:
        rows, _ = asyncio.run(netlink.dump(routemessages.dump(Family.IPV6, protocol=_ADVERTISED), routemessages.parse))
    for route in rows:
        if route.protocol == _ADVERTISED:
            for hop in route.hops:
                with contextlib.suppress(OSError):
                    found.add(if_indextoname(hop.interface))
    return found
