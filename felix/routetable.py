"""The kernel's routes of our protocol number, both families, behind one Protocol.

Routes lead to groups of next hops; a group is edited in place, and every route behind it follows. `felix.objecttable`
keeps groups as kernel nexthop objects, `felix.inlinetable` writes the hops into each route where the kernel has no
such objects, `felix.faketable` is a dictionary that fails on demand. One contract holds for all three
(tests/felix/test_routetable.py).
"""

from __future__ import annotations

import enum
from collections.abc import Container, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

from felix.route import NextHop
from inet.prefix import Family, Prefix

BLACKHOLE: Final = -1
"""Where a route leads that drops packets, in place of a group."""

UNKNOWN: Final = 0
"""Where a route of ours leads that we did not write like this, in place of a group."""

UNKNOWN_HOP: Final = NextHop(b"", 0)
"""In a group's content: a member that we did not write like this."""


class Form(enum.Enum):
    """What a group is in the kernel, and stays."""

    SINGLE = "single"  # one next hop, in place of which there can only be another one: no packet chooses
    HASHED = "hashed"  # any number of next hops; each flow takes one of them by its hash
    RESILIENT = "resilient"  # the same, but flows keep their next hop when the group gets another one


class Group(NamedTuple):
    """What a group holds: next hops, sorted, for routes of one family."""

    family: Family
    next_hops: tuple[NextHop, ...]
    form: Form = Form.HASHED


class PutGroup(NamedTuple):
    """Create a group, or give an existing one other next hops in place. `next_hops` is sorted and not empty."""

    group: int
    family: Family
    next_hops: tuple[NextHop, ...]
    is_new: bool
    form: Form = Form.HASHED


class DropGroup(NamedTuple):
    """Delete a group, with every route that still leads to it."""

    group: int


class PutRoute(NamedTuple):
    """Add a route, or make ours lead elsewhere: to a group or to BLACKHOLE."""

    destination: Prefix
    group: int
    is_new: bool
    mtu: int = 0  # the largest packet that gets through, in bytes; 0: as large as the links say


class DropRoute(NamedTuple):
    """Delete our route to a destination."""

    destination: Prefix


Change: TypeAlias = PutGroup | DropGroup | PutRoute | DropRoute


class Refusal(NamedTuple):
    """A change that the kernel refused, by its position in what was written.

    `next_hop` names the hop that a PutGroup failed for; there is one Refusal for each such hop, and the same
    change without them may succeed.

    | errno | change | means |
    |---|---|---|
    | EEXIST | PutRoute, is_new | there is a route with this destination and metric, ours or not |
    | ENOENT | PutRoute, PutGroup, not is_new | it is gone from the kernel, a group together with its routes |
    | EEXIST | PutGroup, is_new | the id is taken |
    | ENETDOWN | PutGroup | the link of `next_hop` is down |

    Deleting what is not there is not an error.
    """

    position: int
    errno: int
    message: str
    next_hop: NextHop | None = None


class Rival(NamedTuple):
    """A route of someone else to a destination that is also ours, the one with the lowest metric."""

    metric: int
    protocol: int


class RouteTable(Protocol):
    """The kernel's routes of our protocol number and metric, and the groups they lead to."""

    mtus: dict[Prefix, int]
    """Routes with an MTU of their own, as they were last read or written."""

    @property
    def has_nexthop_objects(self) -> bool:
        """Whether groups are kernel objects, so that editing one is one write and the kernel drops dead hops itself."""

    async def can_be_resilient(self) -> bool:
        """Return whether the kernel knows resilient groups. Raises OSError."""

    def new_group(self, family: Family) -> int:
        """Return an id for a group that is yet to be created. Each call returns another one."""

    async def dump_routes(self) -> dict[Prefix, int]:
        """Return our routes and the group each leads to, BLACKHOLE or UNKNOWN. Raises OSError."""

    async def dump_groups(self) -> dict[int, Group]:
        """Return our groups with the next hops that the kernel still has in them. Raises OSError.

        Cheap, whatever the number of routes. Without nexthop objects it says what the last `dump_routes` found.
        """

    async def rivals(self, destinations: Container[Prefix]) -> dict[Prefix, Rival]:
        """Return which of the destinations others have routes to, in the main table. Raises OSError."""

    async def write(self, changes: Sequence[Change]) -> list[Refusal]:
        """Apply in order, with as few system calls as possible. Refused ones come back; the others are done."""

    async def tidy(self) -> None:
        """Remove what only groups used that are gone or hold other next hops now."""

    def close(self) -> None:
        """Let go of the kernel; routes stay."""
