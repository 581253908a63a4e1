"""A packet's walk through generated nftables text: reads what `nft` renders, and says where a packet ends.

A tool for tests: it knows the text as such, nothing of policies, so that what the evaluator says from the IR can be
held against what the text says. It takes transactions like the kernel does (all or nothing, an element is added once
and deleted once, nothing in use is deleted) and stumbles over any word it does not know.
"""

from __future__ import annotations

import copy
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from policy.cidr import pack_address
from policy.objects import PROTOCOLS

_TOKEN: Final = re.compile(r'"[^"]*"|\([^)]*\)|[^\s"(]+')
_ELEMENT: Final = re.compile(r'(?P<key>[^"]*?)(?: comment "[^"]*")?(?: : (?P<verdict>[a-z]+(?: \w+)?))?')
_PROTOCOLS: Final = {name.lower(): number for name, number in PROTOCOLS.items()}


class TransactionError(ValueError):
    """A transaction that the kernel would refuse, or a text that it would not understand."""


class Traffic(NamedTuple):
    """A packet of a new connection and how it crosses the node."""

    source: bytes  # packed
    destination: bytes
    protocol: int
    port: int | None
    is_from_pod: bool  # enters through a pod's interface, with an address of that pod
    is_to_pod: bool  # leaves through a pod's interface
    is_to_node: bool = False  # ends on this node itself
    is_from_node: bool = False  # begins there
    is_first: bool = True  # of a connection of TCP or SCTP; otherwise it is in the middle of an unknown one


class Step(NamedTuple):
    """A rule that a packet matched to its end."""

    chain: str
    rule: str


@dataclass(slots=True)
class Walk:
    """Where a packet ended: accept, drop or reject; and the rules that sent it there."""

    verdict: str
    path: list[Step] = field(default_factory=list)


_Key: TypeAlias = bytes | int | tuple[bytes, int, int]
_Interval: TypeAlias = tuple[int, int]


@dataclass(slots=True)
class _Set:
    spec: str
    is_map: bool
    elements: dict[_Key, str] = field(default_factory=dict)  # verdict of a map's element
    intervals: list[_Interval] = field(default_factory=list)

    @property
    def has_intervals(self) -> bool:
        return "interval" in self.spec


@dataclass(slots=True)
class _Chain:
    hook: str
    rules: list[tuple[str, ...]]


