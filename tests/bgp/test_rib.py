from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from bgp.import_rules import GRACEFUL_SHUTDOWN, PrefixRange, ranges_within
from bgp.path import NextHopKey, PeerKey
from bgp.rib import Rib
from inet.prefix import Prefix
from tests.bgp.builders import OWN_ASN, V4, Net, attributes, hops, peers_of, rib_with, rules, settle, source

ONE, TWO, THREE = (source(f"192.168.0.{number}", router_id=f"{number}.0.0.1") for number in (1, 2, 3))


def notes(rib: Rib, prefix: Prefix) -> dict[PeerKey, str]:
    return {row.path.source.peer: row.note for row in rib.explain(prefix)}


# Updates


def test_what_a_peer_announces_is_chosen(net: Net) -> None:
    rib = rib_with([ONE])
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1), net.cidr(2)])
    settle(rib)
    assert set(rib.chosen()) == {net.cidr(1), net.cidr(2)}
    assert rib.chosen()[net.cidr(1)] is rib.chosen()[net.cidr(2)], "equal prefixes share one choice"


def test_a_newer_word_replaces_the_older_one(net: Net) -> None:
    rib = rib_with([ONE])
    rib.learn(ONE.peer, attributes(net.host(1), med=1), [net.cidr(1)])
    rib.learn(ONE.peer, attributes(net.host(1), med=2), [net.cidr(1)])
    settle(rib)
    assert rib.chosen()[net.cidr(1)].best.attributes.med == 2
    assert rib.peers()[ONE.peer].counts[net.family] == 1


def test_saying_the_same_again_changes_nothing(net: Net) -> None:
    rib = rib_with([ONE])
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1)])
    settle(rib)
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1), net.cidr(1)])
    assert not rib.has_work
    assert rib.decide() == {}


def test_what_is_withdrawn_is_gone(net: Net) -> None:
    rib = rib_with([ONE])
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1), net.cidr(2)])
    settle(rib)
    rib.withdraw(ONE.peer, [net.cidr(1), net.cidr(9)])
    assert rib.decide() == {net.cidr(1): None}
    assert set(rib.chosen()) == {net.cidr(2)}


def test_two_peers_with_equal_paths_share_the_load(net: Net) -> None:
    rib = rib_with([TWO, ONE])
    for each in (TWO, ONE):
        rib.learn(each.peer, attributes(net.host(1)), [net.cidr(1)])
    settle(rib)
    assert peers_of(rib, net.cidr(1)) == [ONE.peer, TWO.peer]
    rib.set_max_paths(1)
    rib.decide()
    assert peers_of(rib, net.cidr(1)) == [ONE.peer]
    assert notes(rib, net.cidr(1))[TWO.peer] == "lost: equal, but maxPaths is 1"


def test_prefixes_with_equal_paths_share_one_choice_whoever_spoke_first(net: Net) -> None:
    rib = rib_with([ONE, TWO])
    for each, prefix in ((ONE, 1), (TWO, 1), (TWO, 2), (ONE, 2)):
        rib.learn(each.peer, attributes(net.host(1)), [net.cidr(prefix)])
    settle(rib)
    assert rib.chosen()[net.cidr(1)] is rib.chosen()[net.cidr(2)]


def test_what_is_remembered_of_decisions_has_a_limit(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bgp.rib._MEMO_LIMIT", 3)
    rib = rib_with([ONE])
    for number in range(1, 20):
        rib.learn(ONE.peer, attributes(net.host(1), med=number), [net.cidr(number)])
    settle(rib)
    assert len(rib._memo) <= 3
    assert {prefix: choice.best.attributes.med for prefix, choice in rib.chosen().items()} == {
        net.cidr(number): number for number in range(1, 20)
    }


def test_a_change_back_before_the_decision_is_no_change(net: Net) -> None:
    rib = rib_with([ONE])
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1)])
    settle(rib)
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(2)])
    rib.withdraw(ONE.peer, [net.cidr(2)])
    assert rib.decide() == {}


def test_decide_takes_no_more_than_its_limit_and_the_oldest_first(net: Net) -> None:
    rib = rib_with([ONE])
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(number) for number in (5, 3, 4)])
    rib.set_reachability(hops(1))
    assert list(rib.decide(limit=2)) == [net.cidr(5), net.cidr(3)]
    assert rib.has_work
    assert list(rib.decide(limit=2)) == [net.cidr(4)]
    assert not rib.has_work


def test_a_peer_of_the_other_family_may_carry_a_prefix(net: Net) -> None:
    """RFC 8950: sessions, prefixes and next hops need not be of one family."""
    six = source("fd00::1")
    rib = rib_with([ONE, six])
    for each in (six, ONE):
        rib.learn(each.peer, attributes(net.host(1)), [net.cidr(1)])
    settle(rib)
    assert peers_of(rib, net.cidr(1)) == [ONE.peer, six.peer]


