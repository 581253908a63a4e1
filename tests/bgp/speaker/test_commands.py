"""What is sent must end as what was last wanted, whatever happens in which order."""

from __future__ import annotations

import random
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgp.path import AsPath, Attributes, Origin, PeerKey
from bgp.speaker.exabgp.commands import WINDOW, AdjRibOut, Command, Signal, words_of
from inet.prefix import Family, Prefix

PEER, OTHER = IPv4Address("10.0.0.2"), IPv6Address("fd00::2")
LOCAL = {PEER: IPv4Address("10.0.0.1"), OTHER: IPv6Address("fd00::1")}
RED = Attributes(IPv4Address("10.0.0.1"), AsPath((65001,)))
BLUE = Attributes(IPv4Address("10.0.0.1"), AsPath((65001,)), med=5)
A, B, C = (Prefix.parse(text) for text in ("10.1.0.0/16", "10.2.0.0/16", "fd01::/64"))


@pytest.fixture
def rib() -> AdjRibOut:
    made = AdjRibOut()
    made.session_up(PEER, LOCAL[PEER])
    return made


def lines(commands: tuple[Command, ...]) -> list[str]:
    return [command.line.removeprefix("neighbor 10.0.0.2 local-ip 10.0.0.1 ") for command in commands]


def acknowledge(rib: AdjRibOut, commands: tuple[Command, ...]) -> None:
    for _ in commands:
        rib.answered(error=False)


def test_prefixes_with_equal_attributes_of_a_family_share_a_command(rib: AdjRibOut) -> None:
    for prefix in (A, B, C):
        rib.announce(PEER, prefix, RED)
    assert lines(rib.next_batch()) == [
        "announce attributes next-hop 10.0.0.1 origin igp as-path [ 65001 ] nlri 10.1.0.0/16 10.2.0.0/16",
        "announce attributes next-hop 10.0.0.1 origin igp as-path [ 65001 ] nlri fd01::/64",
    ]


def test_one_batch_is_in_flight_at_a_time(rib: AdjRibOut) -> None:
    rib.announce(PEER, A, RED)
    first = rib.next_batch()
    rib.announce(PEER, B, RED)
    assert rib.next_batch() == ()
    assert rib.pending == 2
    acknowledge(rib, first)
    assert [command.entries for command in rib.next_batch()] == [(B,)]


def test_what_changes_while_in_flight_is_sent_once_in_its_last_form(rib: AdjRibOut) -> None:
    rib.announce(PEER, A, RED)
    first = rib.next_batch()
    rib.withdraw(PEER, A)
    rib.announce(PEER, A, RED)
    rib.announce(PEER, A, BLUE)
    acknowledge(rib, first)
    [again] = rib.next_batch()
    assert again.attributes == BLUE


def test_what_changes_back_while_in_flight_is_not_sent_again(rib: AdjRibOut) -> None:
    rib.announce(PEER, A, RED)
    first = rib.next_batch()
    rib.withdraw(PEER, A)
    rib.announce(PEER, A, RED)
    acknowledge(rib, first)
    assert rib.next_batch() == ()
    assert rib.pending == 0


def test_what_was_never_sent_is_not_withdrawn(rib: AdjRibOut) -> None:
    rib.announce(PEER, A, RED)
    rib.withdraw(PEER, A)
    rib.withdraw(PEER, B)
    assert rib.next_batch() == ()


def test_a_withdrawal_names_the_prefix_alone(rib: AdjRibOut) -> None:
    rib.announce(PEER, A, RED)
    acknowledge(rib, rib.next_batch())
    rib.withdraw(PEER, A)
    assert lines(rib.next_batch()) == ["withdraw route 10.1.0.0/16"]


def test_a_batch_is_no_larger_than_the_window(rib: AdjRibOut) -> None:
    for number in range(WINDOW + 1):
        rib.announce(PEER, Prefix.parse(f"10.0.{number}.0/24"), RED)
    batch = rib.next_batch()
    assert sum(len(command.entries) for command in batch) == WINDOW
    acknowledge(rib, batch)
    assert sum(len(command.entries) for command in rib.next_batch()) == 1


def test_end_of_rib_follows_when_everything_before_it_is_acknowledged(rib: AdjRibOut) -> None:
    rib.announce(PEER, A, RED)
    rib.end_of_rib(PEER, Family.IPV4)
    rib.announce(PEER, B, RED)
    rib.end_of_rib(PEER, Family.IPV6)
    first = rib.next_batch()
    assert [command.entries for command in first] == [(A,)]
    acknowledge(rib, first)
    second = rib.next_batch()
    assert lines(second)[0] == "announce eor ipv4 unicast"
    assert [command.entries for command in second] == [(Signal("eor", Family.IPV4),), (B,)]
    acknowledge(rib, second)
    assert lines(rib.next_batch()) == ["announce eor ipv6 unicast"]


