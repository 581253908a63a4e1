"""From one kind of tunnel to another: when it is used, and how long the former is understood."""

from __future__ import annotations

from bgp.carriage import Tunnel
from bgp.config import EncapsulationMode, TunnelType
from bgp.switchover import (
    LINGER_S,
    UNDERSTOOD_S,
    USE_UNHEARD_AFTER_S,
    FarEnd,
    Medium,
    Switchover,
)
from inet.prefix import Family, IPAddress, parse_address

NODES = ("n1", "n2", "n3")
N2, N3, MOVED = (parse_address(f"172.16.0.{number}") for number in (2, 3, 22))
REACHED = {N2, N3}
VXLAN, IPIP = TunnelType.VXLAN, TunnelType.IPIP


def to(type_: TunnelType, *, n2: IPAddress = N2, vni: int = 0) -> dict[IPAddress, Tunnel]:
    always = EncapsulationMode.ALWAYS
    return {n2: Tunnel("n2", type_, always, vni), N3: Tunnel("n3", type_, always, vni)}


def medium(type_: TunnelType) -> Medium:
    return Medium(type_, Family.IPV4)


def started(type_: TunnelType | None, *, vni: int = 0) -> Switchover:
    switchover = Switchover()
    switchover.want(to(type_, vni=vni) if type_ else {}, NODES, (), 0.0)
    return switchover


def test_where_there_is_no_other_way_a_tunnel_is_in_force_at_once() -> None:
    switchover = started(VXLAN)
    assert switchover.in_force == to(VXLAN)
    assert switchover.next_deadline is None


def test_another_type_is_understood_at_once_and_used_towards_whoever_was_heard() -> None:
    switchover = started(VXLAN)
    switchover.want(to(IPIP), NODES, REACHED, 100.0)
    assert switchover.in_force == to(VXLAN)
    assert switchover.media == {medium(VXLAN), medium(IPIP)}
    assert switchover.to_try == to(IPIP)
    switchover.heard({N3: to(IPIP)[N3]}, 101.0)
    assert switchover.in_force == {N2: to(VXLAN)[N2], N3: to(IPIP)[N3]}
    assert switchover.to_try == {N2: to(IPIP)[N2]}
    switchover.heard({N2: to(IPIP)[N2]}, 300.0)
    assert switchover.in_force == to(IPIP)
    assert switchover.to_try == {}


def test_what_was_heard_through_a_tunnel_that_is_not_wanted_any_more_says_nothing() -> None:
    switchover = started(None)
    switchover.want(to(VXLAN, vni=1), NODES, REACHED, 100.0)
    switchover.want(to(VXLAN, vni=2), NODES, REACHED, 101.0)
    switchover.heard(to(VXLAN, vni=1), 102.0)
    assert switchover.in_force == {}
    switchover.heard(to(VXLAN, vni=2), 102.0)
    assert switchover.in_force == to(VXLAN, vni=2)


def test_an_end_that_answers_nobody_is_used_unheard_in_the_end() -> None:
    switchover = started(VXLAN)
    switchover.want(to(IPIP), NODES, REACHED, 100.0)
    switchover.want(to(IPIP), NODES, REACHED, 200.0)  # the same wish once more
    assert switchover.next_deadline == 100.0 + USE_UNHEARD_AFTER_S
    assert not switchover.tick(100.0 + USE_UNHEARD_AFTER_S - 0.1)
    assert switchover.tick(100.0 + USE_UNHEARD_AFTER_S)
    assert switchover.in_force == to(IPIP)


def test_the_former_type_is_understood_until_nobody_has_used_it_for_a_while() -> None:
    switchover = started(VXLAN)
    switchover.want(to(IPIP), NODES, REACHED, 100.0)
    switchover.heard(to(IPIP), 110.0)
    assert switchover.next_deadline == 110.0 + LINGER_S
    assert not switchover.tick(110.0 + LINGER_S, {medium(VXLAN)})
    assert switchover.media == {medium(VXLAN), medium(IPIP)}
    assert switchover.lingering == {medium(VXLAN)}
    assert switchover.tick(110.0 + 2 * LINGER_S)
    assert switchover.media == {medium(IPIP)}


