"""A node's routing on a fake wire and a fake kernel, with a clock that tests turn."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

from agent.attention import SETTLING_S
from agent.carrier import Carrier
from agent.routing import Routing
from bgp.config import BgpConfig, Node, Peering
from bgp.path import AsPath, Attributes, NextHopKey
from bgp.speaker import EndOfRib, GracefulRestartOffer, SessionUp, Update
from bgp.speaker.fake import FakeSpeaker
from felix.backstops import FakeBackstops
from felix.fakeresolver import FakeResolver
from felix.faketable import FakeRouteTable
from felix.faketunnels import FakeTunnels
from felix.fib import Fib
from felix.guard import MassDeleteGuard
from felix.monitor import Event
from felix.route import NextHop
from inet.prefix import Family, IPAddress, Prefix, parse_address

OFFER = GracefulRestartOffer(
    restart_time_s=60, restarted=False, forwarding=frozenset(Family), families=frozenset(Family)
)


class FakeMonitor:
    """News of the kernel, as a test tells them."""

    def __init__(self) -> None:
        self._batches: asyncio.Queue[list[Event]] = asyncio.Queue()

    def tell(self, *events: Event) -> None:
        self._batches.put_nowait(list(events))

    @property
    def is_told(self) -> bool:
        return self._batches.empty()

    async def batches(self) -> AsyncGenerator[list[Event], None]:
        while True:
            yield await self._batches.get()

    def close(self) -> None:
        pass


class World:
    """Node n1 and what is around it. `family` says which addresses the test speaks of."""

    def __init__(self, family: Family, table: FakeRouteTable | None = None) -> None:
        self.family = family
        self.time = 1000.0
        self.table = table or FakeRouteTable()
        self.speaker = FakeSpeaker()
        self.resolver = FakeResolver()
        self.monitor = FakeMonitor()
        self.fib = Fib(self.table, clock=self.now, guard=MassDeleteGuard(started=self.time))
        self.tunnels = FakeTunnels()
        self.backstops = FakeBackstops()
        self.carrier = Carrier(self.resolver, self.tunnels, self.backstops, now=self.now)
        self.routing = Routing(self.speaker, self.fib, self.carrier, self.monitor, now=self.now)
        self.config = BgpConfig(nodes={f"n{number}": self.node(number) for number in (1, 2, 3)})

    def now(self) -> float:
        return self.time

    def node(self, number: int, **changes: Any) -> Node:
        node = Node(f"n{number}", (self.host(number),), (self.cidr(number),), 64512)
        return replace(node, **changes)

    def host(self, number: int) -> IPAddress:
        return parse_address(f"192.168.0.{number}" if self.family is Family.IPV4 else f"fd00::{number:x}")

    def cidr(self, number: int) -> Prefix:
        return Prefix.parse(f"10.42.{number}.0/24" if self.family is Family.IPV4 else f"fd42:0:0:{number:x}::/64")

    def hop(self, number: int, interface: int = 1) -> NextHop:
        return NextHop(self.host(number).packed, interface)

    async def configure(self, **changes: Any) -> None:
        self.config = replace(self.config, **changes)
        await self.routing.configure(self.config, self.config.nodes["n1"])
        await self.settle()

    async def with_routers(self, *numbers: int, asn: int = 65100, **changes: Any) -> None:
        """Peer with routers in place of the mesh; router r has the address of host r."""
        peerings = tuple(
            Peering(f"tor-{number}", frozenset({"n1"}), address=self.host(number), asn=asn) for number in numbers
        )
        self.resolver.addresses.add(self.host(1))
        self.resolver.sources |= {(self.host(number), None): self.host(1) for number in numbers}
        await self.configure(peerings=peerings, mesh_enabled=False, **changes)

    async def up(self, number: int, *, offer: GracefulRestartOffer | None = OFFER) -> None:
        self.speaker.bring_up(self.host(number), graceful_restart=offer)
        await self.settle()

    async def hear(
        self, number: int, prefixes: Iterable[Prefix], *, path: Iterable[int] = (), **attributes: Any
    ) -> None:
        """Let a peer announce prefixes by itself as next hop, and send End-of-RIB."""
        said = Attributes(next_hop=self.host(number), as_path=AsPath(tuple(path)), **attributes)
        self.speaker.hear(Update(self.host(number), said, tuple(prefixes)), EndOfRib(self.host(number), self.family))
        await self.settle()

    async def withdraw(self, number: int, prefixes: Iterable[Prefix]) -> None:
        """Let a peer take prefixes back."""
        self.speaker.hear(Update(self.host(number), None, (), tuple(prefixes)))
        await self.settle()

    async def down(self, number: int) -> None:
        """Let a session end."""
        self.speaker.take_down(self.host(number))
        await self.settle()

    def key(self, number: int) -> NextHopKey:
        """Return a host as a next hop."""
        return NextHopKey(self.host(number))

    async def settle(self) -> None:
        """Let everything that was said be heard, decided and written."""
        for _ in range(3):
            for _ in range(20):  # turns of the loop: as many as it takes from a queue to a handler
                await asyncio.sleep(0)
            await asyncio.wait_for(self.routing.settled(), 10)
            if self.routing._attention.deadline is not None:  # news of the kernel gathers for a moment
                self.time += SETTLING_S
                self.routing.wake()

    async def answer(self, *numbers: int) -> None:
        """Let nodes answer through the tunnels to them that are tried."""
        hosts = set(map(self.host, numbers))
        self.carrier.hear([key for key in self.carrier.trials() if key[0] in hosts])
        self.routing.wake()
        await self.settle()

    async def pass_time(self, seconds: float) -> None:
        self.time += seconds
        self.routing.wake()
        await self.settle()

    def kernel(self) -> dict[Prefix, tuple[NextHop, ...]]:
        """What the kernel has but our own blackhole."""
        return {prefix: hops for prefix, hops in self.table.next_hops().items() if prefix != self.cidr(1)}


@contextlib.asynccontextmanager
async def running(world: World) -> AsyncIterator[World]:
    await world.fib.adopt()
    task = asyncio.create_task(world.routing.run())
    try:
        yield world
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def router_up(world: World, number: int, router_id: str) -> SessionUp:
    session = world.speaker.sessions[world.host(number)]
    return SessionUp(session.peer, session.families, IPv4Address(router_id), 90, OFFER)