def test_end_of_rib_of_an_empty_rib_is_sent_at_once(rib: AdjRibOut) -> None:
    for family in Family:
        rib.end_of_rib(PEER, family)
    assert lines(rib.next_batch()) == ["announce eor ipv4 unicast", "announce eor ipv6 unicast"]


def test_nothing_is_announced_to_a_peer_that_is_not_up(rib: AdjRibOut) -> None:
    rib.announce(OTHER, A, RED)
    rib.end_of_rib(OTHER, Family.IPV4)
    rib.session_down(PEER)
    rib.announce(PEER, A, RED)
    assert rib.next_batch() == ()


def test_a_session_begins_with_nothing_told(rib: AdjRibOut) -> None:
    rib.announce(PEER, A, RED)
    acknowledge(rib, rib.next_batch())
    rib.session_down(PEER)
    rib.session_up(PEER, LOCAL[PEER])
    rib.announce(PEER, A, RED)
    assert [command.entries for command in rib.next_batch()] == [(A,)]


def test_what_was_in_flight_when_the_session_ended_is_withdrawn_in_the_next(rib: AdjRibOut) -> None:
    rib.announce(PEER, A, RED)
    flying = rib.next_batch()
    rib.session_down(PEER)
    rib.session_up(PEER, LOCAL[PEER])
    acknowledge(rib, flying)
    assert lines(rib.next_batch()) == ["withdraw route 10.1.0.0/16"]


def test_an_error_in_a_batch_is_pinned_to_the_command_that_causes_it(rib: AdjRibOut) -> None:
    for prefix in (A, B, C):
        rib.announce(PEER, prefix, RED)
    batch = rib.next_batch()
    rib.answered(error=True)
    for _ in batch[1:]:
        rib.answered(error=False)
    sent = []
    while batch := rib.next_batch():
        [command] = batch
        sent.append(command.entries)
        rib.answered(error=command.entries == (B,))
    assert sent == [(A,), (B,), (C,)]
    assert list(rib.refused) == [(PEER, B)]
    assert rib.pending == 0


def test_a_refused_prefix_is_tried_again_when_it_changes(rib: AdjRibOut) -> None:
    rib.announce(PEER, A, RED)
    rib.next_batch()
    rib.answered(error=True)
    assert rib.refused
    rib.announce(PEER, A, BLUE)
    assert [command.attributes for command in rib.next_batch()] == [BLUE]
    assert not rib.refused


def test_an_empty_as_path_is_left_to_exabgp() -> None:
    assert words_of(Attributes(IPv4Address("10.0.0.1"), origin=Origin.INCOMPLETE)) == (
        "next-hop 10.0.0.1 origin incomplete"
    )


def test_every_attribute_has_its_words() -> None:
    attributes = Attributes(
        IPv6Address("fd00::1"),
        AsPath((1, 2), frozenset({4, 3})),
        med=0,
        local_pref=100,
        communities=((1, 2), (3, 4)),
        large_communities=((1, 2, 3),),
        originator_id=IPv4Address("10.0.0.7"),
        cluster_list=(IPv4Address("10.0.0.8"),),
        atomic_aggregate=True,
    )
    assert words_of(attributes) == (
        "next-hop fd00::1 origin igp as-path [ 1 2 ] ( 3 4 ) med 0 local-preference 100 atomic-aggregate "
        "community [ 1:2 3:4 ] large-community [ 1:2:3 ] originator-id 10.0.0.7 cluster-list [ 10.0.0.8 ]"
    )


class Wire:
    """ExaBGP as far as it matters: takes lines, keeps what each peer was sent in this session."""

    def __init__(self) -> None:
        self.sent: dict[str, dict[str, str]] = {}
        self.ends_of_rib: dict[str, list[dict[str, str]]] = {}

    def session_up(self, peer: PeerKey) -> None:
        self.sent[str(peer)] = {}
        self.ends_of_rib[str(peer)] = []

    def session_down(self, peer: PeerKey) -> None:
        self.sent.pop(str(peer), None)

    def take(self, line: str) -> None:
        _, peer, _, _, verb, what, *words = line.split(" ")
        told = self.sent.get(peer)
        if told is None:
            return
        if what == "eor":
            self.ends_of_rib[peer].append(dict(told))
        elif verb == "withdraw":
            told.pop(words[0], None)
        else:
            end = words.index("nlri")
            told.update((prefix, " ".join(words[:end])) for prefix in words[end + 1 :])


PREFIXES = [Prefix.parse(f"10.{number}.0.0/16") for number in range(4)]
ATTRIBUTES = [RED, BLUE, Attributes(IPv4Address("10.0.0.9"))]

