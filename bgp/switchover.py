"""From one kind of tunnel to another without losing a packet: a small state machine with the time as an argument.

Nodes take a new configuration over at different times: seconds apart, or minutes, where an agent is down. So nobody
goes by a clock. Where packets have a way already, a tunnel that the other end may know nothing of is *tried* first, and
used as soon as the other end was *heard* through it; until then the way is what it was. An end that answers nobody,
for a firewall, is used unheard after USE_UNHEARD_AFTER_S. Where there is no other way, as to a node that is new, there
is nothing to wait for.

What this node uses no more it understands on: others may not have heard yet. A medium stays for LINGER_S, and as long
after that as packets come by it; far ends and VNIs, which cost little, for UNDERSTOOD_S.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from typing import Final, Generic, NamedTuple, TypeVar

from bgp.carriage import Tunnel
from bgp.config import TunnelType
from inet.prefix import Family, IPAddress, family_of

USE_UNHEARD_AFTER_S: Final = 300.0
LINGER_S: Final = 30.0
UNDERSTOOD_S: Final = 600.0

_FAMILY: Final = {4: Family.IPV4, 6: Family.IPV6}
_NO_TUNNELS: Final[Mapping[IPAddress, Tunnel]] = {}

T = TypeVar("T")


class Medium(NamedTuple):
    """What devices are for: tunnels of a type, and with them packets of a family."""

    type: TunnelType
    family: Family

    def __str__(self) -> str:
        return f"{self.type.value} {self.family.label}"


class FarEnd(NamedTuple):
    """An address that packets in tunnels come from and go to, and whose it is."""

    address: IPAddress
    node: str


def medium_of(address: IPAddress, tunnel: Tunnel) -> Medium:
    """Return what a tunnel is made of."""
    return Medium(tunnel.type, family_of(address))


def _what(address: IPAddress, tunnel: Tunnel) -> object:
    """Return what the other end has to have heard of."""
    return tunnel.node, tunnel.type, tunnel.vni, family_of(address)


class _Lingering(Generic[T]):
    """Things in use, and for a while those that were."""

    def __init__(self, linger_s: float) -> None:
        self.in_use: frozenset[T] = frozenset()
        self.until: dict[T, float] = {}  # of those that are not in use any more
        self._linger_s = linger_s

    def use(self, things: Iterable[T], now: float) -> None:
        """Say what is in use from now on."""
        used = frozenset(things)
        if used == self.in_use:
            return
        self.linger(self.in_use - used, now)
        for thing in used & self.until.keys():
            del self.until[thing]
        self.in_use = used

    def linger(self, things: Iterable[T], now: float) -> None:
        """Say what was in use until now."""
        self.until |= dict.fromkeys(things, now + self._linger_s)

    def expire(self, now: float) -> None:
        """Forget what was in use long ago."""
        for thing in [thing for thing, until in self.until.items() if now >= until]:
            del self.until[thing]

    def __iter__(self) -> Iterator[T]:
        """What is in use comes last."""
        yield from self.until
        yield from self.in_use


class Switchover:
    """Which tunnels are in force, which are to be tried, and what has to be understood besides."""

    def __init__(self) -> None:
        self.in_force: Mapping[IPAddress, Tunnel] = {}
        """Never changed in place."""
        self._wanted: Mapping[IPAddress, Tunnel] = {}
        self._unheard: dict[IPAddress, float] = {}  # what is wanted and not in force, until when
        self._media: _Lingering[Medium] = _Lingering(LINGER_S)
        self._peers: _Lingering[IPAddress] = _Lingering(UNDERSTOOD_S)
        self._former: dict[IPAddress, str] = {}  # whose those were that linger
        self._vnis: _Lingering[int] = _Lingering(UNDERSTOOD_S)

    def adopt(
        self,
        found: Mapping[IPAddress, Tunnel],
        media: Iterable[Medium],
        far_ends: Iterable[FarEnd],
        vnis: Iterable[int],
        now: float,
    ) -> None:
        """Take over what a former life left: tunnels that routes lead through, and what others may use still."""
        self.in_force = found
        self._follow(now)
        self._media.linger(set(media) - self._media.in_use, now)
        self._former = {end.address: end.node for end in far_ends if end.address not in self._peers.in_use}
        self._peers.linger(self._former, now)
        self._vnis.linger(set(vnis) - self._vnis.in_use, now)

    def want(
        self, wanted: Mapping[IPAddress, Tunnel], nodes: Container[str], reached: Container[IPAddress], now: float
    ) -> None:
        """Say which tunnels there should be from now on.

        `nodes` are all there are, and `reached` those addresses that packets for pods have a way to without a tunnel.
        """
        former_tunnels = self.tunnels
        moved = {address: tunnel for address, tunnel in wanted.items() if self.in_force.get(address) != tunnel}
        heard = {_what(address, tunnel) for address, tunnel in self.in_force.items()} if moved else frozenset()
        in_force: dict[IPAddress, Tunnel] = {}
        unheard: dict[IPAddress, float] = {}
        for address, tunnel in wanted.items():
            former = self.in_force.get(address)
            if address not in moved or _what(address, tunnel) in heard or (former is None and address not in reached):
                in_force[address] = tunnel
                continue
            is_same_wish = address in self._unheard and self._wanted.get(address) == tunnel
            unheard[address] = self._unheard[address] if is_same_wish else now + USE_UNHEARD_AFTER_S
            if former is not None:
                in_force[address] = former
        self._wanted, self._unheard = wanted, unheard
        if in_force != self.in_force:
            self.in_force = in_force
        self._follow(now, former_tunnels)
        for address, until in self._peers.until.items():
            if self._former[address] not in nodes:  # its address may be anybody's by and by
                self._peers.until[address] = min(until, now + LINGER_S)

    @property
    def to_try(self) -> dict[IPAddress, Tunnel]:
        """The tunnels that are used as soon as somebody was heard through them."""
        return {address: self._wanted[address] for address in self._unheard}

    def heard(self, tried: Mapping[IPAddress, Tunnel], now: float) -> None:
        """Note that the other ends answered through these tunnels."""
        self._use([address for address, tunnel in tried.items() if self._wanted.get(address) == tunnel], now)

    def tick(self, now: float, used: Collection[Medium] = ()) -> bool:
        """Do what is due; whether anything was. `used` are media that packets came by since the last time."""
        if self.next_deadline is None or now < self.next_deadline:
            return False
        before = (self.in_force, self.media, self.peers, self.vnis)
        self._media.linger(self._media.until.keys() & set(used), now)
        if any(medium.type is TunnelType.VXLAN for medium in used):
            self._vnis.linger(list(self._vnis.until), now)  # a device has one
        for lingering in (self._media, self._peers, self._vnis):
            lingering.expire(now)
        self._former = {address: self._former[address] for address in self._peers.until}
        self._use([address for address, until in self._unheard.items() if now >= until], now)
        return before != (self.in_force, self.media, self.peers, self.vnis)

    @property
    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        lingering = (self._media.until, self._peers.until, self._vnis.until)
        return min((*self._unheard.values(), *(until for each in lingering for until in each.values())), default=None)

    @property
    def media(self) -> frozenset[Medium]:
        """The media that must be there, for packets to go or only to come."""
        return frozenset(self._media)

    @property
    def lingering(self) -> frozenset[Medium]:
        """Those of them that are there only for packets to come."""
        return frozenset(self._media.until)

    @property
    def far_ends(self) -> Iterator[FarEnd]:
        """Where tunnels lead, or led; what is in use comes last."""
        yield from (FarEnd(address, self._former[address]) for address in self._peers.until)
        yield from (FarEnd(address, tunnel.node) for address, tunnel in self.tunnels.items())

    @property
    def peers(self) -> frozenset[IPAddress]:
        """From where packets in tunnels may come."""
        return self._peers.in_use.union(self._peers.until)

    @property
    def vnis(self) -> frozenset[int]:
        """What packets in VXLAN may bear."""
        return frozenset(self._vnis)

    @property
    def tunnels(self) -> Mapping[IPAddress, Tunnel]:
        """Every tunnel that is in force, or is about to be."""
        return {**self.in_force, **self._wanted} if self._unheard else self.in_force

    def _use(self, addresses: Iterable[IPAddress], now: float) -> None:
        chosen = {address: self._wanted[address] for address in addresses if address in self._unheard}
        if chosen:
            tunnels = self.tunnels
            self.in_force = {**self.in_force, **chosen}
            for address in chosen:
                del self._unheard[address]
            self._follow(now, tunnels)

    def _follow(self, now: float, former: Mapping[IPAddress, Tunnel] = _NO_TUNNELS) -> None:
        """Take note of what is in use; `former` are the tunnels that there were before."""
        both = [self._wanted] if not self._unheard and self._wanted else [self.in_force, self._wanted]
        used = {(each.type, address.version) for tunnels in both for address, each in tunnels.items()}
        self._media.use({Medium(type_, _FAMILY[version]) for type_, version in used}, now)
        self._vnis.use({each.vni for tunnels in both for each in tunnels.values() if each.vni}, now)
        peers = frozenset(self.tunnels)
        self._former |= {address: former[address].node for address in self._peers.in_use - peers}
        self._peers.use(peers, now)
        self._former = {address: self._former[address] for address in self._peers.until}
