"""From one kind of tunnel to another without losing a packet: a small state machine with the time as an argument.

Nodes take a new configuration over at different times. So a tunnel of a kind that the other node may not have yet is
used SWITCH_DELAY_S after it was asked for, and until then the way is what it was before; and a kind that nothing uses
any more is still understood for RETIRE_DELAY_S. What was never otherwise, as after a restart or for a node that is
new, is used at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from bgp.carriage import Tunnel
from bgp.config import TunnelType
from inet.prefix import Family, IPAddress, family_of

SWITCH_DELAY_S: Final = 5.0
RETIRE_DELAY_S: Final = 15.0


class Medium(NamedTuple):
    """What a device is for: tunnels of a type, and with them packets of a family."""

    type: TunnelType
    family: Family

    def __str__(self) -> str:
        return f"{self.type.value} {self.family.label}"


def _what(address: IPAddress, tunnel: Tunnel) -> object:
    """Return what the other end has to have heard of."""
    return tunnel.node, tunnel.type, tunnel.vni, family_of(address)


class Switchover:
    """Which tunnels are in force, and which kinds and far ends have to be understood besides."""

    def __init__(self) -> None:
        self.in_force: Mapping[IPAddress, Tunnel] = {}
        self._wanted: Mapping[IPAddress, Tunnel] = {}
        self._nodes: frozenset[str] = frozenset()
        self._switch_at: float | None = None
        self._in_use: frozenset[Medium] = frozenset()
        self._retiring: dict[Medium, float] = {}
        self._former_peers: dict[IPAddress, float] = {}

    def want(self, wanted: Mapping[IPAddress, Tunnel], nodes: Collection[str], now: float) -> None:
        """Say which tunnels there should be from now on; `nodes` are all there are, of the tunnels and others."""
        proven = {_what(address, tunnel) for address, tunnel in self.in_force.items()}
        in_force: dict[IPAddress, Tunnel] = {}
        for address, tunnel in wanted.items():
            is_held = tunnel.node in self._nodes and _what(address, tunnel) not in proven
            chosen = self.in_force.get(address) if is_held else tunnel
            if chosen is not None:
                in_force[address] = chosen
        former = self.tunnels.keys()
        self._wanted, self._nodes, self.in_force = wanted, frozenset(nodes), in_force
        if in_force == wanted:
            self._switch_at = None
        elif self._switch_at is None:
            self._switch_at = now + SWITCH_DELAY_S
        self._former_peers |= dict.fromkeys(former - self.tunnels.keys(), now + RETIRE_DELAY_S)
        self._retire(now)

    def tick(self, now: float) -> bool:
        """Do what is due; whether anything was."""
        deadline = self.next_deadline
        if deadline is None or now < deadline:
            return False
        before = (self.in_force, self.media, self.peers)
        if self._switch_at is not None and now >= self._switch_at:
            self._switch_at, self.in_force = None, self._wanted
        for medium in [medium for medium, until in self._retiring.items() if now >= until]:
            del self._retiring[medium]
        self._former_peers = {address: until for address, until in self._former_peers.items() if now < until}
        self._retire(now)
        return before != (self.in_force, self.media, self.peers)

    @property
    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        switch_at = [] if self._switch_at is None else [self._switch_at]
        return min((*switch_at, *self._retiring.values(), *self._former_peers.values()), default=None)

    @property
    def media(self) -> frozenset[Medium]:
        """The media that must be there, for packets to go or only to come."""
        return self._in_use | self._retiring.keys()

    @property
    def tunnels(self) -> Mapping[IPAddress, Tunnel]:
        """Every tunnel that is in force, or is about to be."""
        return {**self.in_force, **self._wanted}

    @property
    def peers(self) -> frozenset[IPAddress]:
        """From where packets in tunnels may come."""
        return frozenset(self.tunnels) | self._former_peers.keys()

    def _retire(self, now: float) -> None:
        in_use = frozenset(
            Medium(tunnel.type, family_of(address))
            for tunnels in (self._wanted, self.in_force)
            for address, tunnel in tunnels.items()
        )
        for medium in self._in_use - in_use:
            self._retiring[medium] = now + RETIRE_DELAY_S
        for medium in in_use:
            self._retiring.pop(medium, None)
        self._in_use = in_use
