"""What enforcement needs of this machine, tried out at start: a list of what is missing, in words for people.

The kernel is asked in dry runs: it checks a rule as if it were to be loaded, loads the modules that needs, and keeps
nothing. Whatever is missing here would leave policies unenforced, so nobody should go on without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Iterator
from typing import Final, NamedTuple

from felix.conntrack import Conntrack
from felix.netlink import NetlinkSocket
from felix.nfnetlink import NETLINK_NETFILTER, NfFamily, Subsystem, request
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.library import LIBRARY, Library, LibraryError
from felix.nft.table import TABLE, Definition

_GETGEN: Final = 16  # NFT_MSG_GETGEN: the cheapest of all requests

_CHAIN: Final = "chain c {{\n type filter hook forward priority filter; policy accept;\n {}\n}}"

_FEATURES: Final = (
    ("base chains and counters (CONFIG_NF_TABLES_INET)", _CHAIN.format("counter accept")),
    ("connection states (CONFIG_NFT_CT)", _CHAIN.format("ct state established,related accept\n ct state invalid drop")),
    ("interface groups", _CHAIN.format("iifgroup 97 accept\n oifgroup 97 accept")),
    (
        "the source address check (CONFIG_NFT_FIB_INET)",
        "chain c {\n type filter hook prerouting priority raw;\n fib saddr . iif oif missing drop\n}",
    ),
    (
        "sets that rules add to",
        "set s {\n type iface_index . ipv6_addr; flags dynamic,timeout; timeout 10s\n}\n"
        + _CHAIN.format("iif . ip6 saddr @s accept\n add @s { iif . ip6 saddr } accept"),
    ),
    (
        "TCP resets (CONFIG_NFT_REJECT_INET)",
        _CHAIN.format("tcp flags & (fin|syn|rst|ack) != syn ct state new reject with tcp reset"),
    ),
    (
        "packet logs (CONFIG_NFT_LOG, CONFIG_NETFILTER_NETLINK_LOG)",
        _CHAIN.format('limit rate 50/second burst 100 packets log prefix "probe" group 5'),
    ),
    (
        "sets of addresses, with comments",
        'set s {\n type ipv6_addr\n comment "it"\n elements = { fd00::1 comment "it" }\n}',
    ),
    (
        "sets of intervals",
        "set s {\n type ipv4_addr; flags interval\n elements = { 10.0.0.0/9, 10.200.0.1-10.200.0.9 }\n}",
    ),
    (
        "sets of address, protocol and port",
        "set s {\n type ipv4_addr . inet_proto . inet_service\n elements = { 10.0.0.1 . tcp . 80 }\n}\n"
        + _CHAIN.format("ip daddr . meta l4proto . th dport @s accept"),
    ),
    (
        "verdict maps",
        "chain t {\n accept\n}\nmap m {\n type ipv4_addr : verdict\n elements = { 10.0.0.1 : jump t }\n}\n"
        + _CHAIN.format("ip saddr vmap @m"),
    ),
)


class Missing(NamedTuple):
    """Something that is needed and not there, with the kernel's words or what to do about it."""

    feature: str
    reason: str

    def __str__(self) -> str:
        return f"{self.feature}: {self.reason}"


async def missing(library_name: str = LIBRARY) -> list[Missing]:
    """Return what this machine lacks, in this network namespace and with these privileges. Nothing is written."""
    try:
        with contextlib.closing(NetlinkSocket(NETLINK_NETFILTER)) as netlink:
            netlink.ask(request(Subsystem.NFTABLES, _GETGEN, 0, NfFamily.UNSPECIFIED))
    except OSError as error:
        advice = ": needs CAP_NET_ADMIN" if error.errno == errno.EPERM else ""
        return [Missing("nf_tables (CONFIG_NF_TABLES)", f"{error.strerror}{advice}")]
    found = []
    try:
        library = Library(library_name)
    except LibraryError as error:
        found.append(Missing("libnftables", str(error)))
    else:
        found += await asyncio.to_thread(lambda: list(_features(library)))
        found += await _rehearsal(library)
    try:
        with contextlib.closing(Conntrack()) as connections:
            await connections.flows(())
    except OSError as error:
        found.append(Missing("the list of connections (CONFIG_NF_CT_NETLINK)", error.strerror or str(error)))
    return found


def _features(library: Library) -> Iterator[Missing]:
    with contextlib.closing(library.open()) as context:
        for feature, text in _FEATURES:
            if errors := context.run(f"table inet {TABLE}_probe {{\n{text}\n}}\n", is_dry=True):
                yield Missing(feature, errors[0].message)


async def _rehearsal(library: Library) -> list[Missing]:
    with contextlib.closing(KernelRuleTable(library)) as table:
        try:
            await table.rehearse(Definition())
        except OSError as error:
            return [Missing("rehearsals of rules (tables that sleep)", error.strerror or str(error))]
    return []
