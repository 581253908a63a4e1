"""The fixed part of the table: hooks, the way a packet takes through them, and what is empty until a pod comes.

    prerouting_raw ─ pod_source   spoofed sources end here, before conntrack could take them for a reply
    forward ─ from_pod ─ from_pod4/6 ─ egress chains ─ egress_ok ─┬─ to_pod ─ to_pod4/6 ─ ingress chains ─ accept
            └ to_pod                                              └─ accept
    input   ─ own_node ─ to_node4/6 ─ node chains ─ accept
    output  ─ own_pod ─ from_node4/6 ─ accept

Four rules keep it closed:

- Falling through is dropping. A pod that is not in the maps, or a local address nobody has, meets a drop; an egress
  chain allows by going to `egress_ok`, which judges ingress too, an ingress chain by accepting.
- The maps are keyed by address alone, which the source check makes sound: a pod's own address is one to which the
  kernel has a route by the pod's link. That look-up costs as much as all the rest (IPv6), so the kernel remembers link
  and address for some seconds; it forgets by itself, and nobody else writes there.
- A pod that is restricted in one direction starts no connection in the middle in any other: what it is allowed there
  goes through a `reset` chain. Else the other side would revive a connection that a new deny has cut.
- Transit that is no pod's concern is accepted without a look.

Pods are known by the interface group of their host side.
"""

from __future__ import annotations

from typing import Final

TABLE: Final = "tortie"
POD_INTERFACE_GROUP: Final = 97
LOG_GROUP: Final = 5

LOG_PREFIX: Final = "tortie"

SPOOFED: Final = "spoofed"
FOREIGN: Final = "foreign"
NOT_PROGRAMMED: Final = "unprogrammed"
NO_SUCH_POD: Final = "nobody"

NO_POLICYS_DOING: Final = {
    SPOOFED: "source is not the pod's own",
    FOREIGN: "local pod address from outside",
    NOT_PROGRAMMED: "pod is not programmed yet",
    NO_SUCH_POD: "no such pod here",
}
"""Why packets are dropped that no policy denies, in words. Each has a chain, `drop_REASON`, that logs its name."""

LOCAL_CIDR_SETS: Final = {4: "local_pod_cidr4", 6: "local_pod_cidr6"}
POD_SOURCES: Final = {4: "pod_sources4", 6: "pod_sources6"}
FROM_POD: Final = {4: "from_pod4", 6: "from_pod6"}
TO_POD: Final = {4: "to_pod4", 6: "to_pod6"}
TO_NODE: Final = {4: "to_node4", 6: "to_node6"}
FROM_NODE: Final = {4: "from_node4", 6: "from_node6"}

EGRESS_OK: Final = "egress_ok"
DENY: Final = {"egress": "deny_egress", "ingress": "deny_ingress", "node": "deny_node"}
RESET: Final = {"egress": "reset_egress", "ingress": "reset_ingress", "node": "reset_node"}

ADDRESS_TYPES: Final = {4: "ipv4_addr", 6: "ipv6_addr"}

POD_SOURCES_TEXTS: Final = {
    name: f"type iface_index . {ADDRESS_TYPES[digit]}; flags dynamic,timeout; timeout 10s; size 65535"
    for digit, name in POD_SOURCES.items()
}
"""The sets of what is remembered of sources. A link's index is not given to another link."""


def _log(reason: str) -> str:
    return f'limit rate 50/second burst 100 packets log prefix "{LOG_PREFIX} {reason} " group {LOG_GROUP}'


# A connection is judged once. Without the second line a stream of datagrams that nobody answers would be new with each
# of them; conntrack confirms an entry when its first packet has passed all hooks, so what was denied never gets there.
KNOWN: Final = ("ct state established,related accept", "ct status confirmed accept")

# With loose conntrack, the default, the other side would revive a connection whose entry was deleted to cut it. Only
# for pods with policies: other pods' connections may be older than conntrack and must live. A heartbeat would revive an
# association of SCTP, whose first packet alone has no verification tag (RFC 9260 section 8.5.1). The price: paths that
# heartbeats open between further addresses of the two ends stay closed, and all goes by the path of the first packet.
UNKNOWN: Final = (
    "tcp flags & (fin|syn|rst|ack) != syn ct state new counter reject with tcp reset",
    "sctp vtag != 0 ct state new,invalid counter drop",
)

