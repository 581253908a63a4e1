"""The ladder of RFC 4271 section 9.1.2.2, rung by rung."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address
from itertools import permutations
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.decision import EQUALITY, TIE_BREAK, TUNNEL_COST, Choice, choose
from bgp.path import NextHopKey, Origin, Path
from inet.prefix import parse_address
from tests.bgp.builders import path

NEAR, FAR = "172.16.0.1", "172.16.0.2"
COSTS = {NextHopKey(parse_address(NEAR)): 0, NextHopKey(parse_address(FAR)): 1}

# reason, clause, what is better, what is worse
RUNGS: Final[list[tuple[str, str, dict[str, Any], dict[str, Any]]]] = [
    ("higher local preference", "RFC 4271 9.1.1", {"local_pref": 200}, {"local_pref": 100}),
    ("shorter AS path", "RFC 4271 9.1.2.2 a", {"via": "65100 65002"}, {"via": "65100 65003 65002"}),
    ("lower origin", "RFC 4271 9.1.2.2 b", {"origin": Origin.EGP}, {"origin": Origin.INCOMPLETE}),
    ("lower MED", "RFC 4271 9.1.2.2 c", {"med": 5}, {"med": 10}),
    ("external over internal", "RFC 4271 9.1.2.2 d", {"is_internal": False}, {"is_internal": True}),
    ("nearer next hop", "RFC 4271 9.1.2.2 e", {"next_hop": NEAR}, {"next_hop": FAR}),
    ("lower router id", "RFC 4271 9.1.2.2 f, RFC 4456 9", {"router_id": "1.1.1.1"}, {"router_id": "2.2.2.2"}),
    (
        "shorter cluster list",
        "RFC 4456 9",
        {"cluster_list": (IPv4Address("8.8.8.1"),)},
        {"cluster_list": (IPv4Address("8.8.8.1"), IPv4Address("8.8.8.2"))},
    ),
    ("lower peer address", "RFC 4271 9.1.2.2 g", {"peer": "192.168.0.9"}, {"peer": "192.168.0.10"}),
]


def pick(*paths: Path, max_paths: int = 64) -> Choice:
    return choose(paths, costs=COSTS, max_paths=max_paths)


def via(peer: str, **said: Any) -> Path:
    return path(peer, **{"next_hop": NEAR} | said)


def test_the_ladder_is_the_one_of_the_specification() -> None:
    assert [(step.reason, step.clause) for step in (*EQUALITY, *TIE_BREAK)] == [rung[:2] for rung in RUNGS]


@pytest.mark.parametrize("number", range(len(RUNGS)), ids=[rung[0] for rung in RUNGS])
@pytest.mark.parametrize("is_swapped", [False, True], ids=["winner first", "winner last"])
def test_a_rung_beats_everything_below_it(number: int, is_swapped: bool) -> None:
    """The winner is better on one rung and worse on every later one; on earlier ones the two are equal."""
    winner_says: dict[str, Any] = {"next_hop": NEAR, "peer": "192.168.0.10"}
    loser_says: dict[str, Any] = {"next_hop": NEAR, "peer": "192.168.0.10"}
    for _, _, _, worse in RUNGS[:number]:
        winner_says |= worse
        loser_says |= worse
    winner_says |= RUNGS[number][2]
    loser_says |= RUNGS[number][3]
    for _, _, better, worse in RUNGS[number + 1 :]:
        winner_says |= worse
        loser_says |= better
    winner, loser = path(**winner_says), path(**loser_says)

    choice = pick(*((loser, winner) if is_swapped else (winner, loser)))

    reason = RUNGS[number][0]
    assert choice.best is winner
    if number < len(EQUALITY):
        assert choice.multipath == (winner,)
        assert choice.reason == reason
        assert choice.lost_to == {loser: reason}
    else:
        assert set(choice.multipath) == {winner, loser}
        assert choice.reason == f"equal: {reason}"
        assert choice.lost_to == {}


TUNNEL = "172.16.0.3"


@pytest.mark.parametrize(("cost", "wins"), [(TUNNEL_COST, False), (-1, True)], ids=["last resort", "required"])
def test_whether_a_path_needs_a_tunnel_comes_before_everything_else(cost: int, *, wins: bool) -> None:
    costs = COSTS | {NextHopKey(parse_address(TUNNEL)): cost}
    plain = path("192.168.0.9", local_pref=0, via="65100 65003 65002", next_hop=FAR, is_internal=True)
    tunnelled = path("192.168.0.1", local_pref=900, via="", next_hop=TUNNEL)
    for order in ((plain, tunnelled), (tunnelled, plain)):
        assert choose(order, costs=costs, max_paths=64).multipath == ((tunnelled,) if wins else (plain,))


def test_a_path_alone_wins_as_the_only_one() -> None:
    alone = via("192.168.0.1")
    assert pick(alone) == Choice(alone, (alone,), "", {})
    assert pick(alone).reason == "only path"


def test_each_loser_is_told_the_rung_it_lost_on() -> None:
    best = via("192.168.0.1", local_pref=200)
    longer = via("192.168.0.2", local_pref=200, via="65100 65002")
    lesser = via("192.168.0.3", local_pref=100)
    choice = pick(lesser, longer, best)
    assert choice.best is best
    assert choice.lost_to == {lesser: "higher local preference", longer: "shorter AS path"}
    assert choice.reason == "shorter AS path"


# MED (RFC 4271 section 9.1.2.2 c)


def test_med_is_not_compared_between_neighbouring_ases() -> None:
    one, other = via("192.168.0.1", via="65100 65009", med=100), via("192.168.0.2", via="65200 65009", med=1)
    assert pick(one, other).multipath == (one, other)


def test_a_missing_med_counts_as_zero() -> None:
    silent, spoken = via("192.168.0.1", med=None), via("192.168.0.2", med=1)
    assert pick(spoken, silent).best is silent
    zero = via("192.168.0.3", med=0)
    assert pick(zero, silent).multipath == (silent, zero)


def test_paths_born_in_our_own_as_compare_their_med() -> None:
    one = via("192.168.0.1", via="", is_internal=True, med=7)
    other = via("192.168.0.2", via="", is_internal=True, med=3)
    assert pick(one, other).multipath == (other,)


def test_med_is_compared_by_the_neighbouring_as_whichever_way_the_path_came() -> None:
    internal = via("192.168.0.1", via="65100 65009", is_internal=True, med=3)
    external = via("192.168.0.2", via="65100 65009", med=7)
    assert pick(internal, external).best is internal


def test_med_is_not_transitive_and_the_order_of_paths_does_not_matter() -> None:
    """By twos a beats b (d), b beats c (e) and c beats a (c): taken together, c removes a and then b wins."""
    a = path("192.168.0.1", via="65100 65009", med=10, next_hop=NEAR)
    b = path("192.168.0.2", via="65200 65009", med=0, next_hop=NEAR, is_internal=True)
    c = path("192.168.0.3", via="65100 65009", med=5, next_hop=FAR, is_internal=True)
    assert (pick(a, b).best, pick(b, c).best, pick(c, a).best) == (a, b, c)
    for order in permutations((a, b, c)):
        choice = pick(*order)
        assert choice.best is b
        assert choice.lost_to == {a: "lower MED", c: "nearer next hop"}


def test_a_path_that_goes_may_let_another_one_back_in() -> None:
    undercut = via("192.168.0.1", via="65100 65009", med=10)
    undercutting = path("192.168.0.2", via="65100 65009", med=5, next_hop=FAR)
    third = via("192.168.0.3", via="65200 65009")
    assert pick(undercut, undercutting, third).multipath == (third,)
    assert pick(undercut, third).multipath == (undercut, third)


# Router ids and reflection (RFC 4456 section 9)


def test_the_originator_stands_in_for_the_router_id_of_a_reflector() -> None:
    reflected = via("192.168.0.1", is_internal=True, router_id="9.9.9.9", originator_id=IPv4Address("1.1.1.1"))
    direct = via("192.168.0.2", is_internal=True, router_id="2.2.2.2")
    assert pick(direct, reflected).best is reflected


def test_router_ids_compare_as_numbers() -> None:
    nine, ten = via("192.168.0.2", router_id="9.0.0.1"), via("192.168.0.1", router_id="10.0.0.1")
    assert pick(nine, ten).best is nine


def test_no_cluster_list_is_the_shortest() -> None:
    direct = via("192.168.0.2")
    reflected = via("192.168.0.1", cluster_list=(IPv4Address("8.8.8.8"),))
    assert pick(reflected, direct).best is direct


def test_one_router_on_two_links_is_told_apart_by_the_interface() -> None:
    first, second = via("fe80::1%eth0"), via("fe80::1%eth1")
    for order in ((first, second), (second, first)):
        choice = pick(*order)
        assert choice.best is first
        assert choice.multipath == (first, second)
        assert choice.reason == "equal: lower peer address"


def test_peers_of_both_families_share_the_load() -> None:
    four, six = via("192.168.0.1"), via("fd00::1")
    assert pick(six, four).multipath == (four, six)


# Multipath


def test_equal_paths_share_the_load_in_the_order_of_their_peers() -> None:
    equals = [via(f"192.168.0.{number}", router_id=f"{9 - number}.0.0.1") for number in (1, 2, 3)]
    choice = pick(*reversed(equals))
    assert choice.multipath == tuple(equals)
    assert choice.best is equals[2]
    assert choice.reason == "equal: lower router id"


def test_paths_through_different_ases_of_one_length_share_the_load() -> None:
    one, other = via("192.168.0.1", via="65100 65009"), via("192.168.0.2", via="65200 65008")
    assert pick(one, other).multipath == (one, other)


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_more_equals_than_max_paths_are_cut_by_the_tie_break(limit: int) -> None:
    """Router ids run against the order of peers, so that the two cannot be mistaken for each other."""
    equals = [via(f"192.168.0.{number}", router_id=f"{10 - number}.0.0.1") for number in (1, 2, 3, 4)]
    choice = pick(*equals, max_paths=limit)
    assert choice.best is equals[3]
    assert choice.multipath == tuple(equals[4 - limit :])
    assert choice.lost_to == dict.fromkeys(equals[: 4 - limit], f"equal, but maxPaths is {limit}")


# Any paths


def paths() -> st.SearchStrategy[Path]:
    def build(peer: int, **said: Any) -> Path:
        return path(f"192.168.0.{peer}", **said)

    return st.builds(
        build,
        st.integers(1, 200),
        local_pref=st.sampled_from([100, 200]),
        via=st.sampled_from(["", "65100 65009", "65200 65009", "65100 65001 65009", "{65009}"]),
        origin=st.sampled_from(Origin),
        med=st.sampled_from([None, 0, 5]),
        is_internal=st.booleans(),
        next_hop=st.sampled_from([NEAR, FAR]),
        router_id=st.sampled_from(["1.1.1.1", "2.2.2.2"]),
        originator_id=st.sampled_from([None, IPv4Address("1.1.1.1")]),
    )


def from_different_peers() -> st.SearchStrategy[list[Path]]:
    return st.lists(paths(), min_size=1, max_size=6, unique_by=lambda path: path.source.peer)


@given(from_different_peers(), st.integers(1, 3), st.data())
def test_the_choice_does_not_depend_on_the_order_of_paths(
    candidates: list[Path], max_paths: int, data: st.DataObject
) -> None:
    shuffled: Sequence[Path] = data.draw(st.permutations(candidates))
    one, other = pick(*candidates, max_paths=max_paths), pick(*shuffled, max_paths=max_paths)
    assert one == other
    assert (one.reason, one.lost_to) == (other.reason, other.lost_to)


@given(from_different_peers(), st.integers(1, 3))
def test_every_path_is_used_or_told_why_not(candidates: list[Path], max_paths: int) -> None:
    choice = pick(*candidates, max_paths=max_paths)
    assert choice.best in choice.multipath
    assert 1 <= len(choice.multipath) <= max_paths
    assert {*choice.multipath, *choice.lost_to} == set(candidates)
    assert len(choice.multipath) + len(choice.lost_to) == len(candidates)


@given(from_different_peers())
def test_a_smaller_limit_keeps_the_best_of_the_equals(candidates: list[Path]) -> None:
    wide, narrow = pick(*candidates), pick(*candidates, max_paths=1)
    assert narrow.best is wide.best
    assert set(narrow.multipath) <= set(wide.multipath)
