"""The way of a packet, put together from what the nodes on it know: a pure function of their facts.

In: what the source's node and the destination's say, and why a node that should have been asked could not be. Out: a
`Journey`, the stages of the way as a person would draw them, up to where the packet ends and why. Nothing is asked
here, and what is not known is said, not guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from agent.pathreport import End, Fact, Journey, LinkFacts, NodeFacts, RouteFacts, Stage, WayFacts
from policy.explain import Explanation, TierStory
from policy.policies import Action
from policy.resident import Resident


def assemble(
    facts: Sequence[NodeFacts], unasked: Mapping[str, str], service: str = "", notes: Sequence[str] = ()
) -> Journey:
    """Return the way. `facts` is not empty; `unasked` has the reason for each node that could not be asked.

    `service` says why the destination is none, being a service address; `notes` what else is known of it.
    """
    return _Assembly({each.node: each for each in facts}, unasked, service, notes).journey()


class _Assembly:
    def __init__(
        self, facts: Mapping[str, NodeFacts], unasked: Mapping[str, str], service: str, notes: Sequence[str]
    ) -> None:
        first = next(iter(facts.values()))
        self._facts = facts
        self._unasked = unasked
        self._source, self._destination = first.source, first.destination
        self._policy = first.policy
        self._service = service
        self._notes: list[str] = [*notes]
        self._mtus: list[tuple[int, str]] = []

    def journey(self) -> Journey:
        stages = list(self._stages())
        dropped = next((fact for stage in stages for fact in stage.facts if fact.drops), None)
        unknown = next((fact for stage in stages for fact in stage.facts if fact.what == "unknown"), None)
        ending = dropped or unknown
        if dropped is None:
            self._judge_mtu()
        story = self._policy
        return Journey(
            verdict="dropped" if dropped else "unknown" if unknown else "arrives",
            reason=ending.text if ending else "",
            answers="" if dropped else self._why_no_answers(),
            source=self._source,
            destination=self._destination,
            protocol=story.protocol if story else "",
            port=story.port if story else None,
            mtu=min((mtu for mtu, _ in self._mtus), default=0),
            stages=tuple(stages),
            notes=tuple(dict.fromkeys(self._notes)),
            nodes=tuple(self._facts.values()),
        )

    # The way, stage by stage. It stops after the first fact that drops.

    def _stages(self) -> Iterator[Stage]:
        source, destination = self._source, self._destination
        for stage in self._passed():
            yield stage
            if any(fact.drops for fact in stage.facts):
                break
        else:
            if destination.node and destination.kind == "Pod":
                yield Stage(destination.node, _pod_place(destination, self._link_of(destination)))
            return
        if destination != source:
            yield Stage(destination.node, str(destination))

    def _passed(self) -> Iterator[Stage]:
        source, destination = self._source, self._destination
        here = self._facts.get(source.node) if source.node else None
        if not source.node:
            yield Stage("", str(source), (Fact("route", f"{self._fabric(destination)} is the fabric's to find"),))
        elif here is None:
            why = f"{source.node} was not asked: {self._unasked.get(source.node, 'it is not known')}"
            yield Stage(source.node, self._start(None), (Fact("unknown", why),))
        else:
            is_local = source.node == destination.node
            yield Stage(source.node, self._start(here), tuple(_until_drop(self._leaving(here, is_local=is_local))))
            if is_local:
                return
        if self._service:
            return
        if not destination.node:
            if here is not None:
                yield Stage("", self._wire(here, str(destination)))
                self._notes.append(self._beyond(here))
            return
        there = self._facts.get(destination.node)
        wire = self._wire(here, destination.node) if here else destination.node
        yield Stage(destination.node, wire, tuple(_until_drop(self._arriving(there))))

    def _beyond(self, here: NodeFacts) -> str:
        if here.route.kind == "local":
            what = f"{self._destination.address} is an address of {here.node} itself"
            return f"{what}, as those of Services are where kube-proxy uses IPVS"
        return f"beyond {here.node} nobody of this cluster can be asked"

    def _fabric(self, destination: End) -> str:
        return f"the way to {destination.node}" if destination.node else f"the way to {destination}"

    def _start(self, facts: NodeFacts | None) -> str:
        source = self._source
        if source.kind != "Pod":
            return str(source)
        link = facts.source_link if facts else None
        return f"{_pod_place(source, link)} ── {link.name if link else '?'} {source.node}"

    def _link_of(self, end: End) -> LinkFacts | None:
        facts = self._facts.get(end.node)
        return facts.destination_link if facts else None

    def _wire(self, facts: NodeFacts, to: str) -> str:
        """Return the piece of the drawing between two nodes: the link out, who takes it over, who is next."""
        route = facts.route
        outs = dict.fromkeys(way.interface for way in _ways(route))
        place = f"{facts.node} {' or '.join(outs)}".rstrip()
        hops = dict.fromkeys(_hop_text(way) for way in _ways(route) if way.gateway and not self._is_end(way))
        return " ── ".join((place, *((" or ".join(hops),) if hops else ()), to))

    def _is_end(self, way: WayFacts) -> bool:
        """Whether a way's next hop is the destination's node itself: nobody is in between."""
        return bool(self._destination.node) and way.node == self._destination.node

    # What happens on a node

    def _leaving(self, facts: NodeFacts, *, is_local: bool) -> Iterator[Fact]:
        if self._source.kind == "Pod":
            yield from _through_link(facts.source_link, self._source, facts.node)
            self._note_mtu(facts.source_link, self._source)
        if self._service:
            yield Fact("unknown", self._service)
            return
        yield from self._policies(facts, "egress")
        yield from self._policies(facts, "node")
        if is_local and self._destination.kind == "Pod":
            yield from self._delivery(facts)
            return
        yield from self._route(facts)
        if facts.nat:
            yield Fact("nat", facts.nat)

    def _arriving(self, facts: NodeFacts | None) -> Iterator[Fact]:
        node, destination = self._destination.node, self._destination
        if facts is None:
            asked = next(iter(self._facts.values()))
            yield from self._policies(asked, "ingress", f" (as {asked.node} knows it)")
            why = self._unasked.get(node, "it is not known")
            yield Fact("unknown", f"{node} was not asked: {why}")
            return
        if destination.kind == "Pod":
            yield from self._delivery(facts)
        elif facts.route.kind != "local":
            yield Fact("route", f"{destination.address} is no address of {node}", drops=True)
        else:
            yield from self._policies(facts, "ingress")

    def _delivery(self, facts: NodeFacts) -> Iterator[Fact]:
        """To a pod of this node: the route to its link, then what its policies say."""
        destination, route = self._destination, facts.route
        if facts.destination_link is None:
            why = route.error or (f"{route.prefix} {route.kind}" if route.prefix else "there is no route")
            yield Fact("link", f"no link of {facts.node} leads to {destination.address} ({why})", drops=True)
            return
        yield from self._judge_route(route, facts.node)
        yield Fact("route", f"{destination.address} dev {facts.destination_link.name}")
        yield from self._policies(facts, "ingress")
        yield from _through_link(facts.destination_link, destination, facts.node)
        self._note_mtu(facts.destination_link, destination)

    def _route(self, facts: NodeFacts) -> Iterator[Fact]:
        route = facts.route
        yield from self._judge_route(route, facts.node)
        yield Fact("route", _route_text(route))
        ways = _ways(route)
        deaf = [way for way in ways if way.neighbour == "failed"]
        if deaf and len(deaf) == len(ways):
            who = deaf[0].gateway or self._destination.address
            yield Fact("neighbour", f"{who} does not answer on {deaf[0].interface}", drops=True)
        elif deaf:
            self._notes.append(
                f"{deaf[0].gateway} on {deaf[0].interface} does not answer: flows that it takes are lost"
            )
        tunnels = dict.fromkeys(way.tunnel or "direct" for way in ways)
        yield Fact("tunnel", " or ".join(tunnels))
        if mtus := [way.mtu for way in ways if way.mtu]:
            self._mtus.append((min(mtus), f"{ways[0].interface} of {facts.node}"))
            yield Fact("mtu", f"MTU {min(mtus)}")

    def _judge_route(self, route: RouteFacts, node: str) -> Iterator[Fact]:
        if route.error:
            to = f" ({route.prefix})" if route.prefix else ""
            yield Fact("route", f"{self._destination.address}: {route.error} on {node}{to}", drops=True)
        elif route.kind in {"blackhole", "unreachable", "prohibit"}:
            yield Fact("route", f"{route.prefix} leads nowhere on {node} ({route.kind})", drops=True)

    def _policies(self, facts: NodeFacts, direction: str, remark: str = "") -> Iterator[Fact]:
        story = facts.policy
        if story is None:
            return
        tiers = [tier for tier in story.tiers if tier.direction == direction]
        if tiers:
            yield _policy_fact(direction, tiers[-1], remark)
        elif story.verdict == "deny" and not any(tier.action == Action.DENY for tier in story.tiers):
            yield Fact("policy", "; ".join(story.reasons) or "dropped by policy", drops=True)
        if facts.policy_error and tiers:
            self._notes.append(f"{facts.node} does not enforce policy as it should: {facts.policy_error}")
        if facts.drops:
            self._notes.append(f"{facts.node} dropped {facts.drops} such packets in the last minute (tortie drops)")

    # What is worth knowing of the whole

    def _note_mtu(self, link: LinkFacts | None, end: End) -> None:
        if link is not None and link.mtu:
            self._mtus.append((min(filter(None, (link.mtu, link.inner_mtu))), f"{link.name} of {end}"))

    def _judge_mtu(self) -> None:
        if self._source.kind != "Pod" or not self._mtus:
            return
        own, _ = self._mtus[0]
        least, where = min(self._mtus)
        if least < own:
            self._notes.append(
                f"packets of more than {least} bytes do not fit through {where}; the pod sends up to {own}"
            )

    def _why_no_answers(self) -> str:
        """Return why answers do not find back; empty where they do, as far as anybody was asked."""
        facts = self._facts.get(self._destination.node)
        if facts is None or self._source.node == self._destination.node:
            return ""
        if facts.back.error:
            return f"{facts.node}: {self._source.address}: {facts.back.error}"
        if facts.back.kind in {"blackhole", "unreachable", "prohibit"}:
            return f"{facts.node}: {facts.back.prefix} leads nowhere ({facts.back.kind})"
        return ""


def _until_drop(facts: Iterator[Fact]) -> Iterator[Fact]:
    for fact in facts:
        yield fact
        if fact.drops:
            return


def _pod_place(pod: End, link: LinkFacts | None) -> str:
    return f"{pod} {link.inner}" if link and link.inner else str(pod)


def _through_link(link: LinkFacts | None, pod: End, node: str) -> Iterator[Fact]:
    if link is None:
        yield Fact("link", f"no link of {node} leads to {pod} ({pod.address})", drops=True)
    elif not link.is_up:
        yield Fact("link", f"{link.name}, the link of {pod}, is down", drops=True)


def _ways(route: RouteFacts) -> tuple[WayFacts, ...]:
    """Return the ways that the packet may take: the one it takes, if that is known."""
    return (route.ways[route.taken],) if route.taken is not None and route.ways else route.ways


def _hop_text(way: WayFacts) -> str:
    who = way.node or way.peer
    return f"{way.gateway} ({who})" if who else way.gateway


def _route_text(route: RouteFacts) -> str:
    ways = _ways(route)
    peers = " and ".join(dict.fromkeys(way.peer for way in ways if way.peer))
    text = route.prefix
    if peers:
        text += f" from {peers}" + (f" ({route.origin})" if route.origin else "")
    elif route.origin:
        text += f" ({route.origin})"
    elif route.owner:
        text += f" ({route.owner} route)"
    if len(route.ways) > 1:
        which = f"{route.taken + 1}" if route.taken is not None else "by the flow's hash, 1"
        text += f", multipath {which} of {len(route.ways)}"
    return text


def _policy_fact(direction: str, tier: TierStory, remark: str) -> Fact:
    is_denied = tier.action == Action.DENY
    word = "DENIED" if is_denied else "allowed"
    if tier.decided_by:
        by = f"by {tier.decided_by}"
    elif is_denied:
        by = f"by {', '.join(tier.policies)}: no rule matches"
    else:
        by = "(no policy speaks about it)" if tier.tier else "(no policy selects the pod)"
    return Fact("policy", f"{direction} {word} {by}{remark}", drops=is_denied)


def ends_of(story: Explanation) -> tuple[End, End]:
    """Return the two ends of an explained packet."""
    return _end(story.source), _end(story.destination)


def _end(resident: Resident) -> End:
    node = resident.name if resident.kind == "Node" else resident.node
    return End(resident.address, resident.kind, resident.name, node)
