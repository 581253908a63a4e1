"""What outgoing NAT costs a pod's packets: the first of a connection, which is translated, and those that follow.

A pod sends to the world outside, behind the other node, which drops what arrives without a word. The first packets are
datagrams to ever new ports, each a connection to conntrack; those that follow are datagrams of one flow. All subjects
have connections tracked, as kube-proxy does anyway. Rates are of the fastest fifth of short pieces, subject after
subject, turn after turn (`bench.nodepair`), and what counts is the median of what each is to no NAT in the same turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import statistics
from collections.abc import Iterator
from functools import partial
from typing import Final

from bench.measure import BenchError, Figures, Results, Settings
from bench.network import batch
from bench.network import run as run_program
from bench.nodepair import NodePair, node_address, pod_cidr, rate
from felix.namespaces import entered
from felix.nft.enforcement import Enforcement
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.library import Library
from felix.nft.masquerade import Masquerade, render
from inet.prefix import Family, Prefix

NAME: Final = "nat"
TITLE: Final = "Outgoing NAT"

FIRST: Final = ("a new connection costs more than without NAT", "µs")
LATER: Final = ("packets of one flow, slower than without NAT", "%")
CONNECTIONS: Final = ("new connections of one processor", "1,000/s")

MOST_FIRST_US: Final = 5.0
"""What Tortie must not exceed: little beside what a connection's first packets cost a node anyway."""

TURNS: Final = 7
EXEMPT: Final = 10_000
NO_NAT, BY_HAND = "no NAT", "one rule by hand"
PLAIN, RANGE, EXEMPTED = "Tortie", "Tortie, 20,000 ports", f"Tortie, {EXEMPT:,} exempt destinations"
SUBJECTS: Final = (NO_NAT, BY_HAND, PLAIN, RANGE, EXEMPTED)
_FLOWS: Final = 100  # a piece: a millisecond
_PIECES: Final = 20  # a turn: the kernel remembers each flow for half a minute
_DATAGRAMS: Final = 100
_WORLD: Final = {Family.IPV4: Prefix.parse("198.51.100.0/24"), Family.IPV6: Prefix.parse("2001:db8::/64")}
_FAR: Final = {Family.IPV4: "198.51.100.9", Family.IPV6: "2001:db8::9"}
_TRACKED: Final = "table inet t { chain c { type filter hook forward priority 0; ct state established accept; }; }"
_MASQUERADE: Final = (
    "table inet h {{ chain c {{ type nat hook postrouting priority 110; {word} saddr {pods} {word} daddr != {cluster} "
    "masquerade fully-random; }}; }}"
)


def case_name(family: Family) -> str:
    """Return what a case is called."""
    return f"from a pod to the world, {family.label}"


def run(settings: Settings) -> Iterator[Results]:
    """Yield the figures of each family."""
    for family in Family:
        results = Results()
        turns = 2 if settings.quick else TURNS
        for subject, figures in _measure(family, turns).items():
            results.take(case_name(family), subject, [figures])
        results.notes.append("one thread, one pod; both nodes' work is in it")
        yield results


def _measure(family: Family, turns: int) -> dict[str, Figures]:
    found: dict[str, list[tuple[float, float]]] = {subject: [] for subject in SUBJECTS}
    with NodePair() as pair:
        _lay(pair, family)
        ports = itertools.cycle(range(1024, 65_536))
        for _ in range(turns):
            for subject in SUBJECTS:
                with entered(pair.nodes[0]):
                    run_program("nft", "flush ruleset")
                    _stand(subject, family)
                found[subject].append((_new_flows(pair, family, ports), _one_flow(pair, family)))
    figures: dict[str, Figures] = {}
    for subject, rates in found.items():
        pairs = list(zip(rates, found[NO_NAT], strict=True))
        figures[subject] = {
            CONNECTIONS: statistics.median(first for first, _ in rates) / 1000,
            FIRST: statistics.median(1e6 / ours[0] - 1e6 / theirs[0] for ours, theirs in pairs),
            LATER: 100 * (1 - statistics.median(ours[1] / theirs[1] for ours, theirs in pairs)),
        }
    return figures


def _lay(pair: NodePair, family: Family) -> None:
    batch(pair.nodes[0], [f"route add {_WORLD[family]} via {node_address(2, family)}"])
    back = f"route add {pod_cidr(1, family)} via {node_address(1, family)}"
    batch(pair.nodes[1], [back, f"route add blackhole {_WORLD[family]}"])


def _stand(subject: str, family: Family) -> None:
    """Put into this node's kernel what a subject is."""
    run_program("nft", "-f", "-", text=_TRACKED)
    pods, cluster = pod_cidr(1, family), Prefix.parse("10.42.0.0/16" if family is Family.IPV4 else "fd42::/48")
    if subject == BY_HAND:
        word = "ip" if family is Family.IPV4 else "ip6"
        run_program("nft", "-f", "-", text=_MASQUERADE.format(word=word, pods=pods, cluster=cluster))
    elif subject != NO_NAT:
        exempt = tuple(map(partial(_exempt, family), range(EXEMPT))) if subject == EXEMPTED else ()
        ports = (20_000, 39_999) if subject == RANGE else None
        asyncio.run(_enforce(Masquerade(pods=(pods,), cluster=(cluster,), excluded=exempt, ports=ports)))


def _exempt(family: Family, number: int) -> Prefix:
    """Return one of many ranges that no two of touch, so that none are merged."""
    high, low = divmod(number * 2, 256)
    return Prefix.parse(f"20.{high}.{low}.0/24" if family is Family.IPV4 else f"2001:db9:{high:x}:{low:x}::/64")


async def _enforce(wanted: Masquerade) -> None:
    with contextlib.closing(KernelRuleTable(Library())) as table:
        report = await Enforcement(table).sync(render(wanted))
        if report.refusals:
            raise BenchError(str(report.refusals[0]))


def _new_flows(pair: NodePair, family: Family, ports: Iterator[int]) -> float:
    """Return connections a second. The source port is another each time, and so no connection is met again."""
    with entered(pair.pods[0]), socket.socket(family, socket.SOCK_DGRAM) as client:

        def piece() -> int:
            for port in itertools.islice(ports, _FLOWS):
                client.sendto(b"!", (_FAR[family], port))
            return _FLOWS

        return rate(piece, 1.0, most=_PIECES)


def _one_flow(pair: NodePair, family: Family) -> float:
    """Return datagrams a second."""
    with entered(pair.pods[0]), socket.socket(family, socket.SOCK_DGRAM) as client:
        client.connect((_FAR[family], 1000))

        def piece() -> int:
            for _ in range(_DATAGRAMS):
                client.send(b"!")
            return _DATAGRAMS

        return rate(piece, 0.1)
