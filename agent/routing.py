"""The loop that makes a node a BGP speaker: configuration, sessions and kernel events in, routes and announcements out.

All decisions are made elsewhere (`bgp`), all kernel writes too (`felix`). Here events meet state, in one place and
on one event loop: `configure` takes a new configuration, `run` follows the speaker and the kernel. Handlers only
note what changed and wake the worker; the worker resolves, decides, announces and writes until nothing is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import structlog

from agent import metrics
from agent.announcing import Announcer
from agent.carrier import Carrier
from agent.forwarding import NOT_RESILIENT, Forwarding
from agent.local_addresses import LocalAddresses
from agent.nodepaths import NodePathTeller
from agent.parting import Parting
from agent.peers import Peer
from bgp.config import BgpConfig, Node, NodeRoutes
from bgp.deferral import Deferral
from bgp.drain import Drain, Wish
from bgp.graceful_restart import Action, Retention
from bgp.graceful_restart import Event as RestartEvent
from bgp.path import PeerKey, Source
from bgp.peering import Plan, PlannedSession, plan
from bgp.rib import Rib
from bgp.speaker import EndOfRib, Event, SessionDown, SessionUp, Speaker, SpeakerLost, Update
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
from inet.prefix import Family, IPAddress, Prefix

DECISIONS_AT_A_TIME: Final = 2000
"""Prefixes decided before the event loop gets a turn: about 10 ms."""

RETRY_DELAYS_S: Final = (0.2, 0.5, 1, 2, 5, 10, 30)
"""Pauses between attempts to write what the kernel refused."""

SETTLING_S: Final = 0.05
"""How long news of links that no route of ours uses may gather: a pod that comes or goes makes a dozen of them."""

RESYNC_INTERVAL_S: Final = 300.0
"""How often everything of ours is read back from the kernel, whatever events say."""

SILENCE_S: Final = 5.0
"""How long after SessionUp a peer whose routes were kept counts as back even if it has said nothing.

