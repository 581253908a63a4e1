"""What tunnels are in this node's kernel: which device carries which, and the next hop through it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final, NamedTuple

from bgp.carriage import OVERHEAD, Tunnel, hardware_address
from bgp.config import TunnelType
from bgp.switchover import Medium, medium_of
from felix.encap import Outer
from felix.route import NextHop
from felix.tunnelmessages import Device, Kind
from inet.prefix import Family, IPAddress, Prefix

KINDS: Final = {
    Medium(TunnelType.VXLAN, Family.IPV4): Kind.VXLAN,
    Medium(TunnelType.VXLAN, Family.IPV6): Kind.VXLAN,
    Medium(TunnelType.IPIP, Family.IPV4): Kind.IPIP,
    Medium(TunnelType.IPIP, Family.IPV6): Kind.IP6TNL,
}
"""Which device each medium needs."""


class Owner(NamedTuple):
    """A node whose devices they are."""

    name: str
    pod_cidrs: tuple[Prefix, ...]


def devices(media: Collection[Medium], owner: Owner, link_mtu: int, vxlan_port: int) -> Iterator[Device]:
    """Yield the devices that media need, on uplinks that take packets of `link_mtu` bytes."""
    for kind in Kind:
        used = sorted((medium for medium in media if KINDS[medium] is kind), key=lambda medium: medium.family)
        if used:
            yield Device(
                kind,
                tuple((medium.family, link_mtu - OVERHEAD[medium]) for medium in used),
                port=vxlan_port if kind is Kind.VXLAN else 0,
                mac=hardware_address(owner.name) if kind is Kind.VXLAN else b"",
                addresses=tuple(end for medium in used if (end := end_of(owner.pod_cidrs, medium.family))),
            )


def hop_through(device: int, address: IPAddress, tunnel: Tunnel, source: bytes) -> NextHop:
    """Return the next hop through a tunnel to a node's address. `device` is an ifindex, `source` this end, packed."""
    outer = Outer(address.packed, source)
    if KINDS[medium_of(address, tunnel)] is not Kind.VXLAN:
        return NextHop(b"", device, outer=outer)
    # Ethernet: the other node is found by its hardware address, as a neighbour.
    return NextHop(gateway(address, tunnel.node), device, onlink=True, outer=outer._replace(vni=tunnel.vni))


def end_of(pod_cidrs: Iterable[Prefix], family: Family) -> bytes:
    """Return the address of a node's end of its tunnels; empty where it has none."""
    first = next((each for each in pod_cidrs if each.family is family), None)
    return first.packed if first is not None and not first.is_host else b""


def gateway(address: IPAddress, node: str) -> bytes:
    """Return the address by which a node is known as a neighbour on the VXLAN device.

    IPv6 takes no gateway there that a route of another link leads to, so it is a link-local one (RFC 4291 appendix A).
    """
    if address.version == 4:
        return address.packed
    mac = hardware_address(node)
    return b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
