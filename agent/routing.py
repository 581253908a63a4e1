"""The loop that makes a node a BGP speaker: configuration, sessions and kernel events in, routes and announcements out.

All decisions are made elsewhere (`bgp`), all kernel writes too (`felix`). Here events meet state, in one place and
on one event loop: `configure` takes a new configuration, `run` follows the speaker and the kernel. Handlers only
note what changed and wake the worker; the worker resolves, decides, announces and writes until nothing is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Final

import structlog

from agent import metrics
from agent.announcing import Announcer
from agent.attention import Attention
from agent.carrier import Carrier
from agent.forwarding import NOT_RESILIENT, Forwarding
from agent.local_addresses import LocalAddresses
from agent.nodepaths import NodePathTeller
from agent.parting import Parting
from agent.peers import Peer
from agent.sessions import Sessions
from bgp.config import BgpConfig, Node, NodeRoutes
from bgp.drain import Drain, Wish
from bgp.ownership import Ownership, Settlement
from bgp.path import PeerKey
from bgp.peering import Plan, plan
from bgp.rib import Rib
from bgp.speaker import Speaker
from felix.fib import Fib
from felix.monitor import (
    AddressChanged,
    ForeignNextHopsChanged,
    ForeignRouteChanged,
    LinkChanged,
    Monitor,
    Overflow,
    OwnNextHopsChanged,
    OwnRouteChanged,
)
from felix.monitor import Event as KernelEvent
from felix.resolver import Doubts
from inet.prefix import IPAddress, Prefix

DECISIONS_AT_A_TIME: Final = 2000
"""Prefixes decided before the event loop gets a turn: about 10 ms."""

RETRY_DELAYS_S: Final = (0.2, 0.5, 1, 2, 5, 10, 30)
"""Pauses between attempts to write what the kernel refused."""

RESYNC_INTERVAL_S: Final = 300.0
"""How often everything of ours is read back from the kernel, whatever events say."""

PATIENCE_S: Final = 120.0
"""How long at most routes of Node objects outlive the wish for them, until BGP has said the same."""

log = structlog.get_logger("routing")


class Routing:
    """One node's routing. Does nothing until the first `configure`."""

    def __init__(
        self,
        speaker: Speaker,
        fib: Fib,
        carrier: Carrier,
        monitor: Monitor,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.speaker = speaker
        self.fib = fib
        self.rib = Rib()
        self.plan: Plan | None = None
        self.drain = Drain()
        self.route_listeners: list[Callable[[], None]] = []
        """Called whenever routes were written."""
        self.kernel_listeners: list[Callable[[Sequence[KernelEvent]], None]] = []
        """Called with news of the kernel."""
        self.carrier = carrier
        self.forwarding = Forwarding(fib, carrier)
        self._node_paths = NodePathTeller(self.rib, PATIENCE_S)
        self._announcer = Announcer(speaker, self.rib)
        self._sessions = Sessions(self.rib, self.forwarding, self._announcer, now=now)
        self._config = BgpConfig()
        self._monitor = monitor
        self._now = now
        self._local_addresses = LocalAddresses(carrier)
        self._settlement = Settlement()
        self._parting = Parting()
        self._wake = asyncio.Event()
        self._woken_at: float | None = None
        self._is_idle = asyncio.Event()
        self._configuring = asyncio.Lock()  # one configuration is taken over whole, then the next
        self._failures = 0
        self._retry_at: float | None = None
        self._resync_at = now() + RESYNC_INTERVAL_S
        self._attention = Attention()  # to links and foreign routes
        self._pod_mtu: int | None = None
        self._mtu_changed = False
        self._tunnels_changed = False
        self._carrier_changed = False

    # Configuration

    async def configure(self, config: BgpConfig, node: Node) -> Plan:
        """Take a new configuration. Sessions, rules and announcements that stay the same are not touched."""
        async with self._configuring:
            return await self._take_over(config, node)

    async def _plan_again(self) -> None:
        """Plan anew by the configuration in force, whichever that is when those that came before are taken over."""
        async with self._configuring:
            if self.plan is not None:
                await self._take_over(self._config, self.plan.node)

    async def _take_over(self, config: BgpConfig, node: Node) -> Plan:
        await self._local_addresses.look(config, node)
        planned = plan(config, node, self._local_addresses.by_peer, self._settlement.follow(config.nodes))
        planned = self._parting.extend(config.node_routes, planned, self._now())
        before, self.plan, self._config = self.plan, planned, config
        is_first = before is None
        self._mtu_changed |= before is not None and self._has_other_mtus(before.ownership, planned.ownership)
        self.rib.set_max_paths(config.max_paths)
        if not await self.forwarding.choose_resilient(wanted=config.resilient_multipath):
            self.plan = planned = replace(planned, complaints=(*planned.complaints, NOT_RESILIENT))
        if is_first and self.fib.count:
            ways = {row.destination: row.next_hops for row in await self.fib.installed()}
            await self.carrier.adopt(config, node, planned.ownership, ways)
        self._carrier_changed |= await self.carrier.configure(
            config, node, planned.ownership, lambda: set(self.fib.destinations)
        )
        self._tell_node_paths()  # before sessions go that said the same
        self._announcer.own, self._announcer.is_transit = self.own_prefixes, node.is_transit
        self.forwarding.set_own(self.own_prefixes)
        await self._sessions.follow(planned.sessions, config.graceful_restart_time_s)
        self.speaker.configure({key: each.session for key, each in planned.sessions.items() if not each.hindrance})
        self.wake()
        return planned

    @property
    def own_prefixes(self) -> tuple[Prefix, ...]:
        """What this node originates: the pod CIDRs it owns."""
        return () if self.plan is None else self.plan.ownership.pod_cidrs_of(self.plan.node.name)

    @property
    def peers(self) -> Mapping[PeerKey, Peer]:
        """Every peer that is configured, whether there is a session with it or not."""
        return self._sessions.peers

    @property
    def is_deferring(self) -> bool:
        """Whether routes found at start are still left as they were (RFC 4724 section 4.1)."""
        return self._sessions.is_deferring

    @property
    def offers_restart(self) -> bool:
        """Whether graceful restart is configured."""
        return self._config.graceful_restart_time_s is not None

    def waiting_for(self) -> frozenset[PeerKey]:
        """Peers whose End-of-RIB is awaited before routes of before the restart are touched."""
        return self._sessions.waiting_for()

    def coming_up(self) -> frozenset[PeerKey]:
        """Peers that a fresh node should hear before it takes pods; none when it has waited long enough."""
        return self._sessions.coming_up()

    def set_drain(self, wishes: Mapping[str, Wish]) -> None:
        """Take over who wants this node drained. Times are of the clock that this was made with."""
        self.drain.replace(wishes)
        self._announcer.stage = self.drain.stage(self._now())
        for peer in self.peers.values():
            self._announcer.advertise(peer)
        self.wake()

    def look_again(self) -> None:
        """Have links and tunnels looked at again."""
        self._attention.doubt_everything(self._now())
        self.wake()

    def set_pod_mtu(self, mtu: int) -> None:
        """Have routes to pods of other nodes say what these take, in bytes, where links take more; 0: no route does."""
        if mtu != self._pod_mtu:
            self._pod_mtu, self._mtu_changed = mtu, True
            self.wake()

    def _mtu_of(self, destination: Prefix) -> int:
        is_of_pods = self.plan is not None and destination in self.plan.ownership.pod_cidrs
        return (self._pod_mtu or 0) if is_of_pods else 0

    def _has_other_mtus(self, before: Ownership, after: Ownership) -> bool:
        """Whether routes that are there lead to pods now, or do no more."""
        if not self._pod_mtu or after.pod_cidrs is before.pod_cidrs:
            return False
        return any(prefix in self.rib.chosen() for prefix in before.pod_cidrs.differing(after.pod_cidrs))

    def confirm_full_list(self) -> None:
        """Say that all objects were read again: deletions that still stand are meant."""
        self.fib.guard.confirm()
        self.wake()

    def _tell_node_paths(self) -> None:
        """Have the RIB know what Node objects say; sessions that are to say it in their place get time for it."""
        if self.plan is None:
            return
        keep: Mapping[Prefix, IPAddress] = {}
        has_told = self._parting.deadline is None and self._sessions.have_told_all(self.plan.sessions.values())
        if self._config.node_routes is NodeRoutes.BGP and not has_told:
            keep = self.carrier.on_link_paths()
        self._node_paths.tell(self.carrier.node_paths.next_hops, keep, self._now())

    # Running

    def wake(self) -> None:
        """Something changed: have the worker look."""
        if self._woken_at is None:
            self._woken_at = self._now()
        self._is_idle.clear()
        self._wake.set()

    async def run(self) -> None:
        """Follow the speaker and the kernel until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_speaker(), name="speaker events")
            tasks.create_task(self._follow_kernel(), name="kernel events")
            tasks.create_task(self._work(), name="worker")

    async def settled(self) -> None:
        """Wait until the worker has nothing left to do."""
        await self._is_idle.wait()

    async def _follow_speaker(self) -> None:
        async for event in self.speaker.events():
            await self._sessions.hear(event)
            self.wake()

    async def _follow_kernel(self) -> None:
        async for events in self._monitor.batches():
            has_work = [self._hear_kernel(event) for event in events]
            for hear in self.kernel_listeners:
                hear(events)
            if any(has_work):
                self.wake()

    async def _work(self) -> None:
        while True:
            deadline = self._next_deadline()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, deadline - self._now())):
                    await self._wake.wait()
            self._wake.clear()
            woken_at, self._woken_at = self._woken_at, None
            await self._work_once()
            if woken_at is not None:
                metrics.RECONCILE_SECONDS.observe(self._now() - woken_at)
            if not self._wake.is_set():
                self._is_idle.set()

    def _next_deadline(self) -> float:
        held = self.fib.guard.held
        deadlines = [self._resync_at, self._retry_at, self._attention.deadline, held.until if held else None]
        deadlines.append(self._sessions.next_deadline)
        deadlines.append(self.drain.next_deadline(self._now()))
        deadlines += [self.carrier.next_deadline, self._node_paths.next_deadline, self._parting.deadline]
        return min(deadline for deadline in deadlines if deadline is not None)

    async def _work_once(self) -> None:
        now = self._now()
        self._sessions.tick(now)
        if self.drain.stage(now) is not self._announcer.stage:
            self.set_drain(self.drain.wishes)
        if self._parting.deadline is not None and now >= self._parting.deadline:
            await self._plan_again()
        self._carrier_changed |= await self.carrier.tick(keeps_former=not self._announcer.is_complete)
        if (doubts := self._attention.take(now)) is not None:
            await self._follow_kernel_changes(doubts)
        if self._carrier_changed:
            self._carrier_changed = False
            self.forwarding.follow_carrier(self.rib)
        self._tell_node_paths()
        await self._decide()
        if self.plan is not None and not self._announcer.is_complete and not self.is_deferring:
            await self._end_deferral()
        if now >= self._resync_at:
            self._resync_at = now + RESYNC_INTERVAL_S
            await self.carrier.mend(thorough=True)
            with contextlib.suppress(OSError):  # `apply` meets it again, and says so
                await self.fib.resync()
        await self._write()

    async def _decide(self) -> None:
        while True:
            self.rib.set_reachability(self.forwarding.resolve(self.rib.take_unresolved()))
            if not self.rib.has_work:
                return
            changed = self.rib.decide(DECISIONS_AT_A_TIME)
            self.forwarding.install(changed)
            self._announcer.pass_on(self.peers.values(), changed.keys())
            await asyncio.sleep(0)

    async def _write(self) -> None:
        """Have the kernel catch up; what it refuses is tried again, less and less often."""
        if self._retry_at is not None and self._now() >= self._retry_at:
            self._retry_at = None
            self.fib.retry()
        written = self.fib.written
        if self._mtu_changed:
            self._mtu_changed = False
            await self.fib.choose_mtu(self._mtu_of)
        try:
            await self.fib.apply()
        except OSError as error:
            self._try_again("kernel.unreadable", reason=str(error))
            return
        if self.fib.written != written:
            for hear in self.route_listeners:
                hear()
        if not (errors := self.fib.errors):
            self._failures, self._retry_at = 0, None
        elif self._retry_at is None:
            first = next(iter(errors.values()))
            self._try_again("routes.refused", count=len(errors), prefix=str(first.destination), reason=first.message)

    def _try_again(self, event: str, **facts: object) -> None:
        if self._failures == 0:
            log.warning(event, **facts)
        self._retry_at = self._now() + RETRY_DELAYS_S[min(self._failures, len(RETRY_DELAYS_S) - 1)]
        self._failures += 1

    async def _end_deferral(self) -> None:
        log.info("restart.complete", prefixes=len(self.rib.chosen()))
        self._announcer.is_complete = True
        await self.fib.release()
        for peer in self.peers.values():
            self._announcer.advertise(peer)
            self._announcer.finish(peer)

    # What the kernel says

    def _hear_kernel(self, event: KernelEvent) -> bool:
        """Note what changed; whether the worker has to know now."""
        match event:
            case OwnRouteChanged():
                self.fib.route_changed(event.destination)
            case OwnNextHopsChanged():
                self.fib.next_hops_changed()
            case LinkChanged() | AddressChanged():
                is_tunnel = self.carrier.owns(event.interface)
                self._tunnels_changed |= is_tunnel
                is_used = self.fib.link_changed(event.interface)
                return self._attention.heed(event, self._now(), is_urgent=is_used or is_tunnel)
            case ForeignRouteChanged():
                is_urgent = self._is_way_to_somebody(event.destination)
                return self._attention.heed(event, self._now(), is_urgent=is_urgent)
            case ForeignNextHopsChanged():
                self._attention.doubt_everything(self._now())
            case Overflow():
                log.warning("kernel.events_lost")
                self._attention.doubt_everything(self._now())
                self._resync_at = self._now()
        return True

    def _is_way_to_somebody(self, destination: Prefix) -> bool:
        """Whether a route to a single address is one to a peer or a next hop."""
        if not destination.is_host:
            return False
        address = ip_address(destination.packed)
        return address in self.peers or self.carrier.has_resolved(address)

    async def _follow_kernel_changes(self, doubts: Doubts) -> None:
        """Links, addresses or foreign routes changed: resolve again, and plan again if our own address is another."""
        thorough, self._tunnels_changed = self._tunnels_changed, False
        await self.carrier.mend(thorough=thorough)
        await self.forwarding.follow_kernel(self.rib, doubts)
        await self.carrier.follow_kernel()
        if self.plan is not None and await self._local_addresses.look(self._config, self.plan.node):
            await self._plan_again()