class Table:
    """The table as the transactions so far have left it."""

    def __init__(self) -> None:
        self.sets: dict[str, _Set] = {}
        self.chains: dict[str, _Chain] = {}

    def load(self, transaction: str) -> None:
        """Apply a text. Raises TransactionError and changes nothing if any of it cannot be."""
        before = copy.deepcopy((self.sets, self.chains))
        try:
            lines = iter(transaction.splitlines())
            for line in lines:
                self._command(line.strip(), lines)
            self._check_references()
        except (KeyError, ValueError) as error:
            self.sets, self.chains = before
            raise TransactionError(f"{type(error).__name__}: {error}") from error

    def _command(self, line: str, lines: Iterator[str]) -> None:
        words = line.split(" ", 4)
        match words:
            case [""] | ["table", "inet", _]:
                pass
            case ["table", "inet", _, "{"]:
                self._block(lines)
            case ["flush", "table", "inet", _]:
                for chain in self.chains.values():
                    chain.rules.clear()
            case ["flush", "set" | "map", "inet", _, name]:
                self.sets[name].elements.clear()
                self.sets[name].intervals.clear()
            case ["delete", "chain", "inet", _, name]:
                del self.chains[name]
                self._check_unused(name)
            case ["delete", "set" | "map", "inet", _, name]:
                del self.sets[name]
                self._check_unused(f"@{name}")
            case ["add" | "delete" as verb, "element", "inet", _, rest]:
                name, _, elements = rest.partition(" ")
                self._change(self.sets[name], elements.strip("{} "), is_added=verb == "add")
            case _:
                raise TransactionError(f"unknown command: {line}")

    def _block(self, lines: Iterator[str]) -> None:
        for line in lines:
            text = line.strip()
            if text == "}":
                return
            what, name, brace = text.split(" ")
            if brace != "{" or what not in {"set", "map", "chain"}:
                raise TransactionError(f"unknown block: {text}")
            body = list(iter(lambda: next(lines).strip(), "}"))
            if what == "chain":
                self._chain(name, body)
            else:
                self._set(name, body, is_map=what == "map")
        raise TransactionError("the block has no end")

    def _chain(self, name: str, body: list[str]) -> None:
        hook = ""
        if body and body[0].startswith("type filter hook "):
            hook = body.pop(0).split(" ")[3]
        chain = self.chains.setdefault(name, _Chain(hook, []))
        chain.rules += [tuple(_TOKEN.findall(line)) for line in body]

    def _set(self, name: str, body: list[str], *, is_map: bool) -> None:
        spec = body.pop(0)
        target = self.sets.setdefault(name, _Set(spec, is_map))
        if target.spec != spec:
            raise TransactionError(f"{name} exists with another type")
        for line in body:
            if line.startswith("elements = {"):
                self._change(target, line.removeprefix("elements = ").strip("{} "), is_added=True)
            elif not line.startswith("comment "):
                raise TransactionError(f"unknown line in {name}: {line}")

    def _change(self, target: _Set, elements: str, *, is_added: bool) -> None:
        for text in elements.split(", "):
            found = _ELEMENT.fullmatch(text)
            if found is None or (is_added and target.is_map is (found["verdict"] is None)):
                raise TransactionError(f"not an element: {text}")
            if target.has_intervals:
                _change_interval(target.intervals, _interval(found["key"]), is_added=is_added)
                continue
            key = _key(found["key"])
            if is_added is (key in target.elements):
                raise TransactionError(f"element {text} {'exists' if is_added else 'does not exist'}")
            if is_added:
                target.elements[key] = found["verdict"] or ""
            else:
                del target.elements[key]

    def _check_unused(self, word: str) -> None:
        if any(word in rule for chain in self.chains.values() for rule in chain.rules):
            raise TransactionError(f"{word} is in use by a rule")
        if any(verdict.endswith(f" {word}") for each in self.sets.values() for verdict in each.elements.values()):
            raise TransactionError(f"{word} is in use by an element")

    def _check_references(self) -> None:
        verdicts = {verdict for each in self.sets.values() for verdict in each.elements.values()}
        targets = {verdict.split(" ")[1] for verdict in verdicts if " " in verdict}
        for chain in self.chains.values():
            for rule in chain.rules:
                targets.update(rule[at + 1] for at, word in enumerate(rule) if word in {"goto", "jump"})
                missing = [word for word in rule if word.startswith("@") and word[1:] not in self.sets]
                if missing:
                    raise TransactionError(f"no such set: {missing[0]}")
        if targets - self.chains.keys():
            raise TransactionError(f"no such chain: {min(targets - self.chains.keys())}")

    # Walking

    def walk(self, traffic: Traffic) -> Walk:
        """Send the first packet of a new connection through."""
        walk = Walk("accept")
        way = "input" if traffic.is_to_node else "forward"
        for hook in ("output",) if traffic.is_from_node else ("prerouting", way):
            for name, chain in self.chains.items():
                if chain.hook == hook:
                    walk.verdict = self._run(name, traffic, walk.path) or "accept"
                    if walk.verdict != "accept":
                        return walk
        return walk

    def _run(self, name: str, traffic: Traffic, path: list[Step]) -> str | None:
        """Return the verdict, or None when the packet fell through (of a goto's chain, too)."""
        for rule in self.chains[name].rules:
            verdict = self._matched(rule, traffic)
            if verdict is None:
                continue
            path.append(Step(name, " ".join(rule)))
            what, _, target = verdict.partition(" ")
            if what == "goto":
                return self._run(target, traffic, path)
            if what != "jump":
                return what
            ended = self._run(target, traffic, path)
            if ended is not None:
                return ended
        return None

    def _matched(self, rule: tuple[str, ...], traffic: Traffic) -> str | None:
        """Return the verdict of a rule that matches; a rule without a verdict counts as none."""
        rest = list(rule)
        while rest:
            word = rest.pop(0)
            if word in {"accept", "drop"}:
                return word
            if word in {"goto", "jump"}:
                return f"{word} {rest.pop(0)}"
            if word == "reject":
                return word
            matches = _STATEMENTS[word](self, rest, traffic)
            if isinstance(matches, str):
                return matches
            if not matches:
                return None
        return None


def _take(rest: list[str], *expected: str) -> None:
    for word in expected:
        if rest.pop(0) != word:
            raise TransactionError(f"expected {word}")


def _group(*, is_in: bool) -> Callable[[Table, list[str], Traffic], bool]:
    def matches(_table: Table, rest: list[str], traffic: Traffic) -> bool:
        _take(rest, "97")
        return traffic.is_from_pod if is_in else traffic.is_to_pod

    return matches


