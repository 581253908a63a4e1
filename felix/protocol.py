"""Names of route protocols, as `ip route` shows them (linux/rtnetlink.h, iproute2's rt_protos)."""

from __future__ import annotations

from typing import Final

from felix.route import PROTOCOL

_NAMES: Final = {
    0: "unspec",
    1: "redirect",
    2: "kernel",
    3: "boot",
    4: "static",
    8: "gated",
    9: "ra",
    10: "mrt",
    11: "zebra",
    12: "bird",
    13: "dnrouted",
    14: "xorp",
    15: "ntk",
    16: "dhcp",
    17: "mrouted",
    18: "keepalived",
    42: "babel",
    80: "calico",
    PROTOCOL: "tortie",
    99: "openr",
    186: "bgp",
    187: "isis",
    188: "ospf",
    189: "rip",
    192: "eigrp",
}


def protocol_name(number: int) -> str:
    """Return the protocol's name, or its number where it has none."""
    return _NAMES.get(number, f"protocol {number}")
