"""The ruleset as nftables text: one to one, sets, chains, map elements.

`render` writes the whole table, `render_change` a difference as two transactions. Two, because a packet on its way
may meet a new map element before it can see the rules of a new chain: first everything new that nothing points to
yet, then the elements that point, and what nothing points to any more goes.

Elements of existing sets and maps are also given as values (`ElementChange`), for a writer that speaks netlink: text
costs as much as everything loaded, raw elements only themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Final, NamedTuple, TypeAlias, cast

from inet.intervals import Intervals, normalise
from inet.prefix import Family
from policy.cidr import Block, address_text, pack
from policy.ir import (
    Chain,
    Clause,
    Delta,
    Direction,
    Endpoint,
    Members,
    NodeFacts,
    Outcome,
    Rule,
    Ruleset,
    SetKind,
    SetRef,
    Target,
    content_hash,
)
from policy.memberset import Element
from policy.nftskeleton import (
    ADDRESS_TYPES,
    CHAINS,
    DENY,
    EGRESS_OK,
    FROM_NODE,
    FROM_POD,
    LOCAL_CIDR_SETS,
    POD_SOURCES_TEXTS,
    RESET,
    TABLE,
    TO_NODE,
    TO_POD,
    UNKNOWN,
)
from policy.objects import PROTOCOL_NAMES
from policy.policies import Action

COMMENT_BYTES: Final = 127  # NFTNL_UDATA_COMMENT_MAXLEN without its end

_NOT_IN_COMMENTS: Final = re.compile(r"[^-\w ./,=!()*:#~]", re.ASCII)
_FAMILIES: Final = (Family.IPV4, Family.IPV6)


class AddressRange(NamedTuple):
    """First and last address of an interval, packed."""

    first: bytes
    last: bytes


ElementKey: TypeAlias = bytes | tuple[bytes, int, int] | AddressRange
"""A packed address; address, protocol and port; or an interval of addresses."""


class ElementVerdict(NamedTuple):
    """What a map's element says: accept, or goto or jump to a chain."""

    verdict: str
    chain: str = ""

    def __str__(self) -> str:
        return f"{self.verdict} {self.chain}".rstrip()


class ElementChange(NamedTuple):
    """One element added to or deleted from a set or map that exists. A changed map element is deleted and added."""

    set: str
    key: ElementKey
    is_added: bool
    verdict: ElementVerdict | None = None  # of a map's new element
    comment: str = ""


class Change(NamedTuple):
    """A difference, in the order it is to be written: `structure` in a transaction of its own, then the rest in one.

    Each part may be empty. The second transaction's text is `render_elements(elements) + removal`.
    """

    structure: str
    elements: tuple[ElementChange, ...]
    removal: str


def render(ruleset: Ruleset) -> str:
    """Return the whole table, for one transaction on a system that has no such table yet, and for people."""
    return "".join(_table(_body(ruleset)))


def render_change(delta: Delta) -> Change:
    """Return the text and elements that make a kernel with the ruleset before a delta one with the ruleset after."""
    structure: list[str] = []
    for ref in delta.sets_added:
        structure += _set(ref, delta.members_added[ref.name])
    for chain in delta.chains_added:
        structure += _block("chain", chain.name, chain_lines(chain))
    removal = [f"delete chain inet {TABLE} {chain.name}\n" for chain in delta.chains_removed]
    removal += [f"delete set inet {TABLE} {ref.name}\n" for ref in delta.sets_removed]
    return Change("".join(_table(structure)) if structure else "", tuple(element_changes(delta)), "".join(removal))


def render_elements(changes: Iterable[ElementChange]) -> str:
    """Return element changes as text, for the second transaction."""
    lines = []
    for (name, is_added), group in groupby(changes, key=lambda each: (each.set, each.is_added)):
        verb = "add" if is_added else "delete"
        elements = ", ".join(_element(each) for each in group)
        lines.append(f"{verb} element inet {TABLE} {name} {{ {elements} }}\n")
    return "".join(lines)


def comment_text(text: str) -> str:
    """Return a text that may stand in a comment: no quotes or control characters, and of a length the kernel takes.

    What is too long is cut and ends in a hash, so that names which differ at the end still do.
    """
    clean = _NOT_IN_COMMENTS.sub("?", text)
    if len(clean) <= COMMENT_BYTES:
        return clean
    return f"{clean[: COMMENT_BYTES - 9]}~{content_hash(text)[:8]}"


# The table's parts


def _table(body: Iterable[str]) -> Iterator[str]:
    yield f"table inet {TABLE} {{\n"
    for line in body:
        yield f"  {line}\n"
    yield "}\n"


