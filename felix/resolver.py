"""How an address is reached, by the kernel's own routes: what a BGP next hop becomes before it is a kernel next hop.

Answers come from lookups that the kernel makes at once (RTM_GETROUTE), are kept per address, and looked up again by
`refresh` when links, addresses or routes of others change, those that this may be about: a pod that comes or goes
makes a dozen of such events, and a cluster of 5,000 nodes has 10,000 addresses.

Nothing is resolved through routes of our own: that would hold itself up by its own hair (RFC 4271 section 5.1.3 wants
the immediate next hop by the other routes).
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from socket import if_nametoindex
from typing import Final, NamedTuple, Protocol, TypeAlias

from felix import links, nexthops, routemessages
from felix.netlink import NetlinkSocket, dump, in_turns
from felix.nexthops import KernelHop
from felix.route import PROTOCOL, NextHop
from felix.routemessages import KernelRoute
from inet.prefix import Family, IPAddress, Prefix

Target: TypeAlias = tuple[IPAddress, str | None]
"""What is looked up: an address, and the interface it is behind, which a link-local one needs."""

_UNICAST: Final = 1
_LOCAL: Final = 2
_REJECTING: Final = {6: "drops", 7: "rejects", 8: "prohibits"}  # RTN_BLACKHOLE, _UNREACHABLE, _PROHIBIT
_FEW_LINKS: Final = 16
_LINK_LOCAL: Final = Prefix.parse("fe80::/64")
_NO_WAY: Final = {  # how a lookup fails that meets such a route, or none
    errno.EINVAL: "a blackhole route drops packets to it",
    errno.EHOSTUNREACH: "an unreachable route rejects packets to it",
    errno.EACCES: "a prohibit route rejects packets to it",
    errno.ENETUNREACH: "there is no route to it",
}


class Resolution(NamedTuple):
    """How packets for an address leave. Without next hops `reason` says why, for people."""

    next_hops: tuple[NextHop, ...]  # sorted; gateway and link for each way
    is_on_link: bool  # no gateway on the way
    reason: str = ""
    tunnel_cost: int = 0  # where the next hop is a tunnel: what it costs in the decision


@dataclass(slots=True)
class Doubts:
    """What changed in the kernel since addresses were looked up. Links by their ifindex."""

    everything: bool = False
    links: set[int] = field(default_factory=set)  # that changed, or whose addresses did
    addresses: set[IPAddress] = field(default_factory=set)  # with a route of their own that somebody changed


EVERYTHING: Final = Doubts(everything=True)


class Resolver(Protocol):
    """Lookups in the kernel's routes. The real one is `NetlinkResolver`, the one for tests `felix.fakeresolver`."""

    def resolve(self, address: IPAddress, interface: str | None = None) -> Resolution:
        """Return how an address is reached. Does not wait, and remembers the answer."""

    async def refresh(self, doubts: Doubts = EVERYTHING) -> Mapping[Target, Resolution]:
        """Look up again what was resolved before and is in doubt; return how that which changed was reached before."""

    def forget(self, address: IPAddress, interface: str | None = None) -> None:
        """Look an address no more up in `refresh`."""

    def source(self, address: IPAddress, interface: str | None = None) -> IPAddress | None:
        """Return the address of this node that packets to an address bear, None if there is no way to it."""

    async def own_addresses(self) -> frozenset[IPAddress]:
        """Return the addresses of this node, all of them. Raises OSError."""


