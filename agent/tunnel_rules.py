"""What the table `inet tortie` holds for tunnels: who may send us packets in one, and that no pod does.

    tunnel_in    prerouting, before conntrack ─ what looks encapsulated ─ tunnel_from: dropped if a pod has sent it, and
                 so is what comes to this node in a tunnel from anybody who is not a node
    tunnel_out   output: what this node encapsulates is not tracked

Every packet that comes to this node pays for the first of these, most of them twice, before and after they are
unpacked. So what is no tunnel's is let go by two comparisons, and what a node sent by few more.

Tracking would cost an entry for each flow of each pod, since the outer UDP source port tells them apart, and would let
somebody's address translation at the outer header, which no other node could accept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from agent.enforcement import NodePolicy
from agent.mtu import PodMtu
from agent.routing import Routing
from bgp.config import TunnelType
from bgp.switchover import Medium
from felix.nft.elements import PLAIN
from felix.nft.enforcement import Content, SetContent
from felix.nft.familywords import TYPES, WORDS, prefix_set
from felix.nft.table import SetText
from inet.prefix import Family, IPAddress, Prefix, family_of
from policy.nftskeleton import POD_INTERFACE_GROUP

OWNER: Final = "tunnel"
"""By which name these are contributed."""

FROM_POD: Final = "encapsulated by a pod"
UNKNOWN_SENDER: Final = "in a tunnel from an address that is no node's"

_PEERS: Final = {Family.IPV4: "tunnel_peers4", Family.IPV6: "tunnel_peers6"}
_PODS: Final = {Family.IPV4: "tunnel_pods4", Family.IPV6: "tunnel_pods6"}
_POD_SOURCES: Final = ("ip saddr @tunnel_pods4", "ip6 saddr @tunnel_pods6")
_PROTOCOL: Final = {Family.IPV4: 4, Family.IPV6: 41}  # of what is inside: IPv4 (RFC 2003), IPv6 (RFC 2473)


def tell_of_tunnels(routing: Routing, policy: NodePolicy, mtu: PodMtu) -> None:
    """Have the table and the MTU of pods follow the tunnels in use, and their devices the MTU of uplinks."""
    carrier = routing.carrier

    def follow() -> None:
        policy.contribute(OWNER, content(carrier.media, carrier.port, carrier.peers, routing.own_prefixes))
        mtu.set_tunnels(carrier.devices)
        mtu.set_overhead(max(carrier.overhead.values()))

    policy.expect(OWNER)
    mtu.expect_overhead()
    carrier.on_change = follow
    carrier.uplink_mtu = lambda: mtu.uplink
    mtu.on_change(routing.look_again)


def content(
    media: Collection[Medium], port: int, peers: Collection[IPAddress], pod_cidrs: Collection[Prefix]
) -> Content:
    """Return the part of the table; nothing where there are no tunnels.

    `port` is the UDP port of VXLAN, `peers` are the other nodes, `pod_cidrs` are this one's.
    """
    if not media:
        return Content({}, {})
    matches = list(_matches(media, port))
    return Content(
        {
            "tunnel_in": "\n".join(
                (
                    "type filter hook prerouting priority -310; policy accept;",
                    *(f"{match} goto tunnel_from" for match in _encapsulated(port)),
                )
            ),
            "tunnel_from": "\n".join(
                (
                    f'iifgroup {POD_INTERFACE_GROUP} counter drop comment "{FROM_POD}"',
                    *(f"{match} {_is_peer(family)} notrack accept" for family, match in matches),
                    *(f'{source} counter drop comment "{FROM_POD}"' for source in _POD_SOURCES),
                    *(
                        f'{_of_family(family)} {match} fib daddr type local counter drop comment "{UNKNOWN_SENDER}"'
                        for family, match in matches
                    ),
                )
            ),
            "tunnel_out": "\n".join(
                (
                    "type filter hook output priority -310; policy accept;",
                    *(f"{match} {_is_peer(family, 'daddr')} notrack accept" for family, match in matches),
                )
            ),
        },
        {
            name: SetContent(
                SetText(f"type {TYPES[family]}"),
                {address.packed: PLAIN for address in peers if family_of(address) is family},
            )
            for family, name in _PEERS.items()
        }
        | {name: prefix_set(tuple(pod_cidrs), family) for family, name in _PODS.items()},
    )


def _matches(media: Collection[Medium], port: int) -> Iterator[tuple[Family, str]]:
    """Yield what tunnels look like from outside, with the family of the outer header, which is that of the pods."""
    for medium in sorted(media, key=lambda medium: (medium.type.value, medium.family)):
        if medium.type is TunnelType.VXLAN:
            yield medium.family, f"udp dport {port}"
        else:
            yield medium.family, f"meta l4proto {_PROTOCOL[medium.family]}"


def _encapsulated(port: int) -> Iterator[str]:
    """Yield what no pod may send, whichever tunnels this node has: it could enter those of others."""
    yield f"udp dport {port}"
    for protocol in _PROTOCOL.values():  # a comparison each costs less than a set of both
        yield f"meta l4proto {protocol}"


def _of_family(family: Family) -> str:
    return f"meta nfproto {'ipv4' if family is Family.IPV4 else 'ipv6'}"


def _is_peer(family: Family, end: str = "saddr") -> str:
    return f"{WORDS[family]} {end} @{_PEERS[family]}"