def _body(ruleset: Ruleset) -> Iterator[str]:
    for family in _FAMILIES:
        yield from _local_cidrs(ruleset.facts, family)
    for name, text in POD_SOURCES_TEXTS.items():
        yield from _block("set", name, [text])
    for name, elements in _map_elements(ruleset.endpoints.values()).items():
        yield f"map {name} {{"
        yield f"  type {ADDRESS_TYPES[int(name[-1])]} : verdict"
        yield from _elements(map(_element, elements))
        yield "}"
    for name in sorted(ruleset.sets):
        yield from _set(ruleset.sets[name], ruleset.members[name])
    for name, lines in CHAINS.items():
        yield from _block("chain", name, lines)
    for name in sorted(ruleset.chains):
        yield from _block("chain", name, chain_lines(ruleset.chains[name]))


def _block(what: str, name: str, lines: Iterable[str]) -> Iterator[str]:
    yield f"{what} {name} {{"
    for line in lines:
        yield f"  {line}"
    yield "}"


def _elements(texts: Iterable[str]) -> Iterator[str]:
    joined = ", ".join(texts)
    if joined:
        yield f"  elements = {{ {joined} }}"


def _local_cidrs(facts: NodeFacts, family: Family) -> Iterator[str]:
    digit = _digit(family)
    yield f"set {LOCAL_CIDR_SETS[digit]} {{"
    yield f"  type {ADDRESS_TYPES[digit]}; flags interval"
    yield from _elements(_key(each) for each in block_ranges(facts.pod_cidrs, family))
    yield "}"


def _set(ref: SetRef, members: Members) -> Iterator[str]:
    yield f"set {ref.name} {{"
    yield from (f"  {line}" for line in set_lines(ref))
    if ref.kind is SetKind.PORTS:
        yield from _elements(map(_port, ref.intervals))
    else:
        yield from _elements(map(_key, sorted(set_keys(ref, members))))
    yield "}"


def decision_comment(chain: Chain, rule: str = "") -> str:
    """Return the comment of the lines of a rule, or of the line that denies what no rule matches."""
    return comment_text(rule or f"no rule of {', '.join(each.key for each in chain.policies)}")


def set_lines(ref: SetRef) -> list[str]:
    """Return what stands between a set's braces, line by line, without its elements."""
    return [_type(ref), f'comment "{comment_text(ref.text)}"']


def set_keys(ref: SetRef, members: Members) -> Iterable[ElementKey]:
    """Return the elements of a set of addresses or of named ports."""
    if ref.kind is SetKind.CIDRS and ref.family is not None:
        return _pack_ranges(ref.intervals, ref.family)
    return cast("Iterable[Element]", members)


def _type(ref: SetRef) -> str:
    if ref.family is None:
        return "type inet_service; flags interval"
    address = ADDRESS_TYPES[_digit(ref.family)]
    if ref.kind is SetKind.NAMED:
        return f"type {address} . inet_proto . inet_service"
    return f"type {address}; flags interval" if ref.kind is SetKind.CIDRS else f"type {address}"


def chain_lines(chain: Chain) -> list[str]:
    """Return what stands between a chain's braces, line by line."""
    lines = [*UNKNOWN]
    for rule in chain.rules:
        verdict = _verdict(chain, rule)
        comment = decision_comment(chain, str(rule))
        lines += [f'{_match(chain, clause)}counter {verdict} comment "{comment}"' for clause in rule.clauses]
    if chain.otherwise is Outcome.DENY:
        lines.append(f'counter {_goto(chain, chain.otherwise)} comment "{decision_comment(chain)}"')
    else:
        lines.append(_goto(chain, chain.otherwise))
    return lines


def _verdict(chain: Chain, rule: Rule) -> str:
    match rule.action:
        case Action.ACCEPT:
            return _goto(chain, Outcome.ALLOW)
        case Action.DENY:
            return _goto(chain, Outcome.DENY)
        case Action.PASS:
            return _goto(chain, chain.otherwise)


def _goto(chain: Chain, target: Target) -> str:
    if target is Outcome.ALLOW:
        return f"goto {EGRESS_OK}" if chain.direction is Direction.EGRESS else "accept"
    return f"goto {DENY[chain.direction] if target is Outcome.DENY else target}"


def _match(chain: Chain, clause: Clause) -> str:
    """Return the conditions of a line, each followed by a space.

    A chain is reached by packets of one family only, so a line without an address says nothing about the family.
    """
    ip = "ip" if chain.family is Family.IPV4 else "ip6"
    text = ""
    if clause.peer is not None:
        side = "saddr" if chain.direction is Direction.INGRESS else "daddr"
        text += f"{ip} {side} @{clause.peer.name} "
    if clause.protocol is not None:
        protocol = PROTOCOL_NAMES[clause.protocol].lower()
        if clause.ports is None:
            text += f"meta l4proto {protocol} "
        elif isinstance(clause.ports, SetRef):
            text += f"{protocol} dport @{clause.ports.name} "
        else:
            text += f"{protocol} dport {_port(clause.ports)} "
    if clause.named is not None:
        text += f"{ip} daddr . meta l4proto . th dport @{clause.named.name} "
    return text