steps = st.lists(
    st.one_of(
        st.tuples(st.just("announce"), st.integers(0, 1), st.integers(0, 3), st.integers(0, 2)),
        st.tuples(st.just("withdraw"), st.integers(0, 1), st.integers(0, 3)),
        st.tuples(st.just("send")),
        st.tuples(st.just("answer"), st.booleans()),
        st.tuples(st.just("down"), st.integers(0, 1)),
        st.tuples(st.just("up"), st.integers(0, 1)),
        st.tuples(st.just("end"), st.integers(0, 1)),
    ),
    max_size=60,
)


class Run:
    """One interleaving of what the user wants, what the sessions do, and when ExaBGP gets to its commands."""

    def __init__(self, seed: int) -> None:
        self.rib, self.wire = AdjRibOut(), Wire()
        self.wanted: dict[PeerKey, dict[Prefix, Attributes]] = {}
        self.unread: list[str] = []
        self.missing = 0
        self.random = random.Random(seed)  # noqa: S311  # an order, not a secret
        for peer in (PEER, OTHER):
            self.up(peer)

    def up(self, peer: PeerKey) -> None:
        if peer not in self.wanted:
            self.wanted[peer] = {}
            self.rib.session_up(peer, LOCAL[peer])
            self.wire.session_up(peer)

    def down(self, peer: PeerKey) -> None:
        if self.wanted.pop(peer, None) is not None:
            self.rib.session_down(peer)
            self.wire.session_down(peer)

    def announce(self, peer: PeerKey, prefix: Prefix, attributes: Attributes) -> None:
        self.rib.announce(peer, prefix, attributes)
        if peer in self.wanted:
            self.wanted[peer][prefix] = attributes

    def withdraw(self, peer: PeerKey, prefix: Prefix) -> None:
        self.rib.withdraw(peer, prefix)
        self.wanted.get(peer, {}).pop(prefix, None)

    def send(self) -> None:
        batch = self.rib.next_batch()
        assert not (batch and self.missing), "a second batch in flight"
        self.unread += [command.line for command in batch]
        self.missing += len(batch)

    def answer(self, *, error: bool) -> None:
        """ExaBGP gets to some command; an error means that this one was not taken."""
        if self.missing:
            line = self.unread.pop(self.random.randrange(len(self.unread)))
            if not error:
                self.wire.take(line)
            self.missing -= 1
            self.rib.answered(error=error)

    def settle(self) -> None:
        for _ in range(1000):
            self.send()
            if not self.missing:
                return
            while self.missing:
                self.answer(error=False)
        raise AssertionError("it does not come to rest")

    def expected(self) -> dict[str, dict[str, str]]:
        return {
            str(peer): {str(prefix): words_of(attributes) for prefix, attributes in routes.items()}
            for peer, routes in self.wanted.items()
        }


@settings(max_examples=400)
@given(steps, st.integers(0, 2**16))
def test_any_interleaving_ends_with_what_was_last_wanted(taken: list[tuple[object, ...]], seed: int) -> None:
    run = Run(seed)
    peers = (PEER, OTHER)
    actions: dict[object, Callable[..., None]] = {
        "announce": lambda p, x, a: run.announce(peers[p], PREFIXES[x], ATTRIBUTES[a]),
        "withdraw": lambda p, x: run.withdraw(peers[p], PREFIXES[x]),
        "send": run.send,
        "answer": lambda error: run.answer(error=error),
        "down": lambda p: run.down(peers[p]),
        "up": lambda p: run.up(peers[p]),
        "end": lambda p: run.rib.end_of_rib(peers[p], Family.IPV4),
    }
    for name, *arguments in taken:
        actions[name](*arguments)
    run.settle()
    for peer, prefix in run.rib.refused:
        # A command that failed alone is given up until the user changes its mind.
        if isinstance(prefix, Prefix) and peer in run.wanted:
            told = run.wire.sent[str(peer)]
            told.pop(str(prefix), None)
            run.wanted[peer].pop(prefix, None)
    assert run.wire.sent == run.expected()
    assert run.rib.pending == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 2)), max_size=30), st.integers(0, 2**16))
def test_end_of_rib_reaches_a_peer_that_knows_everything_said_before_it(
    changes: list[tuple[bool, int, int]], seed: int
) -> None:
    run = Run(seed)
    for announce, prefix, attributes in changes:
        if announce:
            run.announce(PEER, PREFIXES[prefix], ATTRIBUTES[attributes])
        else:
            run.withdraw(PEER, PREFIXES[prefix])
        if run.random.random() < 0.3:
            run.send()
    run.rib.end_of_rib(PEER, Family.IPV4)
    expected = run.expected()
    run.settle()
    assert run.wire.ends_of_rib[str(PEER)] == [expected[str(PEER)]]


def test_a_refresh_is_asked_for_in_its_turn(rib: AdjRibOut) -> None:
    rib.announce(PEER, A, RED)
    rib.refresh(PEER, Family.IPV6)
    first = rib.next_batch()
    acknowledge(rib, first)
    assert lines(rib.next_batch()) == ["announce route-refresh ipv6 unicast"]
