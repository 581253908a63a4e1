"""Everything of ours in the kernel of one network namespace: found, and removed. For `tortie cleanup` alone.

Ours are routes and nexthop objects of our protocol number, the table `inet tortie`, tunnel devices that bear our
alias, and the mark on the hosts' ends of pods' links, which are a container runtime's and stay. Nothing is known by its
name alone: a device of somebody else that is called like one of ours stays.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from felix import devices, nexthops, routemessages
from felix.devices import Device
from felix.links import DELLINK
from felix.netlink import U32, NetlinkSocket, attribute, dump, message
from felix.nexthops import GROUP_IDS, HOP_IDS, KernelGroup, KernelNextHop
from felix.nfnetlink import NETLINK_NETFILTER, NfFamily, Subsystem, name, request
from felix.nft.batch import BatchSocket
from felix.nft.elements import Request
from felix.nft.table import TABLE
from felix.podinterfaces import LinkGroups
from felix.protocol import protocol_name
from felix.route import PROTOCOL
from felix.routemessages import DELROUTE, MAIN_TABLE, RTMSG, KernelRoute
from felix.tunnelmessages import ALIAS, IFINFOMSG, Kind
from inet.prefix import Family

_GETTABLE: Final = 1
_DELTABLE: Final = 2
_TABLE_NAME: Final = 1
_DST: Final = 1
_PRIORITY: Final = 6
_TABLE: Final = 15
_SCOPE_NOWHERE: Final = 255
_NEXTHOP_IDS: Final = (HOP_IDS, *GROUP_IDS.values())


_GONE: Final = frozenset({errno.ESRCH, errno.ENOENT, errno.ENODEV})

_Row = TypeVar("_Row")


class Trace(NamedTuple):
    """Something of ours: what kind of thing, and which, for people."""

    kind: str  # route, nexthop, table, device, pod link
    name: str


class Remainder(NamedTuple):
    """Something of ours that could not be removed, and why."""

    trace: Trace
    reason: str


@dataclass(frozen=True, slots=True)
class Traces:
    """What there is of ours."""

    routes: tuple[KernelRoute, ...]
    nexthops: tuple[KernelNextHop, ...]  # groups first
    tables: tuple[str, ...]
    devices: tuple[Device, ...]
    pod_links: tuple[Device, ...]

    def list(self) -> list[Trace]:
        """Return it for people, in the order it is removed in."""
        return [
            *map(_of_route, self.routes),
            *map(_of_nexthop, self.nexthops),
            *map(_of_table, self.tables),
            *map(_of_device, self.devices),
            *map(_of_pod_link, self.pod_links),
        ]


async def find(pod_group: int) -> Traces:
    """Return what there is of ours; `pod_group` is the interface group of pods' links. Raises OSError."""
    every = await devices.devices()
    kinds = {kind.value for kind in Kind}
    return Traces(
        routes=tuple([route for family in Family for route in await _routes(family)]),
        nexthops=tuple(await _nexthops()),
        tables=tuple(filter(_has_table, (TABLE,))),
        devices=tuple(each for each in every if each.kind in kinds and each.alias.startswith(ALIAS)),
        pod_links=tuple(each for each in every if each.group == pod_group),
    )


async def remove(traces: Traces) -> list[Remainder]:
    """Remove it; return what is still there. What went by itself meanwhile is no failure. Raises OSError."""
    left: list[Remainder] = []
    with contextlib.closing(NetlinkSocket()) as netlink:
        left += await _write(netlink, traces.routes, _delete_route, _of_route)
        left += await _write(netlink, traces.nexthops, _delete_nexthop, _of_nexthop)
        left += await _write(netlink, traces.devices, _delete_device, _of_device)
    for table in traces.tables:
        left += _remove_table(table)
    with contextlib.closing(LinkGroups()) as groups:
        for link in traces.pod_links:
            try:
                await groups.leave(link.interface, without_alias=link.alias.startswith(ALIAS))
            except OSError as error:
                left.append(Remainder(_of_pod_link(link), error.strerror or str(error)))
    return left


async def _write(
    netlink: NetlinkSocket, rows: Sequence[_Row], pack: Callable[[_Row], bytes], tell: Callable[[_Row], Trace]
) -> list[Remainder]:
    failures = await netlink.write([pack(row) for row in rows])
    return [Remainder(tell(rows[each.position]), each.message) for each in failures if each.errno not in _GONE]


# Routes


async def _routes(family: Family) -> list[KernelRoute]:
    """Return the routes of our protocol in every table; what the kernel makes of them for itself is left out."""
    body = RTMSG.pack(family, 0, 0, 0, 0, PROTOCOL, 0, 0, 0)
    rows = await dump(message(routemessages.GETROUTE, 0, body), routemessages.parse)
    return [row for row in rows if row.protocol == PROTOCOL and not row.flags & routemessages.CLONED]


def _delete_route(route: KernelRoute) -> bytes:
    prefix = route.destination
    body = RTMSG.pack(prefix.family, prefix.length, 0, 0, 0, PROTOCOL, _SCOPE_NOWHERE, 0, 0)
    body += attribute(_DST, prefix.packed) + attribute(_TABLE, U32.pack(route.table))
    body += attribute(_PRIORITY, U32.pack(route.metric))
    return message(DELROUTE, 0, body)


def _of_route(route: KernelRoute) -> Trace:
    table = "" if route.table == MAIN_TABLE else f" table {route.table}"
    return Trace("route", f"{route.destination} metric {route.metric} proto {protocol_name(PROTOCOL)}{table}")


# Nexthop objects


async def _nexthops() -> list[KernelNextHop]:
    """Return ours: by protocol and id, both. Groups come first, since hops in use cannot go unnoticed."""
    try:
        rows: list[KernelNextHop] = await dump(nexthops.DUMP, nexthops.parse)
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.EINVAL}:  # a kernel without
            return []
        raise
    ours = [row for row in rows if row.protocol == PROTOCOL and any(row.id in ids for ids in _NEXTHOP_IDS)]
    return sorted(ours, key=lambda row: (not isinstance(row, KernelGroup), row.id))


def _delete_nexthop(row: KernelNextHop) -> bytes:
    return nexthops.delete(row.id)


def _of_nexthop(row: KernelNextHop) -> Trace:
    return Trace("nexthop group" if isinstance(row, KernelGroup) else "nexthop", f"id {row.id}")


# The table


def _has_table(table: str) -> bool:
    with contextlib.closing(NetlinkSocket(NETLINK_NETFILTER)) as netlink:
        try:
            netlink.ask(request(Subsystem.NFTABLES, _GETTABLE, 0, NfFamily.INET, name(_TABLE_NAME, table)))
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP}:  # no such table, or no tables at all
                return False
            raise
    return True


def _remove_table(table: str) -> list[Remainder]:
    with contextlib.closing(BatchSocket()) as batch:
        wanted = request(Subsystem.NFTABLES, _DELTABLE, 0, NfFamily.INET, name(_TABLE_NAME, table))
        refusals = batch.write([Request(wanted, "")])
    return [Remainder(_of_table(table), refusal.message) for refusal in refusals]


def _of_table(table: str) -> Trace:
    return Trace("table", f"inet {table}")


# Links


def _delete_device(device: Device) -> bytes:
    return message(DELLINK, 0, IFINFOMSG.pack(0, 0, 0, device.interface, 0, 0))


def _of_device(device: Device) -> Trace:
    return Trace("device", f"{device.name} ({device.kind})")


def _of_pod_link(device: Device) -> Trace:
    return Trace("mark of a pod's link", f"{device.name} group {device.group}")
