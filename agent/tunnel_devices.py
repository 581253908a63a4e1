"""What tunnels are in this node's kernel: which device carries which, and the next hop through it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import Final, NamedTuple

from bgp.carriage import OVERHEAD, Tunnel, hardware_address
from bgp.config import EncapsulationMode, TunnelType
from bgp.switchover import FarEnd, Medium, medium_of
from felix.encap import Outer
from felix.route import NO_TUNNEL, NextHop
from felix.tunnelmessages import Device, DeviceId, Kind
from inet.prefix import Family, IPAddress, Prefix

_KINDS: Final = {
    Medium(TunnelType.VXLAN, Family.IPV4): Kind.VXLAN,
    Medium(TunnelType.VXLAN, Family.IPV6): Kind.VXLAN,
    Medium(TunnelType.IPIP, Family.IPV4): Kind.IPIP,
    Medium(TunnelType.IPIP, Family.IPV6): Kind.IP6TNL,
}


class Owner(NamedTuple):
    """A node whose devices they are."""

    name: str
    pod_cidrs: tuple[Prefix, ...]
    sources: Mapping[Family, bytes]  # its ends of tunnels, packed; empty: the kernel chooses


def device_of(address: IPAddress, tunnel: Tunnel) -> DeviceId:
    """Return the device that a tunnel to an address needs."""
    medium = medium_of(address, tunnel)
    return DeviceId(_KINDS[medium], medium.family, tunnel.vni)


def devices_of(medium: Medium, vnis: Iterable[int]) -> list[DeviceId]:
    """Return the devices that a medium needs: of VXLAN one for each VNI that packets may bear."""
    kind = _KINDS[medium]
    return [DeviceId(kind, medium.family, vni) for vni in (sorted(vnis) if kind is Kind.VXLAN else (0,))]


def medium_for(device: DeviceId) -> Medium:
    """Return what a device is for."""
    return next(each for each, kind in _KINDS.items() if (kind, each.family) == (device.kind, device.family))


def devices(
    media: Iterable[Medium], vnis: Collection[int], owner: Owner, link_mtu: int, vxlan_port: int
) -> Iterator[Device]:
    """Yield the devices that media need, on uplinks that take packets of `link_mtu` bytes."""
    for medium in sorted(media, key=lambda medium: (medium.type.value, medium.family)):
        for device in devices_of(medium, vnis):
            mtu, end = link_mtu - OVERHEAD[medium], end_of(owner.pod_cidrs, medium.family)
            if device.kind is Kind.VXLAN:
                mac = hardware_address(owner.name)
                yield Device(device, mtu, vxlan_port, mac, owner.sources[medium.family], end)
            else:
                yield Device(device, mtu, address=end)


def hop_through(interface: int, address: IPAddress, tunnel: Tunnel, source: bytes) -> NextHop:
    """Return the next hop through a tunnel to a node's address. `source` is this end, packed."""
    outer = NO_TUNNEL if tunnel.type is TunnelType.VXLAN else Outer(address.packed, source)
    return NextHop(gateway(address, tunnel.node), interface, onlink=True, outer=outer)


def end_of(pod_cidrs: Iterable[Prefix], family: Family) -> bytes:
    """Return the address of a node's end of its tunnels; empty where it has none."""
    first = next((each for each in pod_cidrs if each.family is family), None)
    return first.packed if first is not None and not first.is_host else b""


def gateway(address: IPAddress, node: str) -> bytes:
    """Return the address by which a node is known as a neighbour on a tunnel device.

    VXLAN, which is Ethernet, finds the hardware address by it. IP in IP has no need of one, but without a gateway each
    pod would be a neighbour of its own, and the kernel would take the first address of an IPv6 pod CIDR, which is the
    other end's, for the anycast one of a subnet (RFC 4291 section 2.6.1), to which it sends no ICMP errors.

    IPv6 takes no gateway there that a route of another link leads to, so it is a link-local one (RFC 4291 appendix A).
    """
    if address.version == 4:
        return address.packed
    mac = hardware_address(node)
    return b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]


class Wrapping(NamedTuple):
    """The tunnel that packets take on a next hop."""

    type: TunnelType
    far_end: IPAddress
    vni: int = 0  # of VXLAN


class Wrappings:
    """Tells what tunnel a next hop is, which for VXLAN is not written on it."""

    def __init__(self, interfaces: Mapping[DeviceId, int], far_ends: Iterable[FarEnd]) -> None:
        self._vnis = {at: device.vni for device, at in interfaces.items() if device.kind is Kind.VXLAN}
        self._far_ends = {gateway(*end): end.address for end in far_ends}

    def of(self, hop: NextHop) -> Wrapping | None:
        """Return it; None for a next hop that is none. Of a node that is gone only the gateway is known."""
        if hop.outer.destination:
            return Wrapping(TunnelType.IPIP, ip_address(hop.outer.destination))
        if hop.interface not in self._vnis:
            return None
        far_end = self._far_ends.get(hop.gateway) or ip_address(hop.gateway)
        return Wrapping(TunnelType.VXLAN, far_end, self._vnis[hop.interface])


def tunnels_in(
    hops: Iterable[NextHop], present: Mapping[DeviceId, int], node: str, address: IPAddress | None
) -> dict[IPAddress, Tunnel]:
    """Return the tunnels that next hops to a node lead through, as an agent before this one left them.

    `present` are the devices that it left. A forwarding entry may lead to where the node was; it is at `address` now.
    """
    found: dict[IPAddress, Tunnel] = {}
    vnis = {interface: device.vni for device, interface in present.items() if device.kind is Kind.VXLAN}
    for hop in hops:
        if hop.outer.destination:
            far_end = ip_address(hop.outer.destination)
            found[far_end] = Tunnel(node, TunnelType.IPIP, EncapsulationMode.ALWAYS)
        elif hop.interface in vnis and address is not None:
            found[address] = Tunnel(node, TunnelType.VXLAN, EncapsulationMode.ALWAYS, vnis[hop.interface])
    return found