# Elements


def map_names() -> tuple[str, ...]:
    """Return the maps from a pod's address to where packets of it and to it are judged."""
    return (*FROM_POD.values(), *TO_POD.values(), *TO_NODE.values(), *FROM_NODE.values())


def _map_elements(endpoints: Iterable[Endpoint]) -> Mapping[str, list[ElementChange]]:
    elements: dict[str, list[ElementChange]] = {name: [] for name in map_names()}
    for endpoint in sorted(endpoints, key=lambda each: each.address):
        for element in endpoint_elements(endpoint):
            elements[element.set].append(element)
    return elements


def endpoint_elements(endpoint: Endpoint) -> Iterator[ElementChange]:
    """Yield a pod address's elements: who may send, who may receive, and if anybody asked, who may reach the node.

    A pod that is restricted at all gets nothing unseen: what it may do freely goes by the chains that reset what is
    in the middle of a connection nobody knows.
    """
    is_free = all(target is Outcome.ALLOW for target in endpoint.targets)
    verdicts = [
        (FROM_POD, _entry(endpoint.egress, ElementVerdict("goto", EGRESS_OK if is_free else RESET["egress"]))),
        (TO_POD, _entry(endpoint.ingress, ElementVerdict("accept") if is_free else _goto_reset("ingress"))),
    ]
    if endpoint.own_node is not Outcome.ALLOW:
        verdicts += [(TO_NODE, ElementVerdict("jump", endpoint.own_node)), (FROM_NODE, _goto_reset("node"))]
    digit = 4 if len(endpoint.address) == 4 else 6
    comment = comment_text(endpoint.pod)
    for maps, verdict in verdicts:
        yield ElementChange(maps[digit], endpoint.address, is_added=True, verdict=verdict, comment=comment)


def _entry(target: Target, if_allowed: ElementVerdict) -> ElementVerdict:
    return if_allowed if target is Outcome.ALLOW else ElementVerdict("jump", target)


def _goto_reset(direction: str) -> ElementVerdict:
    return ElementVerdict("goto", RESET[direction])


def element_changes(delta: Delta) -> Iterator[ElementChange]:
    """Yield the changes of sets and maps that stay: what is deleted of one, then what is added to it."""
    if delta.facts is not None:
        before, after = delta.facts
        for family in _FAMILIES:
            old, new = set(block_ranges(before.pod_cidrs, family)), set(block_ranges(after.pod_cidrs, family))
            name = LOCAL_CIDR_SETS[_digit(family)]
            yield from (ElementChange(name, each, is_added=False) for each in sorted(old - new))
            yield from (ElementChange(name, each, is_added=True) for each in sorted(new - old))
    for name, change in delta.members_changed.items():
        yield from (ElementChange(name, each, is_added=False) for each in sorted(change.removed))
        yield from (ElementChange(name, each, is_added=True) for each in sorted(change.added))
    old_elements: list[ElementChange] = []
    new_elements: list[ElementChange] = []
    for before_endpoint, after_endpoint in delta.endpoints.values():
        old_ones = set(endpoint_elements(before_endpoint)) if before_endpoint else set()
        new_ones = set(endpoint_elements(after_endpoint)) if after_endpoint else set()
        old_elements += old_ones - new_ones
        new_elements += new_ones - old_ones
    for each in sorted(old_elements):
        yield ElementChange(each.set, each.key, is_added=False)
    yield from sorted(new_elements)


def block_ranges(blocks: Iterable[Block], family: Family) -> list[AddressRange]:
    """Return the blocks of a family as disjoint intervals."""
    return _pack_ranges(normalise(block.interval for block in blocks if block.family is family), family)


def _pack_ranges(intervals: Intervals, family: Family) -> list[AddressRange]:
    return [AddressRange(pack(family, first), pack(family, last)) for first, last in intervals]


def _element(element: ElementChange) -> str:
    text = _key(element.key)
    if element.comment:
        text += f' comment "{element.comment}"'
    return text if element.verdict is None else f"{text} : {element.verdict}"


def _key(key: ElementKey) -> str:
    if isinstance(key, bytes):
        return address_text(key)
    if isinstance(key, AddressRange):
        first, last = address_text(key.first), address_text(key.last)
        return first if first == last else f"{first}-{last}"
    address, protocol, port = key
    return f"{address_text(address)} . {PROTOCOL_NAMES[protocol].lower()} . {port}"


def _port(interval: tuple[int, int]) -> str:
    first, last = interval
    return str(first) if first == last else f"{first}-{last}"


def _digit(family: Family) -> int:
    return 4 if family is Family.IPV4 else 6
