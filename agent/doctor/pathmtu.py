"""Whether packets as large as the links take get to the other nodes, tried out with packets nobody may fragment."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from agent.clusterreport import ClusterReport, NodeReport
from agent.doctor import Check, Finding, Level, LookError, Patient
from felix.devices import Device, devices
from felix.pathmtu import PathMtu, probe
from felix.uplinks import routed
from inet.prefix import Family, IPAddress, family_of, parse_address

MOST_NODES: Final = 16
"""How many other nodes are tried: those that follow this one by name, so that each is tried by somebody."""

_AT_ONCE: Final = 8


class Tried(NamedTuple):
    """What got through to one address of another node. `expected` is what the links there take, in bytes."""

    node: str
    expected: int
    path: PathMtu


async def gather_paths(patient: Patient) -> list[Tried]:
    """Send echo requests to other nodes, in both families."""
    cluster = patient.cluster
    if cluster is None:
        raise LookError(patient.no_cluster)
    links = await devices()
    turns = asyncio.Semaphore(_AT_ONCE)

    async def attempt(node: NodeReport, address: IPAddress) -> Tried | None:
        expected = await asyncio.to_thread(_room, links, address)
        if not expected:
            return None  # no way there: that is other checks' to say
        async with turns:
            return Tried(node.name, expected, await probe(address, expected))

    targets = [(node, address) for node in others(cluster) for address in _one_a_family(node)]
    found = await asyncio.gather(*(attempt(*target) for target in targets))
    return [each for each in found if each is not None]


def others(cluster: ClusterReport) -> list[NodeReport]:
    """Return the nodes that this one tries."""
    names = sorted(cluster.nodes, key=lambda node: (node.name <= cluster.node, node.name))
    return [node for node in names if node.name != cluster.node][:MOST_NODES]


def _one_a_family(node: NodeReport) -> Iterator[IPAddress]:
    addresses = sorted(map(parse_address, node.addresses), key=family_of)
    for _, its in itertools.groupby(addresses, key=family_of):
        yield next(its)


def _room(links: Sequence[Device], address: IPAddress) -> int:
    """Return what the links on the way take; `routed` falls back to the default route, which then is the way."""
    return min((each.mtu for each in routed(links, [address.packed])), default=0)


def judge_paths(facts: Sequence[Tried]) -> Iterator[Finding]:
    """A way that takes less than its links say loses large packets without a word where ICMP is filtered."""
    name = PATH_MTU.name
    narrow = [each for each in facts if each.path.mtu is not None and each.path.mtu < each.expected]
    silent = [each for each in facts if each.path.mtu is None]
    for each in narrow:
        by_size = sorted(each.path.tried, key=lambda tried: tried.size)
        sizes = ", ".join(f"{tried.size} {'ok' if tried.passed else 'lost'}" for tried in by_size)
        yield Finding(
            name,
            Level.FAIL,
            f"packets of more than {each.path.mtu} bytes do not get to {each.node} ({each.path.address}), where links "
            f"take {each.expected}: {each.path.reason} (tried {sizes})",
            f"mend the MTU on the way, or set NetworkConfiguration spec.mtu to what fits (at most {each.path.mtu})",
        )
    if silent:
        who = ", ".join(f"{each.node} ({each.path.address})" for each in silent[:4])
        more = f" and {len(silent) - 4} more" if len(silent) > 4 else ""
        text = f"nothing is known of the room on the way to {who}{more}: echo requests are not answered"
        yield Finding(name, Level.UNKNOWN, text, "let ICMP echo through between nodes, or try with traffic")
    well = len(facts) - len(narrow) - len(silent)
    if well and not narrow:
        families = {family_of(each.path.address) for each in facts if each not in silent}
        labels = " and ".join(family.label for family in Family if family in families)
        yield Finding(name, Level.OK, f"{well} ways to other nodes take packets as large as their links do ({labels})")


PATH_MTU: Final = Check("path MTU", gather_paths, judge_paths)
CHECKS: Final = (PATH_MTU,)
