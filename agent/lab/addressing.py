"""Choose the addresses of links, the way racks are numbered.

The rule a person can work out from the file: router r (counted in the file from 1) owns 172.16.r.0/24 and
fd16:r::/64, is number 1 there, and node n is number 10 + n. Every port of a router towards a node carries the
router's one address with the node as its point-to-point peer (ports are routed, not bridged: both sides lose
carrier when a cable is cut), so one BGPPeer names the router for every node. Switches (links with more than two
ends) get the subnets after the routers'; every other cable gets a /31 and a /64 of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from agent.lab.topology import Link, Topology
from inet.prefix import Family, IPAddress, family_of

NODE_OFFSET = 10


@dataclass(frozen=True, slots=True)
class PortAddress:
    """An address of a port. With `peer` the link is point-to-point and `length` is that of the peer."""

    local: IPAddress
    length: int
    peer: IPAddress | None = None

    @property
    def family(self) -> Family:
        """The address family."""
        return family_of(self.local)

    def __str__(self) -> str:
        if self.peer is None:
            return f"{self.local}/{self.length}"
        return f"{self.local} peer {self.peer}/{self.length}"


LinkAddresses = Mapping[str, tuple[PortAddress, ...]]
"""Of one link: machine → addresses of its port there."""


def choose(topology: Topology) -> tuple[LinkAddresses, ...]:
    """Return the addresses of every link, in the order of `topology.links`."""
    return tuple(_choose(topology))


def _choose(topology: Topology) -> Iterator[LinkAddresses]:
    router_number = {name: number for number, name in enumerate(topology.routers, 1)}
    node_number = {name: NODE_OFFSET + number for number, name in enumerate(topology.nodes, 1)}
    families = topology.enabled_families
    next_subnet = len(router_number) + 1
    next_cable = 0
    seen: set[frozenset[str]] = set()
    for link in topology.links:
        routers = [end for end in link.ends if end in router_number]
        repeated = frozenset(link.ends) in seen
        seen.add(frozenset(link.ends))
        if link.addresses:
            yield _given(link)
        elif len(link.ends) > 2:
            numbers = {name: number for number, name in enumerate(routers, 1)} | node_number
            yield {end: _in_subnet(next_subnet, numbers[end], families) for end in link.ends}
            next_subnet += 1
        elif len(routers) == 1 and not repeated:
            (router,) = routers
            (node,) = (end for end in link.ends if end != router)
            node_side = _in_subnet(router_number[router], node_number[node], families)
            router_side = _in_subnet(router_number[router], 1, families)
            yield {
                router: tuple(
                    PortAddress(mine.local, mine.family.bits, peer=theirs.local)
                    for mine, theirs in zip(router_side, node_side, strict=True)
                ),
                node: node_side,
            }
        else:
            yield {end: _on_cable(next_cable, side, families) for side, end in enumerate(link.ends)}
            next_cable += 1


def _given(link: Link) -> LinkAddresses:
    return {
        end: tuple(
            PortAddress(ip_address(address), int(length))
            for address, _, length in (text.partition("/") for text in link.addresses.get(end, ()))
        )
        for end in link.ends
    }


def _in_subnet(subnet: int, host: int, families: Sequence[Family]) -> tuple[PortAddress, ...]:
    both = (
        PortAddress(IPv4Address(f"172.{16 + subnet // 256}.{subnet % 256}.{host}"), 24),
        # Decimal digits are written as they are: fd16:1::11 belongs to 172.16.1.11.
        PortAddress(IPv6Address(f"fd16:{subnet}::{host}"), 64),
    )
    return tuple(address for address in both if address.family in families)


def _on_cable(cable: int, side: int, families: Sequence[Family]) -> tuple[PortAddress, ...]:
    both = (
        PortAddress(IPv4Address(f"172.31.{cable // 128}.{2 * (cable % 128) + side}"), 31),
        PortAddress(IPv6Address(f"fd31:{cable}::{1 + side}"), 64),
    )
    return tuple(address for address in both if address.family in families)