def test_attributes_that_mean_something_inside_an_as_alone_are_not_taken_from_outside() -> None:
    """RFC 7606 sections 7.9 and 7.10."""
    rib = rib_with([ONE, TWO])
    flattering = attributes(originator_id=IPv4Address("0.0.0.1"), cluster_list=())
    rib.learn(ONE.peer, attributes(), [V4.cidr(1)])
    rib.learn(TWO.peer, flattering, [V4.cidr(1)])
    settle(rib)
    assert rib.chosen()[V4.cidr(1)].best.source is ONE
    rib.learn(TWO.peer, flattering, [V4.cidr(1)])
    assert not rib.has_work, "and the same word is still the same word"


# Reachability (RFC 4271 section 9.1.2.1)


def test_a_path_is_not_used_before_its_next_hop_is_resolved(net: Net) -> None:
    rib = rib_with([ONE])
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1)])
    assert rib.decide() == {}
    assert notes(rib, net.cidr(1)) == {ONE.peer: f"next hop {net.host(1)} is unreachable"}
    assert rib.take_unresolved() == {NextHopKey(net.host(1))}
    assert rib.take_unresolved() == set()
    rib.set_reachability({NextHopKey(net.host(1)): 0})
    assert set(rib.decide()) == {net.cidr(1)}


def test_a_better_path_whose_next_hop_is_unreachable_does_not_count(net: Net) -> None:
    rib = rib_with([ONE, TWO])
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1)])
    rib.learn(TWO.peer, attributes(net.host(2), "65100 65002"), [net.cidr(1)])
    settle(rib)
    assert peers_of(rib, net.cidr(1)) == [ONE.peer]
    rib.set_reachability({NextHopKey(net.host(1)): None})
    rib.decide()
    assert peers_of(rib, net.cidr(1)) == [TWO.peer]
    rib.set_reachability({NextHopKey(net.host(1)): 0})
    rib.decide()
    assert peers_of(rib, net.cidr(1)) == [ONE.peer]


def test_without_a_reachable_next_hop_nothing_is_left(net: Net) -> None:
    rib = rib_with([ONE])
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1)])
    settle(rib)
    rib.set_reachability({NextHopKey(net.host(1)): None})
    assert rib.decide() == {net.cidr(1): None}


def test_a_dearer_next_hop_loses_and_its_prefixes_alone_are_decided_again(net: Net) -> None:
    rib = rib_with([ONE, TWO])
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1), net.cidr(2)])
    rib.learn(TWO.peer, attributes(net.host(2)), [net.cidr(1)])
    settle(rib)
    rib.set_reachability({NextHopKey(net.host(2)): 1})
    assert set(rib.decide()) == {net.cidr(1)}
    assert peers_of(rib, net.cidr(1)) == [ONE.peer]
    assert notes(rib, net.cidr(1))[TWO.peer] == "lost: nearer next hop"


def test_a_cost_said_again_is_no_work(net: Net) -> None:
    rib = rib_with([ONE])
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1)])
    settle(rib)
    rib.set_reachability({NextHopKey(net.host(1)): 0, NextHopKey(net.host(7)): None})
    assert not rib.has_work


def test_a_next_hop_that_comes_back_is_asked_about_again(net: Net) -> None:
    """Nobody may have watched it in between."""
    rib = rib_with([ONE])
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1)])
    settle(rib)
    rib.drop(ONE.peer)
    rib.decide()
    rib.open(ONE, rules())
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1)])
    assert rib.take_unresolved() == {NextHopKey(net.host(1))}


def test_every_next_hop_in_use_is_to_be_watched(net: Net) -> None:
    rib = rib_with([ONE, TWO])
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1)])
    rib.learn(TWO.peer, attributes(net.host(2)), [net.cidr(1)])
    assert rib.next_hops() == {NextHopKey(net.host(1)), NextHopKey(net.host(2))}


# Rules


def test_a_refused_prefix_is_held_but_not_used(net: Net) -> None:
    rib = Rib()
    rib.open(ONE, rules(accept=ranges_within([net.cidr(1)])))
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1), net.cidr(2)])
    settle(rib)
    entry = rib.peers()[ONE.peer]
    assert set(rib.chosen()) == {net.cidr(1)}
    assert (entry.counts[net.family], set(entry.refused)) == (2, {net.cidr(2)})
    assert notes(rib, net.cidr(2)) == {
        ONE.peer: f"refused: {net.cidr(2)} is outside the cluster's pod and service CIDRs and import.accept"
    }


def test_a_mesh_peer_that_announces_another_nodes_cidr_reads_as_documented() -> None:
    rib = Rib()
    mesh = rules(accept=ranges_within([V4.cidr(7)]), owners={V4.cidr(4): "n4", V4.cidr(7): "n7"}, peer_node="n7")
    rib.open(ONE, mesh)
    rib.learn(ONE.peer, attributes(), [V4.cidr(4)])
    assert notes(rib, V4.cidr(4)) == {ONE.peer: "refused: 10.42.4.0/24 belongs to Node n4, not n7"}


def test_a_word_that_turns_unacceptable_takes_its_prefix_away(net: Net) -> None:
    rib = rib_with([ONE])
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1)])
    settle(rib)
    rib.learn(ONE.peer, attributes(net.host(100)), [net.cidr(1)])
    settle(rib)
    assert net.cidr(1) not in rib.chosen()
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1)])
    settle(rib)
    assert peers_of(rib, net.cidr(1)) == [ONE.peer]
    assert rib.peers()[ONE.peer].refused == {}


