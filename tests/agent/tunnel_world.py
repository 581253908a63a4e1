"""Node n1 among nodes with tunnels: what its routes and devices are to be called, and its next agent's life."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bgp.carriage import hardware_address
from bgp.config import Encapsulation, EncapsulationMode, TunnelType
from felix.encap import Outer
from felix.faketunnels import interface_of
from felix.resolver import Resolution
from felix.route import NextHop
from felix.tunnelmessages import DeviceId, Kind
from inet.prefix import Family
from tests.agent.routing_world import World, running

FALLBACK = Encapsulation(EncapsulationMode.FALLBACK)
ALWAYS = Encapsulation(EncapsulationMode.ALWAYS)
IPIP = Encapsulation(EncapsulationMode.ALWAYS, TunnelType.IPIP)
ROUTER = 9


@asynccontextmanager
async def tunnel_world(family: Family) -> AsyncIterator[World]:
    """Node n2 is on the link, node n3 behind a router that has no address in the world."""
    world = World(family)
    world.resolver.addresses.add(world.host(1))
    world.resolver.answers[world.host(3), None] = Resolution((world.hop(ROUTER),), is_on_link=False)
    async with running(world):
        yield world


def following(world: World) -> World:
    """Return the same node's next agent."""
    again = World(world.family, world.table)
    again.resolver.answers |= world.resolver.answers
    again.resolver.addresses |= world.resolver.addresses
    again.tunnels.left = set(world.tunnels.interfaces)
    return again


def device(world: World, type_: TunnelType = TunnelType.VXLAN, vni: int = 4096) -> DeviceId:
    """The device for a type of tunnels."""
    if type_ is TunnelType.VXLAN:
        return DeviceId(Kind.VXLAN, world.family, vni)
    return DeviceId(Kind.IPIP if world.family is Family.IPV4 else Kind.IP6TNL, world.family)


def tunnel(world: World, number: int, type_: TunnelType = TunnelType.VXLAN, vni: int = 4096) -> NextHop:
    """The next hop that leads to a node through a tunnel."""
    hop = NextHop(gateway(world, number), interface_of(device(world, type_, vni)), onlink=True)
    if type_ is TunnelType.VXLAN:
        return hop
    return hop._replace(outer=Outer(world.host(number).packed, world.host(1).packed))


def gateway(world: World, number: int) -> bytes:
    """A node's address on tunnel devices: its own, or for IPv6 the link-local one made of its hardware address."""
    if world.family is Family.IPV4:
        return world.host(number).packed
    mac = hardware_address(f"n{number}")
    return b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]


def way(world: World, number: int) -> tuple[NextHop, ...] | None:
    """The next hops of a node's pods in the kernel."""
    return world.kernel().get(world.cidr(number))