# What leaves by the link it came by is for the pod that sent it, by a Service that led back to it. No policy is meant
# to come between the two; it is asked where policies deny alone, so that nobody else pays for it.
TO_ITSELF: Final = "fib daddr . iif oif exists accept"

# Order matters only within a chain. Multicast and link-local destinations never meet the forward hook, so neighbour
# discovery needs no rule there; towards the node, ICMPv6 130-143 is multicast listener and neighbour discovery.
CHAINS: Final = {
    "prerouting_raw": (
        "type filter hook prerouting priority raw; policy accept;",
        f"iifgroup {POD_INTERFACE_GROUP} goto pod_source",
        'iifname "lo" accept',
        f"ip saddr @{LOCAL_CIDR_SETS[4]} goto drop_{FOREIGN}",
        f"ip6 saddr @{LOCAL_CIDR_SETS[6]} goto drop_{FOREIGN}",
    ),
    "pod_source": (
        f"iif . ip saddr @{POD_SOURCES[4]} accept",
        f"iif . ip6 saddr @{POD_SOURCES[6]} accept",
        f"fib saddr . iif oif missing goto drop_{SPOOFED}",
        f"add @{POD_SOURCES[4]} {{ iif . ip saddr }} accept",
        f"add @{POD_SOURCES[6]} {{ iif . ip6 saddr }} accept",
        "accept",
    ),
    "input": (
        "type filter hook input priority filter; policy accept;",
        *KNOWN,
        f"iifgroup {POD_INTERFACE_GROUP} goto own_node",
    ),
    "output": (
        "type filter hook output priority filter; policy accept;",
        *KNOWN,
        f"oifgroup {POD_INTERFACE_GROUP} goto own_pod",
    ),
    "forward": (
        "type filter hook forward priority filter; policy accept;",
        *KNOWN,
        f"iifgroup {POD_INTERFACE_GROUP} goto from_pod",
        f"oifgroup {POD_INTERFACE_GROUP} goto to_pod",
        f"ip daddr @{LOCAL_CIDR_SETS[4]} goto drop_{NO_SUCH_POD}",
        f"ip6 daddr @{LOCAL_CIDR_SETS[6]} goto drop_{NO_SUCH_POD}",
    ),
    "from_pod": (
        "ct state invalid counter drop",
        f"ip saddr vmap @{FROM_POD[4]}",
        f"ip6 saddr vmap @{FROM_POD[6]}",
        f"goto drop_{NOT_PROGRAMMED}",
    ),
    EGRESS_OK: (
        f"oifgroup {POD_INTERFACE_GROUP} goto to_pod",
        f"ip daddr @{LOCAL_CIDR_SETS[4]} goto drop_{NO_SUCH_POD}",
        f"ip6 daddr @{LOCAL_CIDR_SETS[6]} goto drop_{NO_SUCH_POD}",
        "accept",
    ),
    "to_pod": (
        "ct state invalid counter drop",
        f"ip daddr vmap @{TO_POD[4]}",
        f"ip6 daddr vmap @{TO_POD[6]}",
        f"goto drop_{NOT_PROGRAMMED}",
    ),
    "own_node": (
        "icmpv6 type 130-143 accept",
        f"ip saddr vmap @{TO_NODE[4]}",
        f"ip6 saddr vmap @{TO_NODE[6]}",
        "accept",
    ),
    "own_pod": (
        f"ip daddr vmap @{FROM_NODE[4]}",
        f"ip6 daddr vmap @{FROM_NODE[6]}",
        "accept",
    ),
    RESET["egress"]: (*UNKNOWN, f"goto {EGRESS_OK}"),
    RESET["ingress"]: (*UNKNOWN, "accept"),
    RESET["node"]: (*UNKNOWN, "accept"),
    DENY["egress"]: (TO_ITSELF, _log("egress"), "counter drop"),
    DENY["ingress"]: (TO_ITSELF, _log("ingress"), "counter drop"),
    DENY["node"]: (_log("node"), "counter drop"),
    **{
        f"drop_{reason}": (_log(reason), f'counter drop comment "{words}"')
        for reason, words in NO_POLICYS_DOING.items()
    },
}
