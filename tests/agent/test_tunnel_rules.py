"""What the table holds for tunnels: as written, and as a kernel takes it."""

from __future__ import annotations

import contextlib

import pytest

from agent.tunnel_rules import content
from bgp.config import TunnelType
from bgp.switchover import Medium
from felix.nft.enforcement import Content, Enforcement
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.library import Library
from inet.prefix import Family, Prefix, parse_address
from tests.felix.netns import Node, built

VXLAN = [Medium(TunnelType.VXLAN, family) for family in Family]
IPIP = [Medium(TunnelType.IPIP, family) for family in Family]
PEERS = [parse_address("172.16.0.2"), parse_address("fd16::2")]
PODS = [Prefix.parse("10.42.1.0/24"), Prefix.parse("fd42:0:0:1::/64")]


def rules(found: Content, chain: str, skipped: int = 1) -> list[str]:
    return found.chains[chain].splitlines()[skipped:]


def test_without_tunnels_there_is_nothing() -> None:
    assert content([], 4789, PEERS, PODS) == Content({}, {})


def test_nodes_come_in_untracked_and_strangers_do_not() -> None:
    found = content(VXLAN, 4789, PEERS, PODS)
    stranger = (
        'udp dport 4789 fib daddr type local counter drop comment "in a tunnel from an address that is no node\'s"'
    )
    accepted, dropped = rules(found, "tunnel_from")[:2], rules(found, "tunnel_from")[-2:]
    assert accepted == [
        "udp dport 4789 ip saddr @tunnel_peers4 notrack accept",
        "udp dport 4789 ip6 saddr @tunnel_peers6 notrack accept",
    ]
    assert dropped == [
        f"meta nfproto ipv4 {stranger}",
        f"meta nfproto ipv6 {stranger}",
    ]
    assert rules(found, "tunnel_out") == [
        "udp dport 4789 ip daddr @tunnel_peers4 notrack accept",
        "udp dport 4789 ip6 daddr @tunnel_peers6 notrack accept",
    ]


def test_pods_may_encapsulate_nothing_whatever_this_node_uses() -> None:
    for media in (VXLAN, IPIP):
        found = content(media, 4789, PEERS, PODS)
        assert rules(found, "tunnel_in") == [
            f"{match} goto tunnel_from" for match in ("udp dport 4789", "meta l4proto 4", "meta l4proto 41")
        ]
        dropped = [rule.partition(" counter")[0] for rule in rules(found, "tunnel_from", 0) if "by a pod" in rule]
        assert dropped == ["iifgroup 97", "ip saddr @tunnel_pods4", "ip6 saddr @tunnel_pods6"]


def test_ip_in_ip_is_known_by_its_protocol_in_each_family() -> None:
    accepted = [rule for rule in rules(content(IPIP, 4789, PEERS, PODS), "tunnel_from", 0) if "accept" in rule]
    assert accepted == [
        "meta l4proto 4 ip saddr @tunnel_peers4 notrack accept",
        "meta l4proto 41 ip6 saddr @tunnel_peers6 notrack accept",
    ]


def test_sets_hold_nodes_and_pods() -> None:
    sets = content(VXLAN, 4789, PEERS, PODS).sets
    assert list(sets["tunnel_peers4"].elements) == [PEERS[0].packed]
    assert list(sets["tunnel_peers6"].elements) == [PEERS[1].packed]
    ((first, last),) = sets["tunnel_pods4"].elements
    assert (first, last) == (bytes([10, 42, 1, 0]), bytes([10, 42, 1, 255]))


@pytest.mark.kernel
@pytest.mark.parametrize("media", [VXLAN, IPIP, VXLAN + IPIP], ids=["VXLAN", "IPIP", "both"])
async def test_a_kernel_takes_it_and_finds_no_difference_the_second_time(library: Library, media: list[Medium]) -> None:
    with built(Node()), contextlib.closing(KernelRuleTable(library)) as table:
        keeper = Enforcement(table)
        report = await keeper.sync(content(media, 4789, PEERS, PODS))
        assert report.refusals == ()
        again = await keeper.sync(content(media, 4789, PEERS, PODS))
        assert (again.differences, again.refusals) == ((), ())
