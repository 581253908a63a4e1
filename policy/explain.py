"""Why a packet is allowed or denied, in words: which rule decided, and what each of the others missed.

Takes a node's verdict of the evaluator and a way to ask who has an address; gives an `Explanation`. What the nodes of
both ends say is put together (`combine`), and goes to people as text (`render_explanation`) and to machines as it is.
What a rule missed is worked out from the policy's own words and the labels of the pod at the other side, so that a
person sees the label to change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from inet.prefix import Family
from policy.cidr import address_text, pack_address
from policy.evaluator import Judgement, Packet, TierDecision, Verdict
from policy.ir import Direction, Outcome, Rule, SetKind, SetRef
from policy.objects import PROTOCOL_NAMES
from policy.policies import Action, BlockPeer, NodePeer, Peer, PodPeer, PortMatch, Selection, UnknownPeer
from policy.resident import Resident
from policy.selector import Operator, Requirement, Selector

_WORDS: Final = {"allow": "allowed", "deny": "DENIED", "unknown": "unknown"}

Who: TypeAlias = Callable[[bytes], Resident]
"""Asks who has an address."""


class Part(msgspec.Struct, frozen=True, rename="camel"):
    """One peer or one port of a rule: what it asks for, whether the packet has it, and if not, what it has."""

    text: str
    matches: bool
    found: str = ""


class RuleStory(msgspec.Struct, frozen=True, rename="camel"):
    """One rule that a packet met."""

    policy: str
    number: int
    name: str
    action: str
    matches: bool
    peers: tuple[Part, ...]  # none: any
    ports: tuple[Part, ...]  # none: any


class TierStory(msgspec.Struct, frozen=True, rename="camel"):
    """What one tier made of a packet; with no tier, that no policy speaks about the pod in this direction."""

    direction: str
    action: str  # Accept, Deny or Pass
    node: str = ""  # that judges so
    tier: str = ""
    chain: str = ""  # its name in the kernel's table
    policies: tuple[str, ...] = ()  # that select the pod
    decided_by: str = ""  # the rule, or empty where none matched
    sets: tuple[str, ...] = ()  # where the deciding rule found the packet, and as which member
    rules: tuple[RuleStory, ...] = ()  # in order, up to the deciding one
    packets: int | None = None  # about which this was decided so far, where a kernel was asked


class Explanation(msgspec.Struct, frozen=True, rename="camel"):
    """The whole story of one packet."""

    verdict: str  # allow, deny, or unknown where a node that has a part in it said nothing
    source: Resident
    destination: Resident
    protocol: str
    port: int | None
    tiers: tuple[TierStory, ...]
    reasons: tuple[str, ...]  # what is no policy's doing


Stories: TypeAlias = Mapping[str, Sequence[Explanation]]
"""What is said of a packet, by node: an explanation for each family, in the same order everywhere."""


def combine(parts: Stories, missing: Sequence[str] = ()) -> Explanation:
    """Return one story from the parts of all nodes that have one; of these the `missing` said nothing. One is there.

    It is about the first family; where the other one gets another verdict, a reason says so.
    """
    told, *others = (_whole(some, missing) for some in _by_family(parts).values())
    for other in others:
        if other.verdict != told.verdict:
            ends = f"{other.source.address} → {other.destination.address}"
            note = f"{_family(other).label} ({ends}) is {_WORDS[other.verdict]}"
            told = msgspec.structs.replace(told, reasons=(*told.reasons, note))
    return told


def _family(story: Explanation) -> Family:
    return Family.IPV6 if ":" in story.source.address else Family.IPV4


def _by_family(parts: Stories) -> Mapping[Family, dict[str, Explanation]]:
    found: dict[Family, dict[str, Explanation]] = {}
    for node, stories in parts.items():
        for story in stories:
            found.setdefault(_family(story), {})[node] = story
    return found


def _whole(parts: Mapping[str, Explanation], missing: Sequence[str]) -> Explanation:
    """Put what nodes say together. Each knows its own pods best; of others it may know the address alone."""
    stories = list(parts.values())
    verdicts = {each.verdict for each in stories}
    reasons = list(stories[0].reasons)
    if len(stories) + len(missing) > 1:  # that a node has no part in a packet is no news then
        telling = {node: each for node, each in parts.items() if each.tiers or each.verdict == "deny"}
        reasons = [f"{node}: {reason}" for node, each in telling.items() for reason in each.reasons]
    return msgspec.structs.replace(
        stories[0],
        verdict="deny" if "deny" in verdicts else "unknown" if missing else "allow",
        source=_best(each.source for each in stories),
        destination=_best(each.destination for each in stories),
        tiers=tuple(tier for each in stories for tier in each.tiers),
        reasons=tuple(reasons),
    )


def _best(residents: Iterable[Resident]) -> Resident:
    return max(residents, key=lambda each: (bool(each.name), each.namespace_labels is not None, len(each.labels)))


def explain(verdict: Verdict, who: Who, node: str = "") -> Explanation:
    """Explain what becomes of a packet on one node."""
    packet = verdict.packet
    source, destination = who(packet.source), who(packet.destination)
    stories: list[TierStory] = []
    for judgement in verdict.judgements:
        stories += [
            _tier_story(judgement, each, packet, source, destination, node=node) for each in judgement.decisions
        ]
        if not judgement.decisions:
            stories.append(TierStory(direction=str(judgement.direction), action=str(Action.ACCEPT), node=node))
    return Explanation(
        verdict="deny" if verdict.outcome is Outcome.DENY else "allow",
        source=source,
        destination=destination,
        protocol=PROTOCOL_NAMES.get(packet.protocol, str(packet.protocol)),
        port=packet.port,
        tiers=tuple(stories),
        reasons=(verdict.reason,) if verdict.reason else (),
    )


def _tier_story(
    judgement: Judgement, decision: TierDecision, packet: Packet, source: Resident, destination: Resident, *, node: str
) -> TierStory:
    peer = source if judgement.direction is Direction.INGRESS else destination
    rules = []
    for rule in decision.chain.rules:
        rules.append(_rule_story(rule, packet, peer, destination, matches=rule is decision.rule))
        if rule is decision.rule:
            break
    return TierStory(
        direction=str(judgement.direction),
        node=node,
        tier=decision.chain.tier.label,
        chain=decision.chain.name,
        policies=tuple(map(str, decision.chain.policies)),
        action=str(decision.action),
        decided_by="" if decision.rule is None else str(decision.rule),
        sets=tuple(_set_text(each, packet, peer) for each in decision.clause.sets) if decision.clause else (),
        rules=tuple(rules),
    )


def _set_text(ref: SetRef, packet: Packet, peer: Resident) -> str:
    """Return a set and the member of it that a packet matched."""
    protocol = PROTOCOL_NAMES.get(packet.protocol, str(packet.protocol))
    port = f"{packet.port}/{protocol}"
    match ref.kind:
        case SetKind.PORTS:
            member = port
        case SetKind.NAMED:
            member = f"{address_text(packet.destination)} {port}"
        case _:
            member = peer.address
    return f"{ref.name} ({ref.text}) holds {member}"


def _rule_story(rule: Rule, packet: Packet, peer: Resident, destination: Resident, *, matches: bool) -> RuleStory:
    peers = tuple(_peer_part(each, peer) for each in rule.rule.peers or ())
    return RuleStory(
        policy=str(rule.policy),
        number=rule.number,
        name=rule.rule.name,
        action=str(rule.action),
        matches=matches,
        peers=(Part("nobody", matches=False),) if rule.rule.peers == () else peers,
        ports=tuple(_port_part(each, packet, destination) for each in rule.rule.ports or ()),
    )


def _peer_part(peer: Peer, resident: Resident) -> Part:
    match peer:
        case PodPeer():
            found = _missed_selection(peer.selection, resident)
        case NodePeer():
            found = _missed_nodes(peer.selector, resident)
        case BlockPeer():
            found = _missed_block(peer, resident)
        case UnknownPeer():
            found = "not enforced"
    return Part(str(peer), not found, found)


def _missed_selection(selection: Selection, resident: Resident) -> str:
    """Say what keeps somebody from being selected; nothing if he is."""
    if resident.kind != "Pod":
        return f"{resident.short_name} is no pod"
    if resident.namespace_labels is None:
        return f"namespace {resident.namespace} is not known"
    if selection.namespaces is None and selection.namespace != resident.namespace:
        return f"{resident.short_name} is in namespace {resident.namespace}"
    if selection.namespaces is not None:
        missed = _missed_labels(selection.namespaces, resident.namespace_labels)
        if missed:
            return f"namespace {resident.namespace} has {missed}"
    missed = _missed_labels(selection.pods, resident.labels)
    return f"{resident.short_name} has {missed}" if missed else ""


def _missed_nodes(selector: Selector, resident: Resident) -> str:
    if resident.kind != "Node":
        return f"{resident.short_name} is no node"
    missed = _missed_labels(selector, resident.labels)
    return f"node {resident.name} has {missed}" if missed else ""


def _missed_labels(selector: Selector, labels: Mapping[str, str]) -> str:
    """Say what the labels have instead of what a selector asks for; nothing if they match."""
    return ", ".join(
        _has(requirement, labels)
        for requirement in selector.requirements
        if not Selector([requirement]).matches(labels)
    )


def _has(requirement: Requirement, labels: Mapping[str, str]) -> str:
    value = labels.get(requirement.key)
    if value is None:
        return f"no label {requirement.key}"
    return (
        f"label {requirement.key}" if requirement.operator is Operator.DOES_NOT_EXIST else f"{requirement.key}={value}"
    )


def _missed_block(peer: BlockPeer, resident: Resident) -> str:
    family_bits = 128 if ":" in resident.address else 32
    if peer.block.family.bits != family_bits:
        return f"{resident.address} is of the other family"
    value = int.from_bytes(pack_address(resident.address))
    first, last = peer.block.interval
    if not first <= value <= last:
        return f"{resident.address} is outside"
    for exception in peer.exceptions:
        first, last = exception.interval
        if first <= value <= last:
            return f"{resident.address} is in the exception {exception}"
    return ""


def _port_part(match: PortMatch, packet: Packet, destination: Resident) -> Part:
    protocol = "" if match.protocol is None else PROTOCOL_NAMES[match.protocol]
    if match.name is not None:
        own = [
            each for each in destination.ports if each.name == match.name and match.protocol in {None, each.protocol}
        ]
        text = f"port {match.name}{'/' + protocol if protocol else ''}"
        if any((each.protocol, each.port) == (packet.protocol, packet.port) for each in own):
            return Part(text, matches=True)
        numbers = ", ".join(f"{each.port}/{PROTOCOL_NAMES[each.protocol]}" for each in own)
        found = f"it at {numbers}" if numbers else "none"
        return Part(text, matches=False, found=f"{destination.short_name} has {found}")
    is_protocol = match.protocol == packet.protocol
    if match.numbers is None:
        return Part(f"{protocol}, every port", is_protocol)
    first, last = match.numbers
    text = f"port {first}/{protocol}" if first == last else f"ports {first}-{last}/{protocol}"
    return Part(text, is_protocol and packet.port is not None and first <= packet.port <= last)


def render_explanation(explanation: Explanation) -> str:
    """Return an explanation as lines for a person."""
    verdict = _WORDS[explanation.verdict].upper()
    port = f"{explanation.port}/" if explanation.port is not None else ""
    lines = [f"{verdict:<8} {explanation.source} → {explanation.destination} {port}{explanation.protocol}"]
    for tier in explanation.tiers:
        lines += _tier_lines(tier)
    lines += [f"  {reason}" for reason in explanation.reasons]
    return "\n".join(lines) + "\n"


def _tier_lines(tier: TierStory) -> Iterator[str]:
    word = {Action.ACCEPT: "allowed", Action.DENY: "DENIED", Action.PASS: "passed"}[Action(tier.action)]
    start = f"  {tier.direction:<8} {word:<8} "
    if not tier.tier:
        yield f"{start}no policy selects the pod"
        return
    if tier.decided_by:
        story = tier.rules[-1]
        name = f" ({story.name})" if story.name else ""
        yield f"{start}{tier.decided_by}{name}: {_parts(tier, story, only_matching=True)}"
        return
    names = ", ".join(tier.policies)
    is_one = len(tier.policies) == 1
    select, their = ("selects", "its") if is_one else ("select", "their")
    yield f"{start}{names} {select} the pod; none of {their} rules matches{':' if tier.rules else ''}"
    for story in tier.rules:
        owner = "" if is_one else f"{story.policy} "
        yield f"{'':<19}{owner}rule {story.number}  {_parts(tier, story, only_matching=False)}"


def _parts(tier: TierStory, story: RuleStory, *, only_matching: bool) -> str:
    """Return a rule's peers and ports in a line: those that match, or else all with what was found instead."""
    side = "from" if tier.direction == Direction.INGRESS else "to"
    texts = []
    for parts, anything, before in ((story.peers, "anybody", f"{side} "), (story.ports, "every port", "")):
        matching = [each for each in parts if each.matches]
        if not parts:
            texts.append(f"{before}{anything}" if only_matching else f"{before}{anything} ok")
        elif matching:
            texts.append(f"{before}{matching[0].text}{'' if only_matching else ' ok'}")
        else:
            texts.append("; ".join(f"{before}{each.text}: {each.found or 'no'}" for each in parts))
    return "   ".join(texts)