def test_rules_that_change_judge_what_is_held_again(net: Net) -> None:
    rib = rib_with([ONE])
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1), net.cidr(2)])
    settle(rib)
    rib.set_rules(ONE.peer, rules(accept=ranges_within([net.cidr(2)])))
    assert rib.decide() == {net.cidr(1): None}
    rib.set_rules(ONE.peer, rules())
    assert set(rib.decide()) == {net.cidr(1)}
    assert set(rib.chosen()) == {net.cidr(1), net.cidr(2)}


def test_rules_that_change_nothing_for_a_prefix_leave_its_choice_alone(net: Net) -> None:
    rib = rib_with([ONE])
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1)])
    settle(rib)
    before = rib.chosen()[net.cidr(1)]
    rib.set_rules(ONE.peer, rules(owners={net.cidr(9): "n9"}))
    assert rib.decide() == {}
    assert rib.chosen()[net.cidr(1)] is before


def test_rules_for_a_peer_without_a_session_are_nothing(net: Net) -> None:
    rib = Rib()
    rib.set_rules(net.host(1), rules())
    assert rib.peers() == {}


def test_the_preference_is_judged_again_with_the_source() -> None:
    """A peer that comes back as one of our own AS is believed about LOCAL_PREF from then on."""
    rib = rib_with([ONE])
    rib.learn(ONE.peer, attributes(local_pref=250), [V4.cidr(1)])
    settle(rib)
    assert rib.chosen()[V4.cidr(1)].best.local_pref == 100
    rib.open(replace(ONE, asn=OWN_ASN, is_internal=True), rules())
    rib.decide()
    assert rib.chosen()[V4.cidr(1)].best.local_pref == 250


def test_a_peer_going_down_gracefully_loses_to_any_other(net: Net) -> None:
    rib = rib_with([ONE, TWO])
    rib.learn(ONE.peer, attributes(net.host(1), communities=(GRACEFUL_SHUTDOWN,)), [net.cidr(1)])
    rib.learn(TWO.peer, attributes(net.host(2), "65100 65001 65002"), [net.cidr(1)])
    settle(rib)
    assert peers_of(rib, net.cidr(1)) == [TWO.peer]


# Failover


def test_failover_says_where_everything_goes_without_going_there(net: Net) -> None:
    rib = rib_with([ONE, TWO])
    shared = [net.cidr(number) for number in range(1, 50)]
    for each, number in ((ONE, 1), (TWO, 2)):
        rib.learn(each.peer, attributes(net.host(number)), shared)
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(50)])
    rib.learn(TWO.peer, attributes(net.host(2)), [net.cidr(51)])
    settle(rib)
    before = dict(rib.chosen())

    moves = rib.failover(lambda path: path.source.peer == ONE.peer)

    assert {tuple(path.source.peer for path in move.before.multipath): len(move.after) for move in moves} == {
        (ONE.peer, TWO.peer): 1,
        (ONE.peer,): 0,
        (TWO.peer,): 1,
    }
    assert rib.chosen() == before
    assert not rib.has_work
    rib.drop(ONE.peer)
    rib.decide()
    assert peers_of(rib, shared[0]) == [TWO.peer]


# Explaining


def test_every_path_is_explained_used_ones_first(net: Net) -> None:
    rib = rib_with([ONE, TWO, THREE])
    rib.open(source("192.168.0.4"), rules(accept=(PrefixRange.within(net.cidr(9)),)))
    rib.learn(ONE.peer, attributes(net.host(1), "65100 65002"), [net.cidr(1)])
    for each, number in ((TWO, 2), (THREE, 3)):
        rib.learn(each.peer, attributes(net.host(number)), [net.cidr(1)])
    rib.learn(V4.host(4), attributes(net.host(4)), [net.cidr(1)])
    settle(rib)
    rows = rib.explain(net.cidr(1))
    assert [(str(row.path.source.peer), row.used, row.note) for row in rows] == [
        ("192.168.0.2", True, "best: shorter AS path"),
        ("192.168.0.3", True, "equal: multipath"),
        ("192.168.0.1", False, "lost: shorter AS path"),
        (
            "192.168.0.4",
            False,
            f"refused: {net.cidr(1)} is outside the cluster's pod and service CIDRs and import.accept",
        ),
    ]


def test_a_reason_that_changes_is_told_though_the_choice_does_not(net: Net) -> None:
    rib = rib_with([ONE, TWO])
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1)])
    settle(rib)
    rib.learn(TWO.peer, attributes(net.host(2), "65100 65002"), [net.cidr(1)])
    rib.set_reachability(hops(2))
    assert rib.decide() == {}
    assert rib.chosen()[net.cidr(1)].reason == "shorter AS path"
    assert notes(rib, net.cidr(1))[ONE.peer] == "best: shorter AS path"


def test_nothing_is_known_of_a_prefix_nobody_announces(net: Net) -> None:
    assert rib_with([ONE]).explain(net.cidr(1)) == []
