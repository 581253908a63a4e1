"""Whatever happens to the RIB in whatever order: it ends where one built from scratch would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bgp.decision import Choice
from bgp.import_rules import GRACEFUL_SHUTDOWN, ImportRules, ranges_within
from bgp.path import Attributes, NextHopKey, Path, PeerKey, Source
from bgp.rib import Rib
from inet.prefix import Family, Prefix
from tests.bgp.builders import OWN_ASN, V4, V6, attributes, rules, source

pytestmark = pytest.mark.no_cover  # many times the ways of the tests beside it: to trace each costs as much again

PREFIXES: Final = [net.cidr(number) for net in (V4, V6) for number in (1, 2, 3, 4)]
HOPS: Final = [NextHopKey(V4.host(number)) for number in (1, 2, 3)]
SOURCES: Final = [
    source("192.168.0.1", router_id="1.0.0.1"),
    source("192.168.0.2", router_id="2.0.0.1"),
    source("192.168.0.2", router_id="0.0.0.2"),  # the same peer, another router
    source("192.168.0.3", asn=OWN_ASN, router_id="3.0.0.1"),
    source("fd00::4", router_id="1.0.0.1"),
]
PEERS: Final = sorted({each.peer for each in SOURCES}, key=str)
ATTRIBUTES: Final = [
    attributes(HOPS[0].address, "65100 65009"),
    attributes(HOPS[0].address, "65100 65009", med=5),
    attributes(HOPS[1].address, "65100 65009", med=5),
    attributes(HOPS[1].address, "65200 65009", local_pref=200),
    attributes(HOPS[2].address, "65200 65009"),
    attributes(HOPS[2].address, "65100 65001 65009"),
    attributes(HOPS[0].address, f"65100 {OWN_ASN}"),
    attributes(HOPS[1].address, "65100 65009", communities=(GRACEFUL_SHUTDOWN,)),
    attributes(HOPS[1].address, "65100 65009", originator_id=IPv4Address("0.0.0.1")),
    attributes(V4.host(100), "65100 65009"),  # through ourselves
]
RULES: Final = [
    rules(),
    rules(owners={V4.cidr(1): "n1", V6.cidr(1): "n1"}),
    rules(accept=ranges_within([V4.cidr(1), V6.cidr(2)])),
    rules(max_prefixes=2),
    rules(own_asn=65009, allow_own_asn=1),
]
FAMILIES: Final = [frozenset({Family.IPV4}), frozenset({Family.IPV6}), frozenset(Family)]
COSTS: Final = [None, 0, 1]

some_prefixes = st.lists(st.sampled_from(PREFIXES), min_size=1, max_size=5)


def in_words(path: Path) -> tuple[Source, Attributes, int]:
    """A path as a value: between two RIBs paths are never identical."""
    return (path.source, path.attributes, path.local_pref)


def choice_in_words(choice: Choice) -> tuple[Any, ...]:
    lost = {in_words(path): reason for path, reason in choice.lost_to.items()}
    return (in_words(choice.best), tuple(map(in_words, choice.multipath)), choice.reason, lost)


def chosen_in_words(rib: Rib) -> dict[Prefix, tuple[Any, ...]]:
    return {prefix: choice_in_words(choice) for prefix, choice in rib.chosen().items()}


def built_from_scratch(rib: Rib, order: Sequence[PeerKey], costs: dict[NextHopKey, int | None], max_paths: int) -> Rib:
    fresh = Rib(max_paths=max_paths)
    for peer in order:
        if (entry := rib.peers().get(peer)) is not None:
            fresh.open(entry.source, replace(entry.rules, max_prefixes=1000))
            for prefix, path in entry.received.items():
                fresh.learn(peer, path.attributes, [prefix])
    fresh.set_reachability(costs)
    fresh.decide()
    return fresh


class AnySequence(RuleBasedStateMachine):
    """Events in any order with decisions in between, beside a plain model of what each peer last said."""

    def __init__(self) -> None:
        super().__init__()
        self.rib = Rib(max_paths=2)
        self.max_paths = 2
        self.costs: dict[NextHopKey, int | None] = {}
        self.told: dict[Prefix, Choice] = {}  # what a reader of `decide` believes
        self.said: dict[PeerKey, dict[Prefix, NextHopKey]] = {}
        self.stale: dict[PeerKey, set[Prefix]] = {}
        self.rules_of: dict[PeerKey, ImportRules] = {}

    @initialize()
    def two_peers_are_up(self) -> None:
        self.open(SOURCES[0], RULES[0])
        self.open(SOURCES[1], RULES[0])

    @rule(of=st.sampled_from(SOURCES), by=st.sampled_from(RULES))
    def open(self, of: Source, by: ImportRules) -> None:
        self.rib.open(of, by)
        self.said.setdefault(of.peer, {})
        self.stale.setdefault(of.peer, set())
        self.rules_of[of.peer] = by

    @rule(peer=st.sampled_from(PEERS), by=st.sampled_from(RULES))
    def change_rules(self, peer: PeerKey, by: ImportRules) -> None:
        self.rib.set_rules(peer, by)
        if peer in self.rules_of:
            self.rules_of[peer] = by

    @rule(peer=st.sampled_from(PEERS), word=st.sampled_from(ATTRIBUTES), prefixes=some_prefixes)
    def learn(self, peer: PeerKey, word: Attributes, prefixes: list[Prefix]) -> None:
        if peer not in self.said:
            return
        self.rib.learn(peer, word, prefixes)
        said, stale = self.said[peer], self.stale[peer]
        for prefix in prefixes:
            if prefix not in said or prefix in stale:
                held = sum(1 for each in said if each.family is prefix.family and each not in stale)
                if held >= self.rules_of[peer].max_prefixes:
                    continue
            stale.discard(prefix)
            said[prefix] = NextHopKey(word.next_hop)

    @rule(peer=st.sampled_from(PEERS), prefixes=some_prefixes)
    def withdraw(self, peer: PeerKey, prefixes: list[Prefix]) -> None:
        if peer in self.said:
            self.rib.withdraw(peer, prefixes)
            for prefix in prefixes:
                self.said[peer].pop(prefix, None)
                self.stale[peer].discard(prefix)

    @rule(peer=st.sampled_from(PEERS), families=st.sampled_from(FAMILIES))
    def mark_stale(self, peer: PeerKey, families: frozenset[Family]) -> None:
        self.rib.mark_stale(peer, families)
        if peer in self.said:
            self.stale[peer] |= {prefix for prefix in self.said[peer] if prefix.family in families}

    @rule(peer=st.sampled_from(PEERS), families=st.sampled_from(FAMILIES))
    def sweep(self, peer: PeerKey, families: frozenset[Family]) -> None:
        gone = {prefix for prefix in self.stale.get(peer, ()) if prefix.family in families}
        assert self.rib.sweep(peer, families) == len(gone)
        for prefix in gone:
            del self.said[peer][prefix]
            self.stale[peer].discard(prefix)

    @rule(peer=st.sampled_from(PEERS))
    def drop(self, peer: PeerKey) -> None:
        self.rib.drop(peer)
        for each in (self.said, self.stale, self.rules_of):
            each.pop(peer, None)

    @rule(hop=st.sampled_from(HOPS), cost=st.sampled_from(COSTS))
    def reach(self, hop: NextHopKey, cost: int | None) -> None:
        self.rib.set_reachability({hop: cost})
        self.costs[hop] = cost

    @rule(max_paths=st.integers(1, 3))
    def change_max_paths(self, max_paths: int) -> None:
        self.rib.set_max_paths(max_paths)
        self.max_paths = max_paths

    @rule(limit=st.sampled_from([1, 2, None]))
    def decide(self, limit: int | None) -> None:
        for prefix, choice in self.rib.decide(limit).items():
            if choice is None:
                del self.told[prefix]
            else:
                assert self.told.get(prefix) != choice, "what did not change is not reported"
                self.told[prefix] = choice

    @invariant()
    def the_books_are_in_order(self) -> None:
        assert self.rib.peers().keys() == self.said.keys()
        for peer, entry in self.rib.peers().items():
            assert {prefix: path.next_hop for prefix, path in entry.received.items()} == self.said[peer]
            assert entry.stale == self.stale[peer]
            assert entry.refused.keys() <= entry.received.keys()
            for family in Family:
                held = [prefix for prefix in entry.received if prefix.family is family]
                assert entry.counts[family] == len(held)
                assert entry.fresh[family] == len(held) - len(entry.stale.intersection(held))
            assert all(path.source is entry.source for path in entry.received.values())

    @invariant()
    def readers_of_decide_know_the_choices(self) -> None:
        assert self.told == dict(self.rib.chosen())

    @invariant()
    def every_next_hop_is_watched(self) -> None:
        assert {hop for said in self.said.values() for hop in said.values()} <= self.rib.next_hops()

    def teardown(self) -> None:
        while self.rib.has_work:
            self.decide(2)
        self.readers_of_decide_know_the_choices()
        expected = built_from_scratch(self.rib, PEERS, self.costs, self.max_paths)
        assert chosen_in_words(self.rib) == chosen_in_words(expected)
        for prefix in PREFIXES:
            notes = [(row.path.source, row.used, row.note) for row in self.rib.explain(prefix)]
            assert notes == [(row.path.source, row.used, row.note) for row in expected.explain(prefix)]


AnySequence.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnySequenceEndsWhereARibBuiltFromScratchWould = AnySequence.TestCase


# One list of words for each peer, all of them established

words = st.lists(st.tuples(st.sampled_from(ATTRIBUTES), some_prefixes), max_size=4)
speeches = st.fixed_dictionaries(dict.fromkeys((SOURCES[0], SOURCES[1], SOURCES[3], SOURCES[4]), words))
reachability = st.fixed_dictionaries({hop: st.sampled_from(COSTS) for hop in HOPS})


def listen(speeches: dict[Source, Any], turns: Sequence[Source], costs: dict[NextHopKey, int | None]) -> Rib:
    """Hear one word of a peer for each of its turns, each peer's words in its own order."""
    rib = Rib(max_paths=2)
    queues = {of: list(said) for of, said in speeches.items()}
    for of in speeches:
        rib.open(of, RULES[0])
    for of in turns:
        word, prefixes = queues[of].pop(0)
        rib.learn(of.peer, word, prefixes)
        rib.decide(1)
    rib.set_reachability(costs)
    rib.decide()
    return rib