When both ends call, one may see a session up that the other one gives up for the second connection (RFC 4271 section
6.8). Were that a restart and then another one, what is kept would have to go (RFC 4724 section 4.2)."""

PATIENCE_S: Final = 120.0
"""How long at most routes of Node objects outlive the wish for them, until BGP has said the same."""

CONNECTION_COLLISION: Final = (6, 7)
"""The NOTIFICATION that ends one of two connections with a peer, the other being kept (RFC 4486 section 4)."""

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
        self.peers: dict[PeerKey, Peer] = {}
        self.plan: Plan | None = None
        self.deferral: Deferral | None = None
        self.drain = Drain()
        self.route_listeners: list[Callable[[], None]] = []
        """Called whenever routes were written."""
        self.kernel_listeners: list[Callable[[Sequence[KernelEvent]], None]] = []
        """Called with news of the kernel."""
        self.carrier = carrier
        self.forwarding = Forwarding(fib, carrier)
        self._node_paths = NodePathTeller(self.rib, PATIENCE_S)
        self._announcer = Announcer(speaker, self.rib)
        self._config = BgpConfig()
        self._monitor = monitor
        self._now = now
        self._local_addresses = LocalAddresses(carrier)
        self._parting = Parting()
        self._wake = asyncio.Event()
        self._woken_at: float | None = None
        self._is_idle = asyncio.Event()
        self._failures = 0
        self._retry_at: float | None = None
        self._resync_at = now() + RESYNC_INTERVAL_S
        self._look_at: float | None = None  # when links and foreign routes are to be looked at again
        self._tunnels_changed = False
        self._carrier_changed = False

    # Configuration

    async def configure(self, config: BgpConfig, node: Node) -> Plan:
        """Take a new configuration. Sessions, rules and announcements that stay the same are not touched."""
        await self._local_addresses.look(config, node)
        planned = plan(config, node, self._local_addresses.by_peer)
        planned = self._parting.extend(config.node_routes, planned, self._now())
        first = self.plan is None
        self.plan, self._config = planned, config
        if first:
            self.deferral = Deferral(started=self._now(), limit_s=config.graceful_restart_time_s or 0.0)
        self.rib.set_max_paths(config.max_paths)
        if not await self.forwarding.choose_resilient(wanted=config.resilient_multipath):
            self.plan = planned = replace(planned, complaints=(*planned.complaints, NOT_RESILIENT))
        self._carrier_changed |= await self.carrier.configure(config, node, planned.ownership)
        self._tell_node_paths()  # before sessions go that said the same
        self._announcer.own, self._announcer.is_transit = self.own_prefixes, node.is_transit
        self.forwarding.set_own(self.own_prefixes)
        for key in self.peers.keys() - planned.sessions.keys():
            await self._close(self.peers.pop(key), "no longer configured")
        for key, session in planned.sessions.items():
            await self._adopt_plan(key, session)
        running = {key: each.session for key, each in planned.sessions.items() if not each.hindrance}
        if self.deferral is not None:
            self.deferral.expect(running)
        self.speaker.configure(running)
        self.wake()
        return planned

    @property
    def own_prefixes(self) -> tuple[Prefix, ...]:
        """What this node originates: the pod CIDRs it owns."""
        return () if self.plan is None else self.plan.ownership.pod_cidrs_of(self.plan.node.name)

    @property
    def is_deferring(self) -> bool:
        """Whether routes found at start are still left as they were (RFC 4724 section 4.1)."""
        return self.deferral is None or bool(self.waiting_for())

    @property
    def offers_restart(self) -> bool:
        """Whether graceful restart is configured."""
        return self._config.graceful_restart_time_s is not None

    def waiting_for(self) -> frozenset[PeerKey]:
        """Peers whose End-of-RIB is awaited before routes of before the restart are touched."""
        return self.deferral.waiting_for(self._now()) if self.deferral else frozenset()

    def set_drain(self, wishes: Mapping[str, Wish]) -> None:
        """Take over who wants this node drained. Times are of the clock that this was made with."""
        self.drain.replace(wishes)
        self._announcer.stage = self.drain.stage(self._now())
        for peer in self.peers.values():
            self._announcer.advertise(peer)
        self.wake()

    def look_again(self) -> None:
        """Have links and tunnels looked at again."""
        self._kernel_changed()
        self.wake()

    def confirm_full_list(self) -> None:
        """Say that all objects were read again: deletions that still stand are meant."""
        self.fib.guard.confirm()
        self.wake()

    async def _adopt_plan(self, key: PeerKey, planned: PlannedSession) -> None:
        peer = self.peers.get(key)
        if peer is None:
            own_restart_time = self._config.graceful_restart_time_s or 120
            self.peers[key] = Peer(planned, Retention(own_restart_time), since=time.time())
            return
        peer.planned = planned
        if planned.hindrance:
            await self._close(peer, planned.hindrance)
        else:
            self.rib.set_rules(key, planned.rules)
            self._announcer.advertise(peer)

    def _tell_node_paths(self) -> None:
        """Have the RIB know what Node objects say; sessions that are to say it in their place get time for it."""
        if self.plan is None:
            return
        keep: Mapping[Prefix, IPAddress] = {}
        if self._config.node_routes is NodeRoutes.BGP and not self._has_heard_everyone():
            keep = self.carrier.on_link_paths()
        self._node_paths.tell(self.carrier.node_paths.next_hops, keep, self._now())

    def _has_heard_everyone(self) -> bool:
        """Whether every session that should be has sent all it knows."""
        running = [peer for peer in self.peers.values() if not peer.planned.hindrance]
        planned = self.plan.sessions.values() if self.plan else ()
        return len(running) == sum(not each.hindrance for each in planned) and all(
            peer.established is not None and not peer.awaits_end_of_rib for peer in running
        )

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
            await self._on_speaker(event)
            self.wake()

    async def _follow_kernel(self) -> None:
        async for events in self._monitor.batches():
            for event in events:
                self._on_kernel(event)
            for hear in self.kernel_listeners:
                hear(events)
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
        deadlines = [self._resync_at, self._retry_at, self._look_at, held.until if held else None]
        deadlines.append(self.deferral.next_deadline() if self.deferral else None)
        deadlines.append(self.drain.next_deadline(self._now()))
        deadlines += [self.carrier.next_deadline, self._node_paths.next_deadline, self._parting.deadline]
        deadlines += [peer.retention.next_deadline() for peer in self.peers.values()]
        deadlines += [peer.silent_until for peer in self.peers.values()]
        return min(deadline for deadline in deadlines if deadline is not None)

    async def _work_once(self) -> None:
        now = self._now()
        for peer in self.peers.values():
            if peer.silent_until is not None and now >= peer.silent_until:
                self._welcome_back(peer)
            self._act(peer, peer.retention.handle(RestartEvent.TIMER, now))
            self._announcer.ask_again(peer, now)
        if self.drain.stage(now) is not self._announcer.stage:
            self.set_drain(self.drain.wishes)
        if self.plan is not None and self._parting.deadline is not None and now >= self._parting.deadline:
            await self.configure(self._config, self.plan.node)
        self._carrier_changed |= await self.carrier.tick()
        if self._look_at is not None and now >= self._look_at:
            await self._follow_kernel_changes()
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

    # What the speaker says

    async def _on_speaker(self, event: Event) -> None:
        if isinstance(event, SpeakerLost):
            self._on_speaker_lost(event)
            return
        peer = self.peers.get(event.peer)
        if peer is None or peer.planned.hindrance:
            return  # the last words of a session that is being taken down
        match event:
            case Update():
                self._welcome_back(peer)
                if event.peer in self.rib.peers():
                    if event.withdrawn:
                        self.rib.withdraw(event.peer, event.withdrawn)
                    if event.attributes is not None:
                        self.rib.learn(event.peer, event.attributes, event.announced)
            case SessionUp():
                self._on_up(peer, event)
            case SessionDown():
                await self._on_down(peer, event)
            case EndOfRib():
                self._welcome_back(peer)
                self._on_end_of_rib(peer, event.family)

    def _on_up(self, peer: Peer, event: SessionUp) -> None:
        session, now = peer.planned.session, self._now()
        log.info("session.up", peer=str(event.peer), origin=session.origin, families=_names(event.families))
        peer.established, peer.since, peer.last_error = event, time.time(), ""
        peer.announced = {}
        peer.awaits_end_of_rib = set(event.families)
        peer.owes_end_of_rib = set(event.families)
        source = Source(event.peer, session.peer_asn, session.is_internal, event.router_id)
        self.rib.open(source, peer.planned.rules)
        offer = event.graceful_restart
        peer.retention.offered(offer)
        kept_until = peer.retention.next_deadline()
        if kept_until is not None and offer is not None:
            peer.silent_until = min(kept_until, now + SILENCE_S)
        else:
            self._act(peer, peer.retention.handle(RestartEvent.SESSION_UP, now))
        if self.deferral is not None:
            self.deferral.session_up(event.peer, event.families, sends_end_of_rib=offer is not None, now=now)
        self._announcer.advertise(peer)
        self._announcer.finish(peer)

    def _welcome_back(self, peer: Peer) -> None:
        """Have a peer whose routes were kept be back, now that it has spoken, or stayed."""
        if peer.silent_until is not None:
            peer.silent_until = None
            self._act(peer, peer.retention.handle(RestartEvent.SESSION_UP, self._now()))

    async def _on_down(self, peer: Peer, event: SessionDown) -> None:
        peer.last_error = event.reason
        if not event.was_established or peer.established is None:
            return
        offers_restart = peer.planned.session.graceful_restart_time_s is not None
        is_cut = event.notification in {None, CONNECTION_COLLISION}
        is_lost = is_cut and offers_restart and peer.retention.can_be_lost
        log.warning(
            "session.down",
            peer=str(event.peer),
            origin=peer.planned.session.origin,
            reason=event.reason,
            routes="kept" if is_lost else "withdrawn",
        )
        if not is_lost:
            await self._close(peer, event.reason)
            return
        self._note_down(peer, event.reason)
        self._act(peer, peer.retention.handle(RestartEvent.SESSION_LOST, self._now()))

    def _on_end_of_rib(self, peer: Peer, family: Family) -> None:
        key = peer.planned.session.peer
        if peer.established is None:
            return
        self.rib.sweep(key, [family])
        peer.awaits_end_of_rib.discard(family)
        if not peer.awaits_end_of_rib:
            self._act(peer, peer.retention.handle(RestartEvent.REFRESHED, self._now()))
        if self.deferral is not None:
            self.deferral.end_of_rib(key, family)

    def _on_speaker_lost(self, event: SpeakerLost) -> None:
        log.error("speaker.lost", reason=event.reason)
        for peer in self.peers.values():
            self._welcome_back(peer)  # it was: this end is no word of the peer's
            if peer.established is not None:
                self._note_down(peer, event.reason)
            self._act(peer, peer.retention.handle(RestartEvent.SPEAKER_LOST, self._now()))

    async def _close(self, peer: Peer, reason: str) -> None:
        """End a session for good: its paths go, all prefixes with an equal path at once, the others one by one."""
        key = peer.planned.session.peer
        if peer.established is not None:
            self._note_down(peer, reason)
        await self.forwarding.fail_over(self.rib.failover(lambda path: path.source.peer == key))
        self._act(peer, peer.retention.handle(RestartEvent.SESSION_CLOSED, self._now()))

    def _note_down(self, peer: Peer, reason: str) -> None:
        peer.established, peer.since, peer.last_error = None, time.time(), reason
        peer.silent_until = None
        peer.flaps += 1
        if self.deferral is not None:
            self.deferral.session_down(peer.planned.session.peer)

    def _act(self, peer: Peer, actions: tuple[Action, ...]) -> None:
        key, retention = peer.planned.session.peer, peer.retention
        for action in actions:
            match action:
                case Action.MARK_STALE:
                    self.rib.mark_stale(key, retention.kept_families)
                case Action.SWEEP:
                    self.rib.sweep(key)
                case Action.SWEEP_NOT_FORWARDED:
                    self.rib.sweep(key, frozenset(Family) - retention.forwarded)
                case Action.DROP:
                    self.rib.drop(key)
                case Action.DROP_NOT_KEPT:
                    gone = frozenset(Family) - retention.kept_families
                    self.rib.mark_stale(key, gone)
                    self.rib.sweep(key, gone)

    # What the kernel says

    def _on_kernel(self, event: KernelEvent) -> None:
        match event:
            case OwnRouteChanged():
                self.fib.route_changed(event.destination)
            case OwnNextHopsChanged():
                self.fib.next_hops_changed()
            case LinkChanged() | AddressChanged():
                is_tunnel = self.carrier.owns(event.interface)
                self._tunnels_changed |= is_tunnel
                self._kernel_changed(0.0 if self.fib.link_changed(event.interface) or is_tunnel else SETTLING_S)
            case ForeignRouteChanged():
                self._kernel_changed(SETTLING_S if event.destination.is_host else 0.0)
            case ForeignNextHopsChanged():
                self._kernel_changed()
            case Overflow():
                log.warning("kernel.events_lost")
                self._kernel_changed()
                self._resync_at = self._now()

    def _kernel_changed(self, within_s: float = 0.0) -> None:
        """Have links and foreign routes looked at again, now or in a moment."""
        due = self._now() + within_s
        self._look_at = due if self._look_at is None else min(self._look_at, due)

    async def _follow_kernel_changes(self) -> None:
        """Links, addresses or foreign routes changed: resolve again, and plan again if our own address is another."""
        thorough, self._look_at, self._tunnels_changed = self._tunnels_changed, None, False
        await self.carrier.mend(thorough=thorough)
        await self.forwarding.follow_kernel(self.rib)
        await self.carrier.follow_kernel()
        if self.plan is not None and await self._local_addresses.look(self._config, self.plan.node):
            await self.configure(self._config, self.plan.node)


def _names(families: Iterable[Family]) -> list[str]:
    return [family.label for family in sorted(families)]