def _address(width: int) -> Callable[[Table, list[str], Traffic], bool | str]:
    def matches(table: Table, rest: list[str], traffic: Traffic) -> bool | str:
        address = traffic.source if rest.pop(0) == "saddr" else traffic.destination
        operand = rest.pop(0)
        if operand == "vmap":
            verdict = table.sets[rest.pop(0)[1:]].elements.get(address) if len(address) == width else None
            return verdict or False
        if operand == ".":
            _take(rest, "meta", "l4proto", ".", "th", "dport")
            key = (address, traffic.protocol, traffic.port or 0)
            return len(address) == width and key in table.sets[rest.pop(0)[1:]].elements
        return len(address) == width and _contains(table.sets[operand[1:]], address)

    return matches


def _ports(protocol: int) -> Callable[[Table, list[str], Traffic], bool]:
    def matches(table: Table, rest: list[str], traffic: Traffic) -> bool:
        match rest.pop(0):
            case "flags":
                _take(rest, "&", "(fin|syn|rst|ack)", "!=", "syn")
                return traffic.protocol == protocol and not traffic.is_first
            case "vtag":
                _take(rest, "!=", "0")
                return traffic.protocol == protocol and not traffic.is_first
        operand = rest.pop(0)
        if traffic.protocol != protocol or traffic.port is None:
            return False
        if operand.startswith("@"):
            return _in_intervals(table.sets[operand[1:]].intervals, traffic.port)
        first, last = _interval(operand)
        return first <= traffic.port <= last

    return matches


def _fib(_table: Table, rest: list[str], traffic: Traffic) -> bool:
    if rest[0] == "daddr":
        _take(rest, "daddr", ".", "iif", "oif", "exists")
        return traffic.source == traffic.destination
    _take(rest, "saddr", ".", "iif", "oif", "missing")
    return False


def _ct(_table: Table, rest: list[str], _traffic: Traffic) -> bool:
    what, value = rest.pop(0), rest.pop(0)
    if what not in {"state", "status"}:
        raise TransactionError(f"unknown: ct {what}")
    return "new" in value.split(",")


def _meta(_table: Table, rest: list[str], traffic: Traffic) -> bool:
    _take(rest, "l4proto")
    return traffic.protocol == _PROTOCOLS[rest.pop(0)]


def _nothing(count: int) -> Callable[[Table, list[str], Traffic], bool]:
    def passes(_table: Table, rest: list[str], _traffic: Traffic) -> bool:
        del rest[:count]
        return True

    return passes


def _never(count: int) -> Callable[[Table, list[str], Traffic], bool]:
    def fails(_table: Table, rest: list[str], _traffic: Traffic) -> bool:
        del rest[:count]
        return False

    return fails


_STATEMENTS: Final[dict[str, Callable[[Table, list[str], Traffic], bool | str]]] = {
    "iifgroup": _group(is_in=True),
    "oifgroup": _group(is_in=False),
    "iifname": _never(1),  # lo: not a way between pods
    "iif": _never(4),  # what the kernel remembers of sources: nothing yet
    "add": _nothing(7),
    "fib": _fib,
    "ct": _ct,
    "ip": _address(4),
    "ip6": _address(16),
    "meta": _meta,
    "tcp": _ports(6),
    "udp": _ports(17),
    "sctp": _ports(132),
    "icmpv6": _never(2),  # neighbour discovery is not of a connection
    "counter": _nothing(0),
    "comment": _nothing(1),
    "limit": _nothing(5),
    "log": _nothing(4),
}


def _contains(target: _Set, address: bytes) -> bool:
    if target.has_intervals:
        return _in_intervals(target.intervals, int.from_bytes(address))
    return address in target.elements


def _in_intervals(intervals: list[_Interval], value: int) -> bool:
    at = bisect_right(intervals, (value, 1 << 128))
    return at > 0 and intervals[at - 1][1] >= value


def _change_interval(intervals: list[_Interval], interval: _Interval, *, is_added: bool) -> None:
    if not is_added:
        intervals.remove(interval)
        return
    first, last = interval
    if any(first <= other_last and other_first <= last for other_first, other_last in intervals):
        raise TransactionError("interval overlaps with an existing one")
    intervals.append(interval)
    intervals.sort()


def _interval(text: str) -> _Interval:
    first, _, last = text.partition("-")
    return _number(first), _number(last or first)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else int.from_bytes(pack_address(text))


def _key(text: str) -> _Key:
    if " . " not in text:
        return pack_address(text)
    address, protocol, port = text.split(" . ")
    return pack_address(address), _PROTOCOLS[protocol], int(port)
