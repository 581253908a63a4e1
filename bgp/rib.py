"""The routing information bases (RFC 4271 section 3.2): Adj-RIB-In of every peer, and the Loc-RIB.

In come updates, lost peers, End-of-RIBs, changed rules, changed reachability; out comes, by `decide`, what is
now chosen for each prefix that may have changed. Nothing here waits, looks at a clock or knows the kernel.

Two ideas keep it fast. Prefixes that came with equal attributes share one `Path`, so the decision for a set of
paths is made once and remembered, however many prefixes have that set. And prefixes with equal paths share one
`Choice`, so `failover` can say what becomes of *all* of them before `decide` has looked at a single one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from weakref import WeakValueDictionary

from bgp.decision import Choice, choose
from bgp.import_rules import ImportRules
from bgp.path import Attributes, NextHopKey, Path, PeerKey, Source
from inet.prefix import Family, Prefix
from inet.prefix_map import PrefixMap

_MEMO_LIMIT = 8192


@dataclass(slots=True)
class AdjRibIn:
    """What one peer said, accepted or not.

    `counts` has how many prefixes are received, `fresh` how many of them are not stale: those are limited by the
    maximum, so that what a restarted peer says anew finds room beside what waits to be swept. `overflow` counts
    announcements dropped beyond the maximum since the session came up.
    """

    source: Source
    rules: ImportRules
    received: dict[Prefix, Path] = field(default_factory=dict)
    refused: dict[Prefix, str] = field(default_factory=dict)
    stale: set[Prefix] = field(default_factory=set)
    counts: dict[Family, int] = field(default_factory=lambda: dict.fromkeys(Family, 0))
    fresh: dict[Family, int] = field(default_factory=lambda: dict.fromkeys(Family, 0))
    overflow: dict[Family, int] = field(default_factory=lambda: dict.fromkeys(Family, 0))
    paths: WeakValueDictionary[Attributes, Path] = field(default_factory=WeakValueDictionary)


@dataclass(frozen=True, slots=True)
class Failover:
    """Every prefix chosen as `before` will end up on `after`: all, some or none of the same paths."""

    before: Choice
    after: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One path of a prefix as `tortie routes explain` shows it."""

    path: Path
    used: bool
    stale: bool
    note: str  # why it is best, equal, lost, refused or unreachable


