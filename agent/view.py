"""Reports made from the running state: what `tortie status`, `peers` and `routes` show. Reads, never writes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address

from agent import __version__, carriage_report
from agent.clusterreport import ClusterReport, cluster_report
from agent.datastore import Datastore
from agent.drops import DropWatch
from agent.enforcement import NodePolicy
from agent.network import NodeNetwork
from agent.nodepaths import NODE_OBJECTS
from agent.objects.problem import Problem
from agent.peers import Peer
from agent.report import (
    AdvertisedRoute,
    AvailableRoute,
    CniReport,
    ConditionReport,
    DrainReport,
    FamilyCounts,
    InstalledRoute,
    PeerReport,
    PolicyReport,
    RouteExplanation,
    StatusReport,
    timestamp,
)
from agent.routing import Routing
from agent.tunnel_devices import Wrappings
from bgp.drain import Stage
from bgp.path import AsPath, Attributes
from bgp.peering import router_id
from bgp.rib import Candidate
from felix.installed import InstalledRoute as KernelRoute
from felix.installed import State
from felix.protocol import protocol_name
from felix.route import Kind, NextHop
from inet.prefix import Family, IPAddress, Prefix


class View:
    """Looks at one agent. `problems` tells what of the objects is not in force as written."""

    def __init__(
        self,
        node: str,
        routing: Routing,
        policy: NodePolicy,
        drops: DropWatch,
        datastore: Datastore,
        *,
        network: NodeNetwork,
        cni: Callable[[], CniReport] = CniReport,
        problems: Callable[[], Sequence[Problem | str]] = tuple,
    ) -> None:
        self.node = node
        self.policy = policy
        self.drops = drops
        self._routing = routing
        self._datastore = datastore
        self._network = network
        self._cni = cni
        self._problems = problems
        self._started = time.time()

    # Sessions

    def peers(self) -> list[PeerReport]:
        """Every session, in the order of their addresses."""
        peers = self._routing.peers.values()
        return [
            self._peer(peer)
            for peer in sorted(
                peers, key=lambda peer: (peer.planned.session.peer.version, int(peer.planned.session.peer))
            )
        ]

    def _peer(self, peer: Peer) -> PeerReport:
        session, up = peer.planned.session, peer.established
        families = sorted(up.families if up else session.families)
        return PeerReport(
            node=self.node,
            peer=str(session.peer),
            origin=session.origin,
            local_asn=session.local_asn,
            peer_asn=session.peer_asn,
            state=peer.state,
            since=timestamp(peer.since),
            uptime_seconds=time.time() - peer.since if up else None,
            reason=peer.reason,
            last_error=peer.last_error,
            flaps=peer.flaps,
            router_id=str(up.router_id) if up else "",
            families=[self._counts(peer, family) for family in families],
        )

    def _counts(self, peer: Peer, family: Family) -> FamilyCounts:
        entry = self._routing.rib.peers().get(peer.planned.session.peer)
        received = entry.counts[family] if entry else 0
        refused = _count(entry.refused, family) if entry else 0
        return FamilyCounts(
            family=family.label,
            received=received,
            accepted=received - refused,
            refused=refused,
            stale=_count(entry.stale, family) if entry else 0,
            discarded=entry.overflow[family] if entry else 0,
            announced=_count(peer.announced, family),
        )

    # Routes

    def available(self) -> list[AvailableRoute]:
        """Every path of every peer, with what became of it."""
        prefixes = {prefix for entry in self._routing.rib.peers().values() for prefix in entry.received}
        return [row for prefix in _in_order(prefixes) for row in self._paths(prefix)]

    def advertised(self) -> list[AdvertisedRoute]:
        """Everything announced, peer by peer."""
        rows = []
        for peer in self._routing.peers.values():
            for prefix in _in_order(peer.announced):
                attributes = peer.announced[prefix]
                rows.append(
                    AdvertisedRoute(
                        prefix=str(prefix),
                        peer=str(peer.planned.session.peer),
                        origin=peer.planned.session.origin,
                        next_hop=str(attributes.next_hop),
                        as_path=_as_list(attributes.as_path),
                        local_preference=attributes.local_pref,
                        med=attributes.med,
                        communities=_communities(attributes),
                    )
                )
        return rows

    async def installed(self) -> list[InstalledRoute]:
        """Every route of ours, with its state in the kernel."""
        wrappings = self._routing.carrier.wrappings()
        return [self._installed(row, wrappings) for row in await self._routing.fib.installed()]

    async def explain(self, prefix: Prefix) -> RouteExplanation:
        """Say everything about one prefix."""
        routing = self._routing
        paths = self._paths(prefix)
        row = next((row for row in await routing.fib.installed() if row.destination == prefix), None)
        told = [str(peer.planned.session.peer) for peer in routing.peers.values() if prefix in peer.announced]
        note = ""
        if prefix in routing.own_prefixes:
            note = f"own pod CIDR of Node {self.node}"
        elif not paths:
            covering = [other for other in routing.rib.chosen() if other.contains(prefix)]
            note = "no peer announces it"
            if covering:
                note += f"; {max(covering, key=lambda other: other.length)} covers it"
            if why := carriage_report.left_out(routing, prefix):
                note += f"; {why}"
        return RouteExplanation(
            prefix=str(prefix),
            paths=paths,
            route=self._installed(row, self._routing.carrier.wrappings()) if row else None,
            advertised_to=told,
            note=note,
        )

    async def explain_address(self, address: IPAddress) -> RouteExplanation:
        """Say everything about the longest prefix that holds an address, as the kernel would choose it."""
        host = Prefix.of_host(address)
        known = {*self._routing.rib.chosen(), *(row.destination for row in await self._routing.fib.installed())}
        covering = [prefix for prefix in known if prefix.contains(host)]
        return await self.explain(max(covering, key=lambda prefix: prefix.length, default=host))

    def _paths(self, prefix: Prefix) -> list[AvailableRoute]:
        return [self._path(prefix, candidate) for candidate in self._routing.rib.explain(prefix)]

    def _path(self, prefix: Prefix, candidate: Candidate) -> AvailableRoute:
        path, attributes = candidate.path, candidate.path.attributes
        peer = self._routing.peers.get(path.source.peer)
        note = candidate.note
        if note.endswith("is unreachable") and (why := self._routing.forwarding.why_unreachable(path.next_hop)):
            note = f"{note}: {why}"
        return AvailableRoute(
            prefix=str(prefix),
            peer=str(path.source.peer) if peer else "",
            origin=peer.planned.session.origin if peer else f"Node/{carriage_report.node_of(self._routing, prefix)}",
            next_hop=str(path.next_hop),
            as_path=_as_list(attributes.as_path),
            local_preference=path.local_pref,
            med=attributes.med,
            communities=_communities(attributes),
            used=candidate.used,
            stale=candidate.stale,
            note=note,
        )

    def _installed(self, row: KernelRoute, wrappings: Wrappings) -> InstalledRoute:
        state = row.state.value
        if row.rival is not None and row.state is State.SHADOWED:
            state = f"shadowed by {protocol_name(row.rival.protocol)} (metric {row.rival.metric})"
        elif row.reason:
            state = f"{state}: {row.reason}"
        return InstalledRoute(
            prefix=str(row.destination),
            via=["blackhole"] if row.kind is Kind.BLACKHOLE else [_hop(hop, wrappings) for hop in row.next_hops],
            origin=self.origin(row.destination),
            state=state,
            age_seconds=None if row.since is None else time.monotonic() - row.since,
            carried=carriage_report.carried(self._routing, row, wrappings),
        )

    def origin(self, prefix: Prefix) -> str:
        """Say where a route of ours comes from."""
        if prefix in self._routing.own_prefixes:
            return "own pod CIDR"
        choice = self._routing.rib.chosen().get(prefix)
        if choice is None:
            return "from before the restart"
        source = choice.best.source
        if source.peer == NODE_OBJECTS:
            return f"Node {carriage_report.node_of(self._routing, prefix)}"
        kind = "iBGP" if source.is_internal else "eBGP"
        return f"{kind} {str(choice.best.attributes.as_path) or source.peer}"

    # The node

    def status(self) -> StatusReport:
        """The node in short."""
        routing = self._routing
        health = routing.speaker.health()
        node = routing.plan.node if routing.plan else None
        conditions = self.conditions()
        return StatusReport(
            node=self.node,
            version=__version__,
            ready=all(condition.status == "True" for condition in conditions if condition.type == "Ready"),
            local_asn=node.asn if node else None,
            router_id=str(router_id(node)) if node else "",
            pod_cidrs=[str(prefix) for prefix in routing.own_prefixes],
            sessions_established=self._established(),
            sessions_configured=len(routing.peers),
            sessions_pending=len(health.sessions_out_of_sync),
            routes_installed=routing.fib.count,
            routes_pending=routing.fib.pending,
            routes_refused=len(routing.fib.errors),
            kernel_writes=routing.fib.written,
            kernel_refusals=routing.fib.refused,
            routes_repaired=routing.fib.repaired,
            prefixes_known=len(routing.rib.chosen()),
            restarting=routing.is_deferring,
            waiting_for=sorted(map(str, routing.waiting_for())),
            speaker_running=health.running,
            speaker_restarts=health.restarts,
            uptime_seconds=time.time() - self._started,
            policy=self._policy_report(),
            tunnels=carriage_report.tunnels(routing),
            conditions=conditions,
            problems=[*map(str, self._problems()), *self._network.problems],
            network=self._network.report(),
            cni=self._cni(),
            drain=self.drain(),
        )

    def cluster(self) -> ClusterReport:
        """The cluster as this node's settings depend on it."""
        return cluster_report(self.node, self._network.around)

    def drain(self) -> DrainReport:
        """Whether the node is being drained, and by whom."""
        drain, now, wall = self._routing.drain, time.monotonic(), time.time()
        if not drain.wishes:
            return DrainReport()
        wishes = drain.wishes.values()
        return DrainReport(
            state=drain.stage(now).value,
            by=sorted(drain.wishes),
            reason="; ".join(sorted({wish.reason for wish in wishes if wish.reason})),
            since=timestamp(wall - now + min(wish.since for wish in wishes)),
            withdraw_at=timestamp(wall - now + min(wish.withdraw_at for wish in wishes)),
        )

    def objections(self) -> list[Problem]:
        """What is wrong with objects that somebody wrote."""
        return [problem for problem in self._problems() if isinstance(problem, Problem)]

    def _policy_report(self) -> PolicyReport:
        policy, ruleset = self.policy, self.policy.engine.ruleset
        return PolicyReport(
            wanted=policy.is_wanted,
            in_kernel=policy.is_in_kernel,
            error=policy.error,
            policies=policy.count,
            pods=len({endpoint.pod for endpoint in ruleset.endpoints.values()}),
            unlinked=policy.unlinked,
            chains=len(ruleset.chains),
            sets=len(ruleset.sets),
            repaired=policy.repaired,
            connections_cut=policy.cutter.count,
        )

    def conditions(self) -> list[ConditionReport]:
        """Ready, and what is worth knowing besides. One peer down does not make a node unready."""
        return [self._ready(), *self._oddities(), *self._network.conditions()]

    def _ready(self) -> ConditionReport:
        reason, message = self.unready()
        if reason:
            return ConditionReport("Ready", "False", reason, message)
        established, configured = self._established(), len(self._routing.peers)
        return ConditionReport("Ready", "True", "InSync", f"{established} of {configured} sessions established")

    def unready(self) -> tuple[str, str]:
        """Why the node cannot carry pods: a reason in CamelCase and a sentence; empty when it can."""
        routing, health = self._routing, self._routing.speaker.health()
        source = self._datastore.health()
        if not source.is_synced:
            return "NotSynced", f"the objects have not been read yet; {source.source}: {source.error or 'reading'}"
        if routing.plan is None:
            return "NodeMissing", f"there is no Node object {self.node}"
        if not routing.own_prefixes:
            hint = "the controller manager gives it some (--allocate-node-cidrs), or whoever made the Node"
            return "NoPodCIDRs", f"Node {self.node} has no podCIDRs yet: {hint}"
        if self.policy.error:
            return "PolicyNotEnforced", f"pods get nothing new: {self.policy.error}"
        if reason := self._cni().hindrance:
            return "NoPodNetwork", f"no pod can be wired: {reason}"
        if message := carriage_report.unreachable(routing):
            return "TunnelMissing", message
        if routing.peers and not health.running:
            return "SpeakerDown", health.last_error or "the BGP speaker is not running"
        wanted = [peer for peer in routing.peers.values() if not peer.planned.hindrance]
        if routing.peers and not self._established():
            first = next(iter(wanted or routing.peers.values()))
            return "NoSession", f"no session is established; {first.planned.session.peer}: {first.reason}"
        if routing.fib.errors:
            error = next(iter(routing.fib.errors.values()))
            return "KernelRefused", f"{len(routing.fib.errors)} routes refused; {error.destination}: {error.message}"
        return "", ""

    def _oddities(self) -> Iterable[ConditionReport]:
        source = self._datastore.health()
        if source.is_synced and source.error:
            message = f"{source.source}: {source.error}; what was read before stays in force"
            yield ConditionReport("ObjectsUnreadable", "True", "LastStateKept", message)
        health = self._routing.speaker.health()
        if health.running and health.last_error:
            yield ConditionReport("SpeakerImpaired", "True", "NotAllInForce", health.last_error)
        if (drain := self.drain()).state:
            means = f"withdrawn since {drain.withdraw_at}"
            if drain.state == Stage.DRAINING.value:
                means = f"announced as the last choice, withdrawn at {drain.withdraw_at}"
            message = f"{means}; wanted by {' and '.join(drain.by)}" + (f": {drain.reason}" if drain.reason else "")
            yield ConditionReport(drain.state, "True", "DrainWanted", message)
        yield from carriage_report.oddities(self._routing)
        if (held := self._routing.fib.guard.held) is not None:
            left = f"{max(0, held.until - time.monotonic()):.0f} s"
            message = (
                f"{held.removals} of {held.total} routes would go at once; they go in {left} unless they come back"
            )
            yield ConditionReport("MassDeleteHeldBack", "True", "TooManyAtOnce", message)

    def _established(self) -> int:
        return sum(peer.established is not None for peer in self._routing.peers.values())


def _hop(hop: NextHop, wrappings: Wrappings) -> str:
    if (wrapping := wrappings.of(hop)) is not None:
        return carriage_report.words(hop, wrapping)
    try:
        interface = socket.if_indextoname(hop.interface)
    except OSError:
        interface = f"link {hop.interface}, gone"
    return f"{ip_address(hop.gateway)} {interface}" if hop.gateway else interface


def _count(prefixes: Iterable[Prefix], family: Family) -> int:
    return sum(prefix.family is family for prefix in prefixes)


def _in_order(prefixes: Iterable[Prefix]) -> list[Prefix]:
    return sorted(prefixes, key=lambda prefix: (len(prefix.packed), prefix))


def _as_list(path: AsPath) -> list[int]:
    return [*path.sequence, *sorted(path.aggregated)]


def _communities(attributes: Attributes) -> list[str]:
    return [":".join(map(str, each)) for each in (*attributes.communities, *attributes.large_communities)]
