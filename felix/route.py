"""Routes and next hops as the kernel has them.

A `Route` says where packets for a destination go: through a set of next hops that share the load, or nowhere
(blackhole). Next hops are values; which kernel nexthop object carries them is the route table's business.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from felix.encap import Outer
from inet.prefix import Prefix

PROTOCOL = 97
"""rtm_protocol of every route and nexthop object that is ours (`tortie` in rt_protos.d)."""

METRIC = 9700
"""Metric of every route that is ours: behind what an administrator, DHCP or the kernel adds (IPv6: 1024)."""

BACKSTOP_METRIC = METRIC + 1
"""Metric of blackholes behind routes of ours (`felix.backstops`)."""

TRIAL_METRIC = METRIC + 2
"""Metric of routes to the far ends of tunnels that are tried (`felix.trials`)."""


class Kind(enum.IntEnum):
    """rtm_type (linux/rtnetlink.h)."""

    UNICAST = 1
    BLACKHOLE = 6


NO_TUNNEL: Final = Outer(b"")


class NextHop(NamedTuple):
    """One way out. `gateway` is packed, 4 or 16 bytes, or empty for a destination on the link itself."""

    gateway: bytes
    interface: int  # ifindex
    onlink: bool = False  # take the gateway as on the link even if no address says so
    outer: Outer = NO_TUNNEL  # the header that a packet gets besides, on its way through a tunnel device


class Route(NamedTuple):
    """One destination. `next_hops` is sorted, without repetition, and empty only for a blackhole."""

    destination: Prefix
    kind: Kind
    next_hops: tuple[NextHop, ...]


def unicast(destination: Prefix, next_hops: Sequence[NextHop]) -> Route:
    """Return a route through next hops in any order, repeated or not."""
    return Route(destination, Kind.UNICAST, tuple(sorted(set(next_hops))))


def blackhole(destination: Prefix) -> Route:
    """Return a route that drops what no more specific route takes."""
    return Route(destination, Kind.BLACKHOLE, ())


@dataclass(frozen=True, slots=True)
class RouteError:
    """A write that the kernel refused: who, errno, and the kernel's own words where it gave some."""

    destination: Prefix
    errno: int
    message: str