class Rib:
    """All paths and all choices of one node."""

    def __init__(self, *, max_paths: int = 64) -> None:
        self._max_paths = max_paths
        self._peers: dict[PeerKey, AdjRibIn] = {}
        self._candidates: dict[Prefix, tuple[Path, ...]] = {}  # accepted, in peer order
        self._chosen: dict[Prefix, Choice] = {}
        self._dirty: dict[Prefix, None] = {}  # ordered, so that a burst is decided in the order it came
        self._costs: dict[NextHopKey, int] = {}  # of reachable next hops alone
        self._unresolved: set[NextHopKey] = set()
        self._memo: dict[tuple[Path, ...], Choice | None] = {}
        nobody: PrefixMap[str] = PrefixMap({})
        self._owners_compared = (nobody, nobody, nobody)  # before, after, whose owner is another

    # Peers

    def open(self, source: Source, rules: ImportRules) -> None:
        """A session is established. What is still here of this peer stays, stale or not."""
        peer = self._peers.get(source.peer)
        if peer is None:
            self._peers[source.peer] = AdjRibIn(source, rules)
            return
        peer.overflow = dict.fromkeys(Family, 0)
        if (peer.source, peer.rules) != (source, rules):
            # Another BGP Identifier or AS: its old words count as the new speaker's until they are swept.
            peer.source, peer.rules = source, rules
            self._retell(peer, peer.received)

    def set_rules(self, peer: PeerKey, rules: ImportRules) -> None:
        """Judge everything the peer said again by other rules."""
        entry = self._peers.get(peer)
        if entry is None or entry.rules == rules:
            return
        before, entry.rules = entry.rules, rules
        if replace(before, owners=rules.owners) == rules:  # of thousands of Nodes one has changed
            changed = self._changed_owners(before.owners, rules.owners)
            self._retell(entry, changed.lying_in(entry.received))
        else:
            self._retell(entry, entry.received)

    def _changed_owners(self, before: PrefixMap[str], after: PrefixMap[str]) -> PrefixMap[str]:
        """Return the prefixes whose owner is another, remembered for the other sessions."""
        known_before, known_after, known = self._owners_compared
        if known_before is before and known_after is after:
            return known
        self._owners_compared = (before, after, changed := before.differing(after))
        return changed

    def _retell(self, entry: AdjRibIn, prefixes: Iterable[Prefix]) -> None:
        by_path: dict[Path, list[Prefix]] = {}
        for prefix in prefixes:
            by_path.setdefault(entry.received[prefix], []).append(prefix)
        for path, its in by_path.items():
            self._judge(entry, self._path(entry, path.attributes), its)

    def learn(self, peer: PeerKey, attributes: Attributes, prefixes: Iterable[Prefix]) -> None:
        """An UPDATE announced prefixes. Each replaces what the peer said of it before (RFC 4271 section 3.1)."""
        entry = self._peers[peer]
        path = self._path(entry, attributes)
        received, stale = entry.received, entry.stale
        changed: dict[Prefix, None] = {}
        for prefix in prefixes:
            known = received.get(prefix)
            if known is None or prefix in stale:
                if prefix in changed:
                    continue
                if not _take_room(entry, prefix):
                    continue  # if it is stale it stays so, and goes with the sweep
                stale.discard(prefix)
            if known is not path:
                changed[prefix] = None
        self._judge(entry, path, changed)

    def withdraw(self, peer: PeerKey, prefixes: Iterable[Prefix]) -> None:
        """An UPDATE withdrew prefixes; those never announced are ignored."""
        entry = self._peers[peer]
        for prefix in prefixes:
            self._forget(entry, prefix)

    def mark_stale(self, peer: PeerKey, families: Iterable[Family]) -> None:
        """Keep what the peer said of these families until it is said again or swept (RFC 4724 section 4.2)."""
        if (entry := self._peers.get(peer)) is not None:
            for family in frozenset(families):
                entry.fresh[family] = 0
                entry.stale.update(prefix for prefix in entry.received if prefix.family is family)

    def sweep(self, peer: PeerKey, families: Iterable[Family] = tuple(Family)) -> int:
        """Forget what is still stale of these families; returns how many prefixes that were."""
        if (entry := self._peers.get(peer)) is None:
            return 0
        wanted = frozenset(families)
        swept = [prefix for prefix in entry.stale if prefix.family in wanted]
        for prefix in swept:
            self._forget(entry, prefix)
        return len(swept)

    def drop(self, peer: PeerKey) -> None:
        """Forget the peer and everything it said."""
        if (entry := self._peers.get(peer)) is None:
            return
        for prefix in list(entry.received):
            self._forget(entry, prefix)
        del self._peers[peer]

    # Reachability

    def next_hops(self) -> set[NextHopKey]:
        """Every next hop of every path held: what the node should watch."""
        return {path.next_hop for entry in self._peers.values() for path in entry.paths.values()}

    def take_unresolved(self) -> set[NextHopKey]:
        """Next hops of paths that are new since the last call: resolve them and `set_reachability`."""
        unresolved, self._unresolved = self._unresolved, set()
        return unresolved

    def set_reachability(self, costs: Mapping[NextHopKey, int | None]) -> None:
        """Say what next hops cost now; None is unreachable (RFC 4271 section 9.1.2.1).

        A next hop that was never given counts as unreachable.
        """
        changed = {key for key, cost in costs.items() if self._costs.get(key) != cost}
        if not changed:
            return
        for key in changed:
            cost = costs[key]
            if cost is None:
                self._costs.pop(key, None)
            else:
                self._costs[key] = cost
        self._memo.clear()
        affected = {path for entry in self._peers.values() for path in entry.paths.values() if path.next_hop in changed}
        self._dirty.update(
            (prefix, None) for prefix, paths in self._candidates.items() if not affected.isdisjoint(paths)
        )

    # Decisions

    def failover(self, is_dead: Callable[[Path], bool]) -> list[Failover]:
        """Say what every choice in use comes to when some paths die: one entry for each different choice.

        It changes nothing: tell the RIB what died (`drop`, `set_reachability`) and `decide` has the last word,
        prefix by prefix. It comes to the same paths wherever some of the equals live, unless a path stands by that
        a dead one had held back, by its MED or within maxPaths. Choices that lose nothing are listed as well, since
        the kernel may carry them by the same next hops as one that does.
        """
        choices = {id(choice): choice for choice in self._chosen.values()}.values()
        return [Failover(choice, tuple(path for path in choice.multipath if not is_dead(path))) for choice in choices]

    def decide(self, limit: int | None = None) -> dict[Prefix, Choice | None]:
        """Choose again for prefixes that may have changed, at most `limit`; returns those that did.

        None means that nothing usable is left. Call until `has_work` is False.
        """
        batch = list(islice(self._dirty, limit))
        changed: dict[Prefix, Choice | None] = {}
        for prefix in batch:
            del self._dirty[prefix]
            choice, before = self._choose(self._candidates.get(prefix, ())), self._chosen.get(prefix)
            if choice is before:
                continue
            if choice is None:
                del self._chosen[prefix]
            else:
                self._chosen[prefix] = choice  # also where it is equal: it may have other reasons
            if choice != before:
                changed[prefix] = choice
        return changed

    @property
    def has_work(self) -> bool:
        """Whether `decide` has prefixes to look at."""
        return bool(self._dirty)

    def set_max_paths(self, max_paths: int) -> None:
        """Let at most so many paths share the load."""
        if max_paths != self._max_paths:
            self._max_paths = max_paths
            self._memo.clear()
            self._dirty.update(dict.fromkeys(self._candidates))

    # Views

    def chosen(self) -> Mapping[Prefix, Choice]:
        """The Loc-RIB: every prefix with a usable path."""
        return self._chosen

    def peers(self) -> Mapping[PeerKey, AdjRibIn]:
        """The Adj-RIBs-In, by peer."""
        return self._peers

    def explain(self, prefix: Prefix) -> list[Candidate]:
        """Return every path of a prefix, refused ones too, with what became of it."""
        choice = self._choose(self._candidates.get(prefix, ()))
        rows = []
        for entry in self._peers.values():
            path = entry.received.get(prefix)
            if path is None:
                continue
            used = choice is not None and path in choice.multipath
            rows.append(Candidate(path, used, prefix in entry.stale, self._note(entry, prefix, path, choice)))
        return sorted(rows, key=lambda row: (not row.used, row.path.source.order))

    def _note(self, entry: AdjRibIn, prefix: Prefix, path: Path, choice: Choice | None) -> str:
        if (refusal := entry.refused.get(prefix)) is not None:
            return f"refused: {prefix} {refusal}"
        if choice is None or path.next_hop not in self._costs:
            return f"next hop {path.next_hop} is unreachable"
        if path is choice.best:
            return f"best: {choice.reason}"
        return "equal: multipath" if path in choice.multipath else f"lost: {choice.lost_to.get(path, '')}"

    # Inside

    def _path(self, entry: AdjRibIn, attributes: Attributes) -> Path:
        """Return the one path of these attributes; a new one if the peer or the rules make it another."""
        if not entry.source.is_internal and (attributes.originator_id or attributes.cluster_list):
            # They mean something inside an AS alone (RFC 7606 sections 7.9 and 7.10).
            attributes = replace(attributes, originator_id=None, cluster_list=())
        local_pref = entry.rules.local_preference(entry.source, attributes)
        path = entry.paths.get(attributes)
        if path is None or (path.source, path.local_pref) != (entry.source, local_pref):
            path = entry.paths[attributes] = Path(entry.source, attributes, local_pref)
            self._unresolved.add(path.next_hop)
        return path

    def _judge(self, entry: AdjRibIn, path: Path, prefixes: Iterable[Prefix]) -> None:
        """File prefixes of one path under accepted or refused; they are counted already."""
        rules, received, refused = entry.rules, entry.received, entry.refused
        path_refusal = rules.refuse_path(path)
        own_asn_in_path = rules.has_own_asn(path)
        for prefix in prefixes:
            accepted = None if prefix in refused else received.get(prefix)
            received[prefix] = path
            reason = path_refusal or rules.refuse_prefix(prefix, own_asn_in_path=own_asn_in_path)
            if reason is None:
                refused.pop(prefix, None)
                self._exchange(prefix, accepted, path)
            else:
                refused[prefix] = reason
                self._exchange(prefix, accepted, None)

    def _forget(self, entry: AdjRibIn, prefix: Prefix) -> None:
        path = entry.received.pop(prefix, None)
        if path is None:
            return
        family = prefix.family
        entry.counts[family] -= 1
        if prefix in entry.stale:
            entry.stale.discard(prefix)
        else:
            entry.fresh[family] -= 1
        if entry.refused.pop(prefix, None) is None:
            self._exchange(prefix, path, None)

    def _exchange(self, prefix: Prefix, old: Path | None, new: Path | None) -> None:
        """Put one peer's `new` path in the place of its `old` one among the candidates, which stay in peer order."""
        if old is new:
            return
        paths = [path for path in self._candidates.get(prefix, ()) if path is not old]
        if new is not None:
            paths.append(new)
            if len(paths) > 1:
                paths.sort(key=lambda path: path.source.order)
        if paths:
            self._candidates[prefix] = tuple(paths)
        else:
            del self._candidates[prefix]
        self._dirty[prefix] = None

    def _choose(self, candidates: tuple[Path, ...]) -> Choice | None:
        try:
            return self._memo[candidates]
        except KeyError:
            eligible = [path for path in candidates if path.next_hop in self._costs]
            choice = choose(eligible, costs=self._costs, max_paths=self._max_paths) if eligible else None
            if len(self._memo) >= _MEMO_LIMIT:
                self._memo.clear()
            self._memo[candidates] = choice
            return choice


def _take_room(entry: AdjRibIn, prefix: Prefix) -> bool:
    """Count a prefix that is new, or new again, unless the peer is at its maximum."""
    family = prefix.family
    if entry.fresh[family] >= entry.rules.max_prefixes:
        entry.overflow[family] += 1
        return False
    entry.fresh[family] += 1
    if prefix not in entry.stale:
        entry.counts[family] += 1
    return True
