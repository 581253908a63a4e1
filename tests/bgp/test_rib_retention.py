"""What the RIB holds of a peer at its maximum, and of one that is lost."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from bgp.rib import Rib
from inet.prefix import Family
from tests.bgp.builders import V4, Net, attributes, peers_of, rib_with, rules, settle, source

ONE, TWO, THREE = (source(f"192.168.0.{number}", router_id=f"{number}.0.0.1") for number in (1, 2, 3))


# The maximum


def limited(number: int) -> Rib:
    rib = Rib()
    rib.open(ONE, rules(max_prefixes=number))
    return rib


def test_prefixes_beyond_the_maximum_are_dropped_and_counted(net: Net) -> None:
    rib = limited(2)
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(number) for number in (1, 2, 3, 4, 1)])
    settle(rib)
    entry = rib.peers()[ONE.peer]
    assert set(rib.chosen()) == {net.cidr(1), net.cidr(2)}
    assert (entry.counts[net.family], entry.overflow[net.family]) == (2, 2)


def test_the_maximum_counts_refused_prefixes_and_each_family_by_itself() -> None:
    rib = Rib()
    rib.open(ONE, rules(accept=(), max_prefixes=2))
    for net in (V4, Net(Family.IPV6)):
        rib.learn(ONE.peer, attributes(), [net.cidr(1), net.cidr(2), net.cidr(3)])
    entry = rib.peers()[ONE.peer]
    assert entry.counts == dict.fromkeys(Family, 2)
    assert entry.overflow == dict.fromkeys(Family, 1)
    assert len(entry.refused) == 4


def test_a_full_peer_may_still_change_what_it_said(net: Net) -> None:
    rib = limited(1)
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1)])
    rib.learn(ONE.peer, attributes(net.host(1), med=5), [net.cidr(1)])
    settle(rib)
    assert rib.chosen()[net.cidr(1)].best.attributes.med == 5
    assert rib.peers()[ONE.peer].overflow[net.family] == 0


def test_a_withdrawal_makes_room(net: Net) -> None:
    rib = limited(1)
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1), net.cidr(2)])
    rib.withdraw(ONE.peer, [net.cidr(2)])
    assert rib.peers()[ONE.peer].counts[net.family] == 1, "what was dropped is not withdrawn twice"
    rib.withdraw(ONE.peer, [net.cidr(1)])
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(2)])
    settle(rib)
    assert set(rib.chosen()) == {net.cidr(2)}


def test_a_prefix_named_twice_in_one_update_takes_one_place(net: Net) -> None:
    rib = limited(2)
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1), net.cidr(1), net.cidr(2)])
    entry = rib.peers()[ONE.peer]
    assert (set(entry.received), entry.overflow[net.family]) == ({net.cidr(1), net.cidr(2)}, 0)


def test_a_restarted_peer_finds_room_for_what_is_new(net: Net) -> None:
    rib = limited(2)
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1), net.cidr(2)])
    settle(rib)
    rib.mark_stale(ONE.peer, Family)
    rib.open(ONE, rules(max_prefixes=2))
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(3), net.cidr(4)])
    assert rib.sweep(ONE.peer) == 2
    settle(rib)
    assert set(rib.chosen()) == {net.cidr(3), net.cidr(4)}
    assert rib.peers()[ONE.peer].overflow[net.family] == 0


def test_a_stale_prefix_said_again_beyond_the_maximum_goes_with_the_sweep(net: Net) -> None:
    rib = limited(2)
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1), net.cidr(2)])
    rib.mark_stale(ONE.peer, Family)
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(3), net.cidr(1), net.cidr(2)])
    entry = rib.peers()[ONE.peer]
    assert (entry.overflow[net.family], entry.stale) == (1, {net.cidr(2)})
    rib.sweep(ONE.peer)
    assert set(entry.received) == {net.cidr(1), net.cidr(3)}


def test_the_count_of_dropped_prefixes_starts_again_with_the_session(net: Net) -> None:
    rib = limited(1)
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1), net.cidr(2)])
    rib.mark_stale(ONE.peer, Family)
    rib.open(ONE, rules(max_prefixes=1))
    assert rib.peers()[ONE.peer].overflow[net.family] == 0


def test_a_lower_maximum_drops_nothing_that_is_held(net: Net) -> None:
    rib = limited(2)
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1), net.cidr(2)])
    rib.set_rules(ONE.peer, rules(max_prefixes=1))
    settle(rib)
    assert len(rib.chosen()) == 2
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(3)])
    assert rib.peers()[ONE.peer].overflow[net.family] == 1


# Lost peers


def test_a_dropped_peer_takes_all_it_said_along(net: Net) -> None:
    rib = rib_with([ONE, TWO])
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1), net.cidr(2)])
    rib.learn(TWO.peer, attributes(net.host(2)), [net.cidr(2)])
    settle(rib)
    rib.drop(ONE.peer)
    changed = rib.decide()
    assert changed[net.cidr(1)] is None
    assert peers_of(rib, net.cidr(2)) == [TWO.peer]
    assert set(rib.peers()) == {TWO.peer}
    rib.drop(ONE.peer)
    assert not rib.has_work


def test_stale_paths_forward_until_they_are_swept(net: Net) -> None:
    rib = rib_with([ONE])
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1), net.cidr(2)])
    settle(rib)
    rib.mark_stale(ONE.peer, Family)
    assert not rib.has_work
    assert [row.stale for row in rib.explain(net.cidr(1))] == [True]
    rib.open(ONE, rules())
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1)])
    assert not rib.has_work, "the same word again moves nothing"
    assert rib.sweep(ONE.peer) == 1
    assert rib.decide() == {net.cidr(2): None}


def test_staleness_and_sweeping_keep_to_their_families() -> None:
    rib = rib_with([ONE])
    four, six = V4.cidr(1), Net(Family.IPV6).cidr(1)
    rib.learn(ONE.peer, attributes(), [four, six])
    rib.mark_stale(ONE.peer, [Family.IPV4])
    assert rib.peers()[ONE.peer].stale == {four}
    assert rib.sweep(ONE.peer, [Family.IPV6]) == 0
    rib.mark_stale(ONE.peer, [Family.IPV6])
    assert rib.sweep(ONE.peer, [Family.IPV6]) == 1
    assert set(rib.peers()[ONE.peer].received) == {four}


def test_families_that_are_not_kept_go_by_marking_and_sweeping_them() -> None:
    """How DROP_NOT_KEPT is carried out."""
    rib = rib_with([ONE])
    four, six = V4.cidr(1), Net(Family.IPV6).cidr(1)
    rib.learn(ONE.peer, attributes(), [four, six])
    rib.mark_stale(ONE.peer, [Family.IPV6])
    rib.sweep(ONE.peer, [Family.IPV6])
    entry = rib.peers()[ONE.peer]
    assert (set(entry.received), entry.stale) == ({four}, set())


def test_a_stale_prefix_that_is_withdrawn_is_stale_no_more(net: Net) -> None:
    rib = rib_with([ONE])
    rib.learn(ONE.peer, attributes(net.host(1)), [net.cidr(1)])
    rib.mark_stale(ONE.peer, Family)
    rib.withdraw(ONE.peer, [net.cidr(1)])
    assert rib.peers()[ONE.peer].stale == set()
    assert rib.sweep(ONE.peer) == 0


@pytest.mark.parametrize("say", ["mark_stale", "sweep"])
def test_an_unknown_peer_is_never_stale(say: str, net: Net) -> None:
    rib = Rib()
    getattr(rib, say)(net.host(1), Family)
    assert rib.peers() == {}


def test_a_peer_that_comes_back_as_another_router_keeps_its_paths_under_its_new_name() -> None:
    rib = rib_with([TWO, THREE])
    for each in (TWO, THREE):
        rib.learn(each.peer, attributes(), [V4.cidr(1)])
    settle(rib)
    assert rib.chosen()[V4.cidr(1)].best.source == TWO
    rib.mark_stale(THREE.peer, Family)
    back = replace(THREE, router_id=IPv4Address("1.0.0.1"))
    rib.open(back, rules())
    rib.decide()
    assert rib.chosen()[V4.cidr(1)].best.source == back
    assert rib.peers()[THREE.peer].stale == {V4.cidr(1)}
    rib.sweep(THREE.peer)
    rib.decide()
    assert peers_of(rib, V4.cidr(1)) == [TWO.peer]
