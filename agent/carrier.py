"""How next hops are reached, tunnels among the ways: a `Resolver` on top of the kernel's that knows other nodes.

`bgp.carriage` decides, `bgp.switchover` says when, `felix.tunnels` has the devices. What is wanted comes in by
`configure`; what depends on the kernel is put right by `refresh`, as with every resolver.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

import structlog

from agent.tunnel_devices import (
    Owner,
    Wrappings,
    device_of,
    devices,
    devices_of,
    end_of,
    gateway,
    hop_through,
    medium_for,
    tunnels_in,
)
from bgp.carriage import (
    OVERHEAD,
    Carriage,
    How,
    NodePathPlanner,
    NodePaths,
    Tunnel,
    carry,
    hardware_address,
    overhead,
    settle_tunnels,
    tunnels_to,
)
from bgp.config import BgpConfig, EncapsulationMode, Node, NodeRoutes
from bgp.ownership import Ownership
from bgp.switchover import FarEnd, Medium, Switchover
from felix import farends
from felix.backstops import Backstops
from felix.netlink import in_turns
from felix.resolver import EVERYTHING, Doubts, Resolution, Resolver, Target
from felix.route import NextHop
from felix.trials import Trial
from felix.tunnelmessages import Device
from felix.tunnels import Tunnels
from inet.prefix import Family, IPAddress, Prefix, family_of

DEFAULT_LINK_MTU: Final = 1500
"""Until somebody knows better."""

log = structlog.get_logger("tunnels")


class Carrier:
    """See `Resolver`. Until the first `configure` it knows no tunnels."""

    def __init__(
        self,
        resolver: Resolver,
        tunnels: Tunnels,
        backstops: Backstops,
        *,
        now: Callable[[], float],
    ) -> None:
        self.node_paths = NodePaths()
        self.uplink_mtu: Callable[[], int | None] = lambda: None
        """The largest packet that every uplink takes, where somebody knows."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when `media`, `peers`, `port`, `overhead` or `devices` may be others than they were."""
        self._resolver = resolver
        self.tunnels = tunnels
        self._backstops = backstops
        self._now = now
        self._switchover = Switchover()
        self._config = BgpConfig()
        self._node: Node | None = None
        self._ownership: Ownership | None = None
        self._own_addresses: frozenset[IPAddress] = frozenset()
        self._on_link: frozenset[IPAddress] | None = None  # None: to be found out
        self._wanted: dict[IPAddress, Tunnel] = {}  # never changed in place once told
        self._surroundings: object = None
        self._facts: object = None
        self._carried: Mapping[IPAddress, Tunnel] = {}
        self._doubtful: set[IPAddress] = set()  # which may be reached in another way since the last look
        self._known: dict[Target, Resolution] = {}
        self._without_way: set[Target] = set()
        self._received: dict[Medium, int] = {}  # packets that had come out of devices when that was last of interest
        self._heard: dict[IPAddress, Tunnel] = {}
        self._found_plain: set[IPAddress] = set()  # nodes that former routes led to without a tunnel
        self.has_trials = asyncio.Event()
        """Set where `trials` may have something to try."""

    # What is wanted

    async def adopt(
        self, config: BgpConfig, node: Node, ownership: Ownership, ways: Mapping[Prefix, tuple[NextHop, ...]]
    ) -> None:
        """Take over tunnels and devices that an agent before this one left; `ways` are the kernel's routes of ours."""
        present = await self.tunnels.present()
        theirs = {
            prefix: hops for prefix, hops in ways.items() if ownership.pod_cidrs.get(prefix) not in {None, node.name}
        }
        found: dict[IPAddress, Tunnel] = {}
        for prefix, hops in theirs.items():
            other = config.nodes[ownership.pod_cidrs[prefix]]
            address = other.address(prefix.family)
            found |= tunnels_in(hops, present, other.name, address)
            if address is not None and self._resolver.resolve(address).next_hops == hops:
                self._found_plain.add(address)
        wanted = settle_tunnels(config, node, ownership)
        needed = {device_of(*each) for tunnels in (found, wanted) for each in tunnels.items()}
        families = {prefix.family for prefix in ownership.pod_cidrs_of(node.name)}
        # Others may not have heard that these are used no more.
        left = [each for each in present.keys() - needed if each.family in families]
        others = {FarEnd(address, name) for address, name in ownership.addresses.items() if name != node.name}
        self._switchover.adopt(
            found,
            {medium_for(device) for device in left},
            others if left else (),
            {device.vni for device in left if device.vni},
            self._now(),
        )

    async def configure(
        self, config: BgpConfig, node: Node, ownership: Ownership, routed: Callable[[], Container[Prefix]] = frozenset
    ) -> bool:
        """Take a new configuration; whether `recarry` is due, since something is reached in another way now.

        `routed` returns what there are routes to.
        """
        changed = self._changed_nodes(config, node, ownership)
        former, self._config, self._node = self._config, config, node
        former_ownership, self._ownership = self._ownership, ownership
        gone: set[Prefix] = set()
        if changed is None or former_ownership is None:
            self._on_link, self._wanted = None, settle_tunnels(config, node, ownership)
        else:
            gone = {prefix for name in changed for prefix in former_ownership.pod_cidrs_of(name)}
            if self._on_link is not None:
                before, after = _addresses_of(changed, former), _addresses_of(changed, config)
                self._on_link = (self._on_link - before) | self._find_on_link(after)
            wanted = {address: each for address, each in self._wanted.items() if each.node not in changed}
            for name in changed:
                wanted |= tunnels_to(name, config, node, ownership)
            self._wanted = wanted
        wanted = self._wanted
        reached: set[IPAddress] = set()
        if any(self._switchover.in_force.get(address) != tunnel for address, tunnel in wanted.items()):
            destinations, pod_cidrs = routed(), ownership.pod_cidrs.items()
            addresses = {config.nodes[name].address(cidr.family) for cidr, name in pod_cidrs if cidr in destinations}
            reached = {address for address in wanted.keys() & addresses if self._would_move(address, wanted[address])}
        self._switchover.want(wanted, config.nodes, reached, self._now())
        await self._follow(changed, gone)
        return self._is_carried_otherwise()

    def _changed_nodes(self, config: BgpConfig, node: Node, ownership: Ownership) -> list[str] | None:
        """Return the nodes that are others in a new configuration, None where everything has to be looked at.

        Whether a node has its addresses for itself depends on others only as far as conflicts say so.
        """
        before = self._config
        is_other = (
            self._ownership is None
            or node is not self._node
            or ownership.conflicts != self._ownership.conflicts
            or replace(config, nodes={}, peerings=()) != replace(before, nodes={}, peerings=())
        )
        if is_other:
            return None
        found = [name for name, each in config.nodes.items() if before.nodes.get(name) is not each]
        return [*found, *(before.nodes.keys() - config.nodes.keys())]

    def _would_move(self, address: IPAddress, tunnel: Tunnel) -> bool:
        """Whether packets that have a way to a node would leave it for a tunnel."""
        if tunnel.mode is EncapsulationMode.ALWAYS:
            return True  # whichever way it is, a router's too
        is_plain = self.has_resolved(address) or address in self._found_plain
        return is_plain and not self._resolver.resolve(address).is_on_link

    async def tick(self, *, keeps_former: bool = False) -> bool:
        """Do what is due; whether `recarry` is due, too. With `keeps_former` routes may lead to what nobody wants."""
        now, heard = self._now(), self._heard
        self._heard = {}
        before = self._switchover.in_force
        self._switchover.heard(heard, now)
        used: list[Medium] = []
        if self._switchover.next_deadline is not None and now >= self._switchover.next_deadline:
            lingering = self._switchover.lingering
            used = [each for each in lingering if await self._is_in_use_by_others(each) or keeps_former]
        if not self._switchover.tick(now, used) and self._switchover.in_force is before:
            return False
        log.info(
            "tunnels.switched", in_force=len(self._switchover.in_force), media=sorted(map(str, self._switchover.media))
        )
        await self._follow()
        return self._is_carried_otherwise()

    @property
    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        return self._now() if self._heard else self._switchover.next_deadline

    async def _is_in_use_by_others(self, medium: Medium) -> bool:
        """Whether packets came out of a medium's devices since this was last asked."""
        before, now = self._received.get(medium), await self._received_by(medium)
        self._received[medium] = now
        return before != now

    async def _received_by(self, medium: Medium) -> int:
        return sum([await self.tunnels.received(device) for device in devices_of(medium, self._switchover.vnis)])

    # Tunnels that the other end may know nothing of

    def trials(self) -> dict[tuple[IPAddress, Tunnel], Trial]:
        """Return what is to be tried: how to reach, through each tunnel, the address of the other end in it."""
        found = {}
        for address, tunnel in self._switchover.to_try.items():
            ends = self._ownership.pod_cidrs_of(tunnel.node) if self._ownership else ()
            far_end = end_of(ends, family_of(address))
            hop = self._hop(address, tunnel)
            if far_end and hop is not None:
                found[address, tunnel] = Trial(far_end, hop)
        return found

    def hear(self, answered: Iterable[tuple[IPAddress, Tunnel]]) -> None:
        """Take over through which tunnels the other end answered. `tick` is due then."""
        self._heard |= dict(answered)

    async def mend(self, *, thorough: bool = False) -> None:
        """Put right what others did to devices: before `refresh`, and every while."""
        if thorough:
            await self._backstops.mend()
        if self._node is None:
            return
        await self.tunnels.mend(thorough=thorough)

    async def follow_kernel(self) -> None:
        """Do what follows from where nodes, devices and uplinks are now: after `refresh`."""
        if self._node is not None and await self._look_around() != self._surroundings:
            await self._follow()

    def _is_carried_otherwise(self) -> bool:
        """Whether what tunnels are made of changed since it was last asked; notes which addresses that is about."""
        before, now = self._carried, self._switchover.in_force
        facts = (
            [self._source(family) for family in Family],
            dict(self.tunnels.interfaces),
        )
        if facts != self._facts:
            changed = {*before, *now}
        elif now is before:  # it is never changed in place
            return False
        else:
            changed = {address for address in before.keys() | now.keys() if before.get(address) != now.get(address)}
        self._carried, self._facts = now, facts
        self._doubtful.update(changed)
        return bool(changed)

    async def _look_around(self) -> object:
        """Return what of the kernel `_follow` goes by."""
        self._own_addresses = await self._own()
        if self._on_link is None:
            self._on_link = self._find_on_link(self._ownership.addresses if self._ownership else ())
        return (
            [self._source(family) for family in Family],
            self._on_link,
            self.uplink_mtu(),
            dict(self.tunnels.problems),
            dict(self.tunnels.interfaces),
        )

    def _find_on_link(self, addresses: Iterable[IPAddress]) -> frozenset[IPAddress]:
        """Return those addresses of other nodes that are on a link of this one, where that matters."""
        if self._config.node_routes is not NodeRoutes.DIRECT or self._ownership is None or self._node is None:
            return frozenset()
        owners, own = self._ownership.addresses, self._node.name
        return frozenset(
            each for each in addresses if owners.get(each, own) != own and self._resolver.resolve(each).is_on_link
        )

    async def _follow(self, changed: Collection[str] | None = None, gone: Collection[Prefix] = ()) -> None:
        """Bring devices, blackholes and the paths of Node objects to what is wanted.

        `changed` nodes alone are others than they were, and `gone` is what they had; None: any may be.
        """
        if self._node is None or self._ownership is None:
            return
        self._surroundings = await self._look_around()
        tunnels = self._switchover.tunnels
        on_link = self._on_link or frozenset()
        planner = NodePathPlanner(self._config, self._node, self._ownership, tunnels, on_link)
        paths = planner.paths() if changed is None else planner.paths_after(self.node_paths, changed, gone)
        if paths != self.node_paths:
            self.node_paths = paths
        behind = paths.next_hops.items() if tunnels else ()
        await self._backstops.want(prefix for prefix, address in behind if address in tunnels)
        problems = dict(self.tunnels.problems)
        await self.tunnels.want(self._devices(), self._far_ends())
        for device, problem in self.tunnels.problems.items():
            if problems.get(device) != problem:
                log.error("tunnel.failed", device=device.name, reason=problem)
        if self._switchover.to_try:
            self.has_trials.set()
        for medium in self._switchover.lingering - self._received.keys():
            self._received[medium] = await self._received_by(medium)
        self.on_change()

    async def _own(self) -> frozenset[IPAddress]:
        try:
            return await self._resolver.own_addresses()
        except OSError as error:
            log.warning("kernel.unreadable", reason=str(error))
            return self._own_addresses

    def _far_ends(self) -> dict[Family, list[farends.FarEnd]]:
        """Return the far ends of VXLAN, and for a while those that were: routes leave them after this."""
        found: dict[Family, list[farends.FarEnd]] = {family: [] for family in Family}
        ends = list(self._switchover.far_ends)
        places = {(end.node, end.address.version): end.address.packed for end in ends}  # of a node's the one in use
        for end in ends:
            address = places[end.node, end.address.version]
            found[family_of(end.address)].append(farends.FarEnd(gateway(*end), hardware_address(end.node), address))
        return found

    def _devices(self) -> Iterator[Device]:
        if self._node is None or self._ownership is None:
            return iter(())
        sources = {family: self._source(family) for family in Family}
        own = Owner(self._node.name, self._ownership.pod_cidrs_of(self._node.name), sources)
        link_mtu = self.uplink_mtu() or DEFAULT_LINK_MTU
        return devices(self._switchover.media, self._switchover.vnis, own, link_mtu, self._config.vxlan_port)

    # What others ask

    def owns(self, interface: int) -> bool:
        """Whether a link, by its ifindex, is one of our devices."""
        return interface in self.tunnels.interfaces.values()

    def wrappings(self) -> Wrappings:
        """Return who tells what tunnel a next hop is, as things are now."""
        return Wrappings(self.tunnels.interfaces, self._switchover.far_ends)

    def on_link_paths(self) -> dict[Prefix, IPAddress]:
        """Return the pod CIDRs of other nodes that are on a link of this node, and where."""
        if self._node is None or self._ownership is None:
            return {}
        found: dict[Prefix, IPAddress] = {}
        for prefix, name in self._ownership.pod_cidrs.items():
            address = self._config.nodes[name].address(prefix.family) if name != self._node.name else None
            if address is not None and self._resolver.resolve(address).is_on_link:
                found[prefix] = address
        return found

    @property
    def media(self) -> frozenset[Medium]:
        """What tunnels are made of that may come or go."""
        return self._switchover.media

    @property
    def port(self) -> int:
        """The UDP port of VXLAN."""
        return self._config.vxlan_port

    @property
    def peers(self) -> frozenset[IPAddress]:
        """From where packets in tunnels may come."""
        return self._switchover.peers

    @property
    def overhead(self) -> dict[Family, int]:
        """By how many bytes at most packets of each family may grow on the way to another node."""
        found = overhead(self._switchover.tunnels)
        for medium in self._switchover.lingering:  # the other end may not take more yet
            found[medium.family] = max(found[medium.family], OVERHEAD[medium])
        return found

    @property
    def devices(self) -> frozenset[str]:
        """The names of the devices that may be in use."""
        vnis = self._switchover.vnis
        return frozenset(device.name for medium in self._switchover.media for device in devices_of(medium, vnis))

    @property
    def problems(self) -> dict[str, str]:
        """Why a device is not there, by its name."""
        found = {device.name: problem for device, problem in self.tunnels.problems.items()}
        return found | ({"blackholes": self._backstops.problem} if self._backstops.problem else {})

    @property
    def vnis(self) -> tuple[int, ...]:
        """The VNIs that packets in VXLAN may bear: more than one while it changes."""
        return tuple(sorted(self._switchover.vnis))

    @property
    def repaired(self) -> int:
        """How often a device was found changed by others."""
        return self.tunnels.repaired

    def carriage(self, address: IPAddress, interface: str | None = None) -> tuple[Carriage, Tunnel | None]:
        """Return how an address is reached as a next hop, and the tunnel that may be used to it."""
        plain = self._resolver.resolve(address, interface)
        tunnel = self._switchover.in_force.get(address) if interface is None else None
        return carry(tunnel, is_reachable=bool(plain.next_hops), is_on_link=plain.is_on_link), tunnel

    # A resolver

    def resolve(self, address: IPAddress, interface: str | None = None) -> Resolution:
        """Return how an address is reached. Does not wait, and remembers the answer."""
        target = (address, interface)
        known = self._known.get(target)
        if known is None:
            known = self._carry(address, interface)
            self._note(target, known)
        return known

    async def refresh(self, doubts: Doubts = EVERYTHING) -> dict[Target, Resolution]:
        """Look up again what was resolved before and is in doubt; return how that which changed was reached before."""
        plain = await self._resolver.refresh(doubts)
        self._is_carried_otherwise()
        doubtful = {*plain, *((address, None) for address in self._doubtful), *self._without_way}
        self._doubtful.clear()
        if plain:
            self._on_link = None
        former: dict[Target, Resolution] = {}
        async for piece in in_turns(doubtful):
            for target in piece:
                known = self._known.get(target)
                if known is not None and (resolution := self._carry(*target)) != known:
                    former[target] = known
                    self._note(target, resolution)
        return former

    def _note(self, target: Target, resolution: Resolution) -> None:
        self._known[target] = resolution
        if resolution.next_hops:
            self._without_way.discard(target)
        else:
            self._without_way.add(target)

    def recarry(self) -> frozenset[Target]:
        """Look up what `configure` or `tick` changed; return what is reached in another way now."""
        changed: list[Target] = []
        for address in self._doubtful:
            known = self._known.get((address, None))
            if known is not None and (resolution := self._carry(address, None)) != known:
                self._note((address, None), resolution)
                changed.append((address, None))
        self._doubtful.clear()
        return frozenset(changed)

    def has_resolved(self, address: IPAddress) -> bool:
        """Whether anybody goes by how an address is reached."""
        return (address, None) in self._known

    def forget(self, address: IPAddress, interface: str | None = None) -> None:
        """Look an address no more up in `refresh`."""
        self._known.pop((address, interface), None)
        self._without_way.discard((address, interface))
        self._resolver.forget(address, interface)

    def source(self, address: IPAddress, interface: str | None = None) -> IPAddress | None:
        """Return the address of this node that packets to an address bear, None if there is no way to it."""
        return self._resolver.source(address, interface)

    async def own_addresses(self) -> frozenset[IPAddress]:
        """Return the addresses of this node, all of them. Raises OSError."""
        return await self._resolver.own_addresses()

    def _carry(self, address: IPAddress, interface: str | None) -> Resolution:
        carriage, tunnel = self.carriage(address, interface)
        if carriage.how is not How.TUNNEL or tunnel is None or carriage.cost is None:
            return self._resolver.resolve(address, interface)
        hop = self._hop(address, tunnel)
        if hop is None:
            device = device_of(address, tunnel)
            reason = self.tunnels.problems.get(device, f"{device.name} is not there yet")
            return Resolution((), is_on_link=False, reason=f"it needs a tunnel: {reason}")
        return Resolution((hop,), is_on_link=False, tunnel_cost=carriage.cost)

    def _hop(self, address: IPAddress, tunnel: Tunnel) -> NextHop | None:
        """Return the next hop through a tunnel; None while its device is not there."""
        at = self.tunnels.interfaces.get(device_of(address, tunnel))
        return None if at is None else hop_through(at, address, tunnel, self._source(family_of(address)))

    def _source(self, family: Family) -> bytes:
        """Return the outer source: the address that other nodes know this one by, so that they accept it."""
        address = self._node.address(family) if self._node else None
        return address.packed if address is not None and address in self._own_addresses else b""


def _addresses_of(names: Iterable[str], config: BgpConfig) -> frozenset[IPAddress]:
    return frozenset(each for name in names if name in config.nodes for each in config.nodes[name].addresses)
