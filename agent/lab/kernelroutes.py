"""The kernel's routes of a machine, read by `ip`, whoever wrote them and however.

Inline next hops and nexthop objects, alone or in groups, come out alike, so that a test asks which ways a prefix
has and not how a daemon says it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agent.lab.lab import Lab
from inet.prefix import Family

_UNUSABLE: Final = frozenset({"dead", "linkdown"})


@dataclass(frozen=True, slots=True)
class Way:
    """One next hop: the gateway, if it is not on the link, and the interface."""

    gateway: str | None
    interface: str


@dataclass(frozen=True, slots=True)
class KernelRoute:
    """A route of the main table. `ways` are those that can be used now: a dead link's are left out."""

    prefix: str
    kind: str  # unicast, blackhole, unreachable
    protocol: str  # a number where `ip` has no name for it: 97
    metric: int
    ways: frozenset[Way]

    @property
    def interfaces(self) -> frozenset[str]:
        """The interfaces of its ways."""
        return frozenset(way.interface for way in self.ways)


async def kernel_routes(lab: Lab, machine: str, prefix: str | None = None) -> Sequence[KernelRoute]:
    """Return the routes of both families, all or those of one prefix. Raises CommandError."""
    *tables, hops = await asyncio.gather(
        *(_ask(lab, machine, f"-{4 if family is Family.IPV4 else 6}", "route", "show") for family in Family),
        _ask(lab, machine, "nexthop", "show"),
    )
    objects = {hop["id"]: hop for hop in hops}
    routes = (_route(family, entry, objects) for family, table in zip(Family, tables, strict=True) for entry in table)
    return [route for route in routes if prefix in {None, route.prefix}]


async def _ask(lab: Lab, machine: str, *words: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(await lab.run(machine, "ip", "-j", *words) or "[]")
    return entries


def _route(family: Family, entry: Mapping[str, Any], objects: Mapping[int, Mapping[str, Any]]) -> KernelRoute:
    destination = entry["dst"]
    if destination == "default":
        destination = "0.0.0.0/0" if family is Family.IPV4 else "::/0"
    kind = entry.get("type", "unicast")
    return KernelRoute(
        prefix=destination if "/" in destination else f"{destination}/{family.bits}",
        kind=kind,
        protocol=entry.get("protocol", "boot"),
        metric=entry.get("metric", 0),
        ways=frozenset(_ways(entry, objects)) if kind == "unicast" else frozenset(),
    )


def _ways(entry: Mapping[str, Any], objects: Mapping[int, Mapping[str, Any]]) -> Iterator[Way]:
    """Yield the usable next hops of a route or nexthop object."""
    if "nhid" in entry and entry["nhid"] in objects:
        # What the object says holds; beside it stands a copy only in nexthop_compat_mode.
        yield from _ways({"id": entry["nhid"], **objects[entry["nhid"]]}, objects)
    elif "group" in entry:
        for member in entry["group"]:
            yield from _ways(objects.get(member["id"], {}), objects)
    elif "nexthops" in entry:
        for hop in entry["nexthops"]:
            yield from _ways(hop, objects)
    elif "dev" in entry and not _UNUSABLE.intersection(entry.get("flags", ())):
        gateway = entry.get("gateway") or entry.get("via", {}).get("host")
        yield Way(gateway, entry["dev"])