class NetlinkResolver:
    """The kernel of the network namespace that this is made in. See `Resolver`."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket()
        self._known: dict[Target, Resolution] = {}
        self._fragile: set[Target] = set()  # not reached, or behind a link by its name: any link may change that
        self._used: set[int] = set()  # links that some address was ever reached by
        self._own: frozenset[IPAddress] | None = None  # addresses of this node, until the next doubt about a link

    def close(self) -> None:
        """Let go of the kernel."""
        self._netlink.close()

    def resolve(self, address: IPAddress, interface: str | None = None) -> Resolution:
        """Return how an address is reached. Does not wait, and remembers the answer."""
        target = (address, interface)
        known = self._known.get(target)
        if known is None:
            known = self._look_up(address, interface)
            self._note(target, known)
        return known

    async def refresh(self, doubts: Doubts = EVERYTHING) -> Mapping[Target, Resolution]:
        """Look up again what was resolved before and is in doubt; return how that which changed was reached before."""
        former: dict[Target, Resolution] = {}
        async for piece in in_turns(await self._doubtful(doubts), 128):
            for target in piece:
                resolution = self._look_up(*target)
                known = self._known.get(target)
                if known is not None and resolution != known:
                    former[target] = known
                    self._note(target, resolution)
        return former

    def _note(self, target: Target, resolution: Resolution) -> None:
        self._known[target] = resolution
        self._used.update(hop.interface for hop in resolution.next_hops)
        if resolution.next_hops and target[1] is None:
            self._fragile.discard(target)
        else:
            self._fragile.add(target)

    async def _doubtful(self, doubts: Doubts) -> list[Target]:
        """Return what may be reached in another way by now."""
        former, self._own = self._own, None if doubts.links or doubts.everything else self._own
        if (
            doubts.everything
            or former is None
            or len(doubts.links) > _FEW_LINKS
            or not self._used.isdisjoint(doubts.links)
        ):
            return list(self._known)
        for link in doubts.links:
            if await _leads_on(link):
                return list(self._known)
        addresses = doubts.addresses | (former ^ await self.own_addresses())
        return [*self._fragile, *({(address, None) for address in addresses} & self._known.keys() - self._fragile)]

    def forget(self, address: IPAddress, interface: str | None = None) -> None:
        """Look an address no more up in `refresh`."""
        self._known.pop((address, interface), None)
        self._fragile.discard((address, interface))

    def source(self, address: IPAddress, interface: str | None = None) -> IPAddress | None:
        """Return the address of this node that packets to an address bear, None if there is no way to it."""
        try:
            route = self._ask(address, _index(address, interface), fib_match=False)
        except OSError:
            return None
        return ip_address(route.preferred_source) if route.preferred_source else None

    async def own_addresses(self) -> frozenset[IPAddress]:
        """Return the addresses of this node, all of them. Raises OSError."""
        if self._own is None:
            self._own = frozenset(row.address for row in await links.addresses())
        return self._own

    def _ask(self, address: IPAddress, interface: int, *, fib_match: bool) -> KernelRoute:
        data = self._netlink.ask(routemessages.lookup(address.packed, interface, fib_match=fib_match))
        return routemessages.parse(data, 0, len(data))

    def _look_up(self, address: IPAddress, interface: str | None) -> Resolution:
        if address.is_multicast or address.is_unspecified:
            return _no("it is not an address of a host")
        if address.version == 6 and address.is_link_local and not interface and not _scope(address):
            return _no("a link-local address is reached through an interface only, and none is given")
        try:
            index = _index(address, interface)
        except OSError:
            return _no(f"there is no interface {interface or _scope(address)}")
        try:
            if index and not links.is_up(self._netlink, index):
                return _no(f"the link {interface or _scope(address)} is down")
            route = self._ask(address, index, fib_match=True)
        except OSError as error:
            return _no(_NO_WAY.get(error.errno or 0, error.strerror or str(error)))
        return self._judge(address, route)

    def _judge(self, address: IPAddress, route: KernelRoute) -> Resolution:
        if route.kind == _LOCAL:
            return _no("it is an address of this node")
        if route.kind in _REJECTING:
            return _no(f"the route {route.destination} {_REJECTING[route.kind]} packets to it")
        if route.kind != _UNICAST:
            return _no("it is not an address of a host")
        if route.protocol == PROTOCOL:
            return _no(f"only {route.destination} leads to it, which was learned itself")
        ways = members_of(self._netlink, route.group) if route.group else route.hops
        if not ways:
            return _no(f"the route {route.destination} leads to it over a link that is down")
        hops = {hop if hop.gateway else hop._replace(gateway=address.packed) for hop in ways}
        return Resolution(tuple(sorted(hops)), is_on_link=not any(hop.gateway for hop in ways))


async def _leads_on(link: int) -> bool:
    """Whether routes of others lead over a link to more than single hosts, such as a pod, and its own link."""
    for family in Family:
        try:
            routes = await dump(routemessages.dump(family, table=0, interface=link), routemessages.parse)
        except OSError as error:
            if error.errno == errno.ENODEV:
                continue  # it is gone, and nobody was reached by it
            return True  # nobody knows
        if any(
            route.kind == _UNICAST and route.protocol != PROTOCOL and leads_on(route.destination) for route in routes
        ):
            return True
    return False


def leads_on(destination: Prefix) -> bool:
    """Whether a route to a destination may be one to other addresses than its own."""
    return not destination.is_host and destination != _LINK_LOCAL


def members_of(netlink: NetlinkSocket, number: int) -> tuple[NextHop, ...]:
    """Return the next hops of someone's nexthop object or group; none if it is gone."""
    try:
        data = netlink.ask(nexthops.get(number))
    except OSError:
        return ()
    found = nexthops.parse(data, 0, len(data))
    if isinstance(found, KernelHop):
        return (found.hop,) if found.hop.interface else ()
    return tuple(hop for member in found.members for hop in members_of(netlink, member))


def _no(reason: str) -> Resolution:
    return Resolution((), is_on_link=False, reason=reason)


def _scope(address: IPAddress) -> str | None:
    return address.scope_id if isinstance(address, IPv6Address) else None


def _index(address: IPAddress, interface: str | None) -> int:
    """Return the ifindex of the interface that an address is to be looked for behind, 0 for any."""
    name = interface or _scope(address)
    return if_nametoindex(name) if name else 0