@given(speeches, reachability, st.data())
def test_whoever_speaks_first_the_choices_are_the_same(
    said: dict[Source, Any], costs: dict[NextHopKey, int | None], data: st.DataObject
) -> None:
    turns = [of for of, spoken in said.items() for _ in spoken]
    shuffled = data.draw(st.permutations(turns))
    assert chosen_in_words(listen(said, turns, costs)) == chosen_in_words(listen(said, shuffled, costs))


def foresees_all(choice: Choice) -> bool:
    """Whether no path is waiting that a dead one held back: by its MED, or by taking the last of maxPaths' places."""
    return not any(reason == "lower MED" or reason.startswith("equal, but") for reason in choice.lost_to.values())


@given(speeches, reachability, st.sampled_from(SOURCES[:2]))
def test_a_dropped_peer_leaves_what_failover_foretold(
    said: dict[Source, Any], costs: dict[NextHopKey, int | None], dead: Source
) -> None:
    rib = listen(said, [of for of, spoken in said.items() for _ in spoken], costs)
    before = dict(rib.chosen())
    foretold = {id(each.before): each.after for each in rib.failover(lambda path: path.source is dead)}
    rib.drop(dead.peer)
    rib.decide()
    check(rib, before, foretold)


@given(speeches, reachability, st.sampled_from(HOPS))
def test_a_lost_next_hop_leaves_what_failover_foretold(
    said: dict[Source, Any], costs: dict[NextHopKey, int | None], dead: NextHopKey
) -> None:
    rib = listen(said, [of for of, spoken in said.items() for _ in spoken], costs)
    before = dict(rib.chosen())
    foretold = {id(each.before): each.after for each in rib.failover(lambda path: path.next_hop == dead)}
    rib.set_reachability({dead: None})
    rib.decide()
    check(rib, before, foretold)


def check(rib: Rib, before: dict[Prefix, Choice], foretold: dict[int, tuple[Path, ...]]) -> None:
    """Equals that live carry on alone, unless a path stands by that the dead ones had held back."""
    for prefix, choice in before.items():
        after = foretold[id(choice)]
        now = rib.chosen().get(prefix)
        if after and foresees_all(choice):
            assert now is not None
            assert now.multipath == after
        elif not after and not choice.lost_to:
            assert now is None
        elif now is not None:
            assert set(now.multipath) <= {*after, *choice.lost_to}
