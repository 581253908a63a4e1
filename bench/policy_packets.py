"""What a packet between two pods pays for policy: without any rules, with no, 100 and 10,000 policies, with a list.

Conntrack alone, with one rule that lets established connections pass, is what a node has that does nothing but
kube-proxy's work.

The pods are on one node. With policies in the cluster, 50 are about the receiver, and the one that lets the sender in
is the last of them. The list is what rules are where pods are told apart one by one: a rule for each of 1,000 pairs.

Each subject has a network of its own, and all stand side by side: round after round each of them is given a piece of
work of about a millisecond, so that what the machine does besides befalls all alike. A piece during which the CPU was
taken away is done again. What counts is the median of the quotients with another subject in the same round. All of it
is done in several sets of networks, and the lowest and the highest median of a set are told, as are those of a second
network without rules: they say how far such a figure can be trusted. One thread, kept on one CPU, does the whole
work of both ends and of the kernel between them, so its speed is the cost of the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from agent.policy_table import content_of
from bench import network
from bench.measure import BenchError, Results, Settings
from bench.network import Network
from bench.packet_work import new_flows, one_flow, requests, stream
from felix.namespaces import entered
from felix.nft.enforcement import Enforcement
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.library import Library
from inet.prefix import Family
from policy.compiler import Engine
from policy.networkpolicy import decode_network_policy
from policy.nftskeleton import POD_INTERFACE_GROUP
from policy.objects import NAMESPACE_NAME_LABEL, Namespace, Pod

NAME: Final = "policy-packets"
TITLE: Final = "Packets between two pods, by what stands in their way"

Quantity: TypeAlias = tuple[str, str]

UDP: Final[Quantity] = ("UDP, one flow", "1,000/s")
NEW: Final[Quantity] = ("UDP, every datagram a new flow", "1,000/s")
TCP: Final[Quantity] = ("TCP, one stream", "Gbit/s")
REQUESTS: Final[Quantity] = ("TCP, a byte there and back", "1,000/s")
NO_RULES, AGAIN, NONE = "no rules at all", "no rules, again", "0 policies"
CONNTRACK, LIST = "conntrack alone", "list of 1,000 rules"
POLICIES: Final = {NONE: 0, "100 policies": 100, "10,000 policies": 10_000}
SUBJECTS: Final = (NO_RULES, AGAIN, CONNTRACK, *POLICIES, LIST)
_OURS: Final = "10,000 policies"

COST: Final[Quantity] = ("slower than with 0 policies", "%")
_COSTS: Final = {
    NONE: COST,
    CONNTRACK: ("slower than with conntrack alone", "%"),
    NO_RULES: ("slower than without any rules", "%"),
}
_TRACKED: Final = (
    "table inet linear { chain forward { type filter hook forward priority filter; ct state established,related accept;"
)
_SETS: Final = 5
_ROUNDS: Final = 100
_ON_THE_POD: Final = 50
_ATTEMPTS: Final = 5

_WORK: Final = {UDP: one_flow, NEW: new_flows, TCP: stream, REQUESTS: requests}
_SCALE: Final = {UDP: 1e-3, NEW: 1e-3, TCP: 8e-9, REQUESTS: 1e-3}


def case_name(family: Family, quantity: tuple[str, str] | None = None) -> str:
    """Return what a case is called: everything measured in a family, or what policies cost one quantity."""
    case = f"two pods of one node, {family.label}"
    return f"{case}: {quantity[0]}" if quantity else case


class Quotient(NamedTuple):
    """How fast a subject is beside another: the median of the sets' medians, and the lowest and the highest of them."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.median:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"


Rates: TypeAlias = dict[str, list[list[float]]]
"""Of each subject: in each set, a rate for each round."""


def quotient(these: Sequence[Sequence[float]], those: Sequence[Sequence[float]]) -> Quotient:
    """Compare rates: round by round, set by set."""
    medians = [
        statistics.median(one / other for one, other in zip(*rounds, strict=True))
        for rounds in zip(these, those, strict=True)
    ]
    return Quotient(statistics.median(medians), min(medians), max(medians))


def run(settings: Settings) -> Iterator[Results]:
    """Yield the figures of each family."""
    rates: dict[Family, dict[Quantity, Rates]] = {
        family: {quantity: {subject: [] for subject in SUBJECTS} for quantity in _WORK} for family in Family
    }
    for _ in range(1 if settings.quick else _SETS):
        _measure_set(rates, rounds=5 if settings.quick else _ROUNDS)
    for family, found in rates.items():
        yield _results(family, found)


def _measure_set(rates: Mapping[Family, Mapping[Quantity, Rates]], rounds: int) -> None:
    """Measure everything once, in networks made for it: where their things lie in memory matters, too."""
    with contextlib.ExitStack() as stack:
        nets = {subject: stack.enter_context(Network(2)) for subject in SUBJECTS}
        for subject, net in nets.items():
            become_pods(net)
            _stand(net, subject)
        stack.enter_context(_on_one_cpu())
        for family, (quantity, work) in itertools.product(Family, _WORK.items()):
            with contextlib.ExitStack() as sockets:
                pieces = {subject: sockets.enter_context(work(net, family)) for subject, net in nets.items()}
                for subject, found in interleave(pieces, rounds).items():
                    rates[family][quantity][subject].append(found)


