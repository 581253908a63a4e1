"""The end of packets to service addresses that nobody translates, as a part of our table.

A packet that is still addressed to a service when the node forwards it found no rule of kube-proxy's. The node's
default route would send it to a router, and where service addresses are announced that sends it back, until its hop
limit is used up. So it is refused here, behind kube-proxy's own rules, which know better why. A blackhole route would
not do: the node's own connections to services look for a route before they are translated.
"""

from __future__ import annotations

from typing import Final

from felix.nft.enforcement import Content
from felix.nft.familywords import WORDS, digit, prefix_set
from felix.nft.parts import NOTHING
from inet.prefix import Family, Prefix

PRIORITY: Final = 10
"""Behind kube-proxy's filter chains, which tell a service without endpoints from one that does not exist."""


def render(services: tuple[Prefix, ...]) -> Content:
    """Return the chain and sets that refuse what nobody translated; nothing where no service CIDR is known."""
    families = [family for family in Family if any(prefix.family is family for prefix in services)]
    if not families:
        return NOTHING
    lines = [
        f"type filter hook forward priority {PRIORITY}; policy accept;",
        "ct state established,related accept",
        *(f"{WORDS[each]} daddr @{_name(each)} counter reject with icmpx host-unreachable" for each in families),
    ]
    return Content({"service_guard": "\n".join(lines)}, {_name(each): prefix_set(services, each) for each in families})


def _name(family: Family) -> str:
    return f"service_cidr{digit(family)}"
