"""From one kind of tunnel to another: when it is used, and how long the former is understood."""

from __future__ import annotations

from bgp.carriage import Tunnel
from bgp.config import EncapsulationMode, TunnelType
from bgp.switchover import RETIRE_DELAY_S, SWITCH_DELAY_S, Medium, Switchover
from inet.prefix import Family, IPAddress, parse_address

NODES = ("n1", "n2", "n3")
N2, N3, MOVED = (parse_address(f"172.16.0.{number}") for number in (2, 3, 22))
VXLAN, IPIP = TunnelType.VXLAN, TunnelType.IPIP


def to(type_: TunnelType, *, n2: IPAddress = N2) -> dict[IPAddress, Tunnel]:
    always = EncapsulationMode.ALWAYS
    return {n2: Tunnel("n2", type_, always), N3: Tunnel("n3", type_, always)}


def medium(type_: TunnelType) -> Medium:
    return Medium(type_, Family.IPV4)


def started(type_: TunnelType | None) -> Switchover:
    switchover = Switchover()
    switchover.want(to(type_) if type_ else {}, NODES, 0.0)
    return switchover


def test_at_the_start_everything_is_in_force_at_once() -> None:
    switchover = started(VXLAN)
    assert switchover.in_force == to(VXLAN)
    assert switchover.next_deadline is None


def test_another_type_is_understood_at_once_and_used_later() -> None:
    switchover = started(VXLAN)
    switchover.want(to(IPIP), NODES, 100.0)
    assert switchover.in_force == to(VXLAN)
    assert switchover.media == {medium(VXLAN), medium(IPIP)}
    assert switchover.next_deadline == 100.0 + SWITCH_DELAY_S
    assert not switchover.tick(100.0 + SWITCH_DELAY_S - 0.1)
    assert switchover.tick(100.0 + SWITCH_DELAY_S)
    assert switchover.in_force == to(IPIP)


def test_the_former_type_is_understood_for_a_good_while() -> None:
    switchover = started(VXLAN)
    switchover.want(to(IPIP), NODES, 100.0)
    switchover.tick(100.0 + SWITCH_DELAY_S)
    assert switchover.media == {medium(VXLAN), medium(IPIP)}
    assert switchover.next_deadline == 100.0 + SWITCH_DELAY_S + RETIRE_DELAY_S
    assert switchover.tick(100.0 + SWITCH_DELAY_S + RETIRE_DELAY_S)
    assert switchover.media == {medium(IPIP)}
    assert switchover.next_deadline is None


def test_to_no_tunnels_at_all_is_at_once_but_they_are_understood_on() -> None:
    switchover = started(VXLAN)
    switchover.want({}, NODES, 100.0)
    assert switchover.in_force == {}
    assert (switchover.media, switchover.peers) == ({medium(VXLAN)}, {N2, N3})
    switchover.tick(100.0 + RETIRE_DELAY_S)
    assert (switchover.media, switchover.peers) == (frozenset(), frozenset())


def test_a_change_of_mind_within_the_delay_leaves_all_as_it_was() -> None:
    switchover = started(VXLAN)
    switchover.want(to(IPIP), NODES, 100.0)
    switchover.want(to(VXLAN), NODES, 101.0)
    assert switchover.in_force == to(VXLAN)
    switchover.tick(101.0 + RETIRE_DELAY_S)
    assert switchover.media == {medium(VXLAN)}
    assert switchover.next_deadline is None


def test_a_new_node_and_a_new_address_are_used_at_once() -> None:
    switchover = started(VXLAN)
    n4 = {parse_address("172.16.0.4"): Tunnel("n4", VXLAN, EncapsulationMode.ALWAYS)}
    wanted = to(VXLAN, n2=MOVED) | n4
    switchover.want(wanted, (*NODES, "n4"), 100.0)
    assert switchover.in_force == wanted


def test_from_a_former_address_packets_are_taken_for_a_while() -> None:
    switchover = started(VXLAN)
    switchover.want(to(VXLAN, n2=MOVED), NODES, 100.0)
    assert switchover.peers == {N2, N3, MOVED}
    assert switchover.next_deadline == 100.0 + RETIRE_DELAY_S
    assert switchover.tick(100.0 + RETIRE_DELAY_S)
    assert switchover.peers == {N3, MOVED}


def test_the_first_tunnels_of_nodes_that_are_there_wait() -> None:
    switchover = started(None)
    switchover.want(to(VXLAN), NODES, 100.0)
    assert switchover.in_force == {}
    assert switchover.media == {medium(VXLAN)}
    switchover.tick(100.0 + SWITCH_DELAY_S)
    assert switchover.in_force == to(VXLAN)