def _results(family: Family, rates: Mapping[Quantity, Rates]) -> Results:
    results = Results()
    for subject in SUBJECTS:
        figures = {
            quantity: statistics.median(itertools.chain.from_iterable(found[subject])) * _SCALE[quantity]
            for quantity, found in rates.items()
        }
        if subject != AGAIN:
            results.take(case_name(family), "Tortie" if subject == _OURS else subject, [figures])
    for quantity, found in rates.items():
        costs = {cost: 100 * (1 - quotient(found[_OURS], found[other]).median) for other, cost in _COSTS.items()}
        results.take(case_name(family, quantity), "Tortie", [costs])
        compared = (f"{subject} {quotient(found[subject], found[NO_RULES])}" for subject in SUBJECTS[1:])
        results.notes.append(f"{family.label}, {quantity[0]}, beside no rules: {'; '.join(compared)}")
    results.notes.append("Tortie: with 10,000 policies, 50 of them about the receiver")
    return results


def interleave(pieces: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Do each subject's piece once a round, each time beginning with another; return its rates in 1/s."""
    rates: dict[str, list[float]] = {subject: [] for subject in pieces}
    order = list(pieces)
    for _ in range(rounds):
        for subject in order:
            rates[subject].append(_undisturbed(pieces[subject]))
        order.append(order.pop(0))
    return rates


def _undisturbed(piece: Callable[[], float]) -> float:
    """Do a piece of work and return its rate; again if somebody else had the CPU meanwhile."""
    for _ in range(_ATTEMPTS):
        switches = _switches()
        began = time.perf_counter()
        done = piece()
        rate = done / (time.perf_counter() - began)
        if _switches() == switches:
            break
    return rate


def _switches() -> int:
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return usage.ru_nivcsw + usage.ru_nvcsw


@contextlib.contextmanager
def _on_one_cpu() -> Iterator[None]:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def become_pods(net: Network) -> None:
    """Have the routers' cables be pods': in the interface group, each reached by a route of its own."""
    with entered(net.node):
        for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path("/proc/sys/net", path).write_text("1", encoding="ascii")
    for number, router in enumerate(net.routers, 1):
        lines = [f"link set eth{number} group {POD_INTERFACE_GROUP}"]
        for family in Family:
            pod = network.address(number, 2, family)
            lines.append(f"route add {pod}/{family.bits} dev eth{number}")
            gateway = network.address(number, 1, family)
            network.run("ip", "-n", router, f"-{family.label[-1]}", "route", "add", "default", "via", str(gateway))
        network.batch(net.node, lines)


def _stand(net: Network, subject: str) -> None:
    """Put into the node's kernel what a subject is."""
    with entered(net.node):
        network.run("nft", "flush ruleset")
        if subject == CONNTRACK:
            network.run("nft", f"{_TRACKED} }}; }}")
        elif subject == LIST:
            rules = (f"ip saddr 10.1.{n // 256}.{n % 256} ip daddr 10.2.0.1 accept;" for n in range(1000))
            network.run("nft", "-f", "-", text=f"{_TRACKED}\n{chr(10).join(rules)}\n}}; }}\n")
        elif subject in POLICIES:
            asyncio.run(_enforce(POLICIES[subject]))


async def _enforce(policies: int) -> None:
    with contextlib.closing(KernelRuleTable(Library())) as table:
        report = await Enforcement(table).sync(content_of(_engine(policies).ruleset))
        if report.refusals:
            raise BenchError(str(report.refusals[0]))


_engines: dict[int, Engine] = {}


def _engine(policies: int) -> Engine:
    if policies not in _engines:
        engine = _engines[policies] = Engine("n1")
        engine.apply(Namespace("x", {NAMESPACE_NAME_LABEL: "x"}))
        for number, name in ((1, "sender"), (2, "receiver")):
            addresses = tuple(network.address(number, 2, family).packed for family in Family)
            engine.apply(Pod("x", name, {"app": name}, addresses, node="n1"))
        for number in range(policies):
            is_ours = number < _ON_THE_POD
            peer = "sender" if number == _ON_THE_POD - 1 else f"other-{number}"
            ports = [] if number == _ON_THE_POD - 1 else [{"port": 1000 + number}]
            spec = {
                "podSelector": {"matchLabels": {"app": "receiver" if is_ours else f"app-{number}"}},
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": peer}}}], "ports": ports}],
            }
            metadata = {"namespace": "x" if is_ours else f"team-{number % 1000}", "name": f"p{number:05}"}
            engine.apply(decode_network_policy({"metadata": metadata, "spec": spec}))
        engine.flush()
    return _engines[policies]