def test_to_no_tunnels_at_all_is_at_once_but_they_are_understood_on() -> None:
    switchover = started(VXLAN, vni=7)
    switchover.want({}, NODES, REACHED, 100.0)
    assert switchover.in_force == {}
    assert (switchover.media, switchover.peers, switchover.vnis) == ({medium(VXLAN)}, {N2, N3}, {7})
    switchover.tick(100.0 + LINGER_S)
    assert (switchover.media, switchover.peers, switchover.vnis) == (frozenset(), {N2, N3}, {7})
    switchover.tick(100.0 + UNDERSTOOD_S)
    assert (switchover.media, switchover.peers, switchover.vnis) == (frozenset(), frozenset(), frozenset())
    assert switchover.next_deadline is None


def test_a_change_of_mind_before_anybody_was_heard_leaves_all_as_it_was() -> None:
    switchover = started(VXLAN)
    switchover.want(to(IPIP), NODES, REACHED, 100.0)
    switchover.want(to(VXLAN), NODES, REACHED, 101.0)
    assert switchover.in_force == to(VXLAN)
    assert switchover.to_try == {}
    switchover.tick(101.0 + LINGER_S)
    assert switchover.media == {medium(VXLAN)}
    assert switchover.next_deadline is None


def test_a_new_node_and_a_new_address_are_used_at_once() -> None:
    switchover = started(VXLAN)
    n4 = {parse_address("172.16.0.4"): Tunnel("n4", VXLAN, EncapsulationMode.ALWAYS)}
    wanted = to(VXLAN, n2=MOVED) | n4
    switchover.want(wanted, (*NODES, "n4"), REACHED, 100.0)
    assert switchover.in_force == wanted


def test_from_a_former_address_packets_are_taken_for_a_good_while() -> None:
    switchover = started(VXLAN)
    switchover.want(to(VXLAN, n2=MOVED), NODES, REACHED, 100.0)
    assert switchover.peers == {N2, N3, MOVED}
    assert next(iter(switchover.far_ends)) == FarEnd(N2, "n2")  # what is in use comes last, and counts
    assert switchover.tick(100.0 + UNDERSTOOD_S)
    assert switchover.peers == {N3, MOVED}


def test_from_the_address_of_a_node_that_is_gone_packets_are_not_taken_for_long() -> None:
    switchover = started(VXLAN)
    switchover.want({N3: to(VXLAN)[N3]}, ("n1", "n3"), REACHED, 100.0)
    assert switchover.peers == {N2, N3}
    assert switchover.tick(100.0 + LINGER_S)
    assert switchover.peers == {N3}


def test_the_first_tunnels_to_nodes_that_are_reached_already_wait() -> None:
    switchover = started(None)
    switchover.want(to(VXLAN), NODES, {N2}, 100.0)
    assert switchover.in_force == {N3: to(VXLAN)[N3]}
    assert switchover.media == {medium(VXLAN)}
    assert switchover.to_try == {N2: to(VXLAN)[N2]}


def test_after_a_restart_in_the_middle_it_goes_on_where_it_was() -> None:
    switchover = Switchover()
    switchover.adopt({N2: to(VXLAN, vni=7)[N2]}, {medium(IPIP)}, (), (), 100.0)
    switchover.want(to(VXLAN, vni=8), NODES, REACHED, 100.0)
    assert switchover.in_force == {N2: to(VXLAN, vni=7)[N2]}
    assert switchover.to_try == to(VXLAN, vni=8)
    assert switchover.vnis == {7, 8}
    assert switchover.media == {medium(VXLAN), medium(IPIP)}


def test_after_a_restart_what_others_may_use_still_is_understood() -> None:
    switchover = Switchover()
    switchover.adopt({}, {medium(VXLAN)}, {FarEnd(N2, "n2")}, {7}, 100.0)
    switchover.want({}, NODES, REACHED, 100.0)
    assert (switchover.media, switchover.peers, switchover.vnis) == ({medium(VXLAN)}, {N2}, {7})
    switchover.tick(100.0 + LINGER_S)
    assert switchover.media == frozenset()
