"""The agent's own word on its node, and the cluster's addresses: who has which, and who should not."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from agent import __version__
from agent.clusterreport import ClusterReport
from agent.cni import hostlocal
from agent.cni.conflist import NETWORK
from agent.cni.leases import Lease
from agent.doctor import Check, Finding, Level, LookError, Patient
from agent.report import StatusReport
from inet.prefix import Family, Prefix, parse_address

MOST_SHOWN: Final = 5
_FEW_LEFT: Final = 0.9  # of a pod CIDR's addresses are taken
_DENIED: Final = os.strerror(errno.EACCES)


# The agent


class AgentFacts(NamedTuple):
    """What the agent says; None with the reason where it does not answer."""

    status: StatusReport | None
    reason: str


async def gather_agent(patient: Patient) -> AgentFacts:
    """Take what was asked already."""
    return AgentFacts(patient.status, patient.no_agent)


def judge_agent(facts: AgentFacts) -> Iterator[Finding]:
    """Repeat what the agent complains about, and what its counters mean."""
    status = facts.status
    if status is None and _DENIED in facts.reason:
        yield Finding("agent", Level.UNKNOWN, facts.reason, "run tortie doctor as root")
        return
    if status is None:
        yield Finding(
            "agent", Level.FAIL, facts.reason, "kernel routes and policy of before stay; see its log for why it ended"
        )
        return
    ready = next((each for each in status.conditions if each.type == "Ready"), None)
    if status.ready:
        yield Finding("agent", Level.OK, f"{status.node} is ready: {ready.message if ready else ''}".rstrip(": "))
    elif ready is not None:
        yield Finding(
            "agent", Level.FAIL, f"{status.node} is not ready: {ready.reason}: {ready.message}", "tortie peers"
        )
    for each in status.conditions:
        if each.type != "Ready" and each.status == "True":
            yield Finding("agent", Level.WARN, f"{each.type}: {each.message}")
    for problem in status.problems:
        yield Finding("agent", Level.WARN, problem, "correct the object; its last good version stays in force")
    yield from _judge_routes(status)
    if status.version != __version__:
        text = f"the agent is of version {status.version}, this command of {__version__}"
        yield Finding("agent", Level.WARN, text, "use the command of the agent's image")


def _judge_routes(status: StatusReport) -> Iterator[Finding]:
    down = status.sessions_configured - status.sessions_established
    if down and status.sessions_established:
        text = f"{down} of {status.sessions_configured} sessions are down"
        yield Finding("sessions", Level.WARN, text, "tortie peers says why")
    elif status.sessions_established:
        yield Finding("sessions", Level.OK, f"all {status.sessions_configured} sessions are established")
    if status.routes_refused:
        text = f"the kernel refuses {status.routes_refused} routes"
        yield Finding("routes", Level.FAIL, text, "tortie routes installed says which and why")
    elif status.routes_pending:
        yield Finding("routes", Level.WARN, f"{status.routes_pending} routes are still to be written")
    else:
        yield Finding("routes", Level.OK, f"{status.routes_installed} routes, all in the kernel")
    for problem in status.tunnels.problems:
        yield Finding("tunnels", Level.FAIL, problem, "where the kernel has no such tunnel, the other type may do")
    if pods := status.network.mtu_uncorrected:
        shown = ", ".join(pods[:MOST_SHOWN]) + (f" and {len(pods) - MOST_SHOWN} more" if len(pods) > MOST_SHOWN else "")
        advice = "restart those pods, or let the agent correct them (chart: mtu.correctRunningPods)"
        yield Finding("MTU", Level.WARN, f"pods have an old MTU: {shown}", advice)
    if status.policy.unlinked:
        text = f"no link leads to {status.policy.unlinked} addresses of pods of this node: nothing gets to them"
        yield Finding("policy", Level.FAIL, text, "tortie path POD POD; did the container runtime finish the pods?")


# The cluster's addresses


async def gather_cluster(patient: Patient) -> ClusterReport:
    """Take what was asked already."""
    if patient.cluster is None:
        raise LookError(patient.no_cluster)
    return patient.cluster


def judge_pod_cidrs(facts: ClusterReport) -> Iterator[Finding]:
    """Every node needs pod CIDRs, inside what is configured, apart from all others and from nodes' addresses."""
    name = POD_CIDRS.name
    found = list(_pod_cidrs_amiss(facts))
    yield from found
    if not found:
        yield Finding(name, Level.OK, f"{len(facts.nodes)} nodes have pod CIDRs, each its own")


def _pod_cidrs_amiss(facts: ClusterReport) -> Iterator[Finding]:
    name = POD_CIDRS.name
    without = [node.name for node in facts.nodes if not node.pod_cidrs]
    if facts.node not in {node.name for node in facts.nodes}:
        yield Finding(
            name, Level.FAIL, f"there is no Node object {facts.node}", "is --node (NODE_NAME) the name kubectl shows?"
        )
    if without:
        shown = ", ".join(without[:MOST_SHOWN]) + (
            f" and {len(without) - MOST_SHOWN} more" if without[MOST_SHOWN:] else ""
        )
        yield Finding(
            name,
            Level.FAIL if facts.node in without else Level.WARN,
            f"without a pod CIDR: {shown}",
            "have kube-controller-manager give them (--allocate-node-cidrs, --cluster-cidr), or set spec.podCIDRs",
        )
    owned = [(Prefix.parse(cidr), node.name) for node in facts.nodes for cidr in node.pod_cidrs]
    yield from _overlaps(owned)
    allowed = [Prefix.parse(cidr) for cidr in facts.pod_cidrs]
    for cidr, node in owned if allowed else ():
        if not any(each.contains(cidr) for each in allowed):
            wanted = ", ".join(facts.pod_cidrs)
            text = f"Node {node}: pod CIDR {cidr} is outside NetworkConfiguration spec.podCIDRs ({wanted})"
            yield Finding(name, Level.FAIL, text, "other nodes do not believe it: widen spec.podCIDRs")
    services = [Prefix.parse(cidr) for cidr in facts.service_cidrs]
    for cidr, node in owned:
        for service in services:
            if cidr.overlaps(service):
                text = f"Node {node}: pod CIDR {cidr} overlaps the service addresses {service}"
                yield Finding(name, Level.FAIL, text, "pods and services need addresses of their own")


def _overlaps(owned: list[tuple[Prefix, str]]) -> Iterator[Finding]:
    """Neighbours in order of addresses are enough to look at: what overlaps lies next to each other."""
    widest: tuple[Prefix, str] | None = None
    for cidr, node in sorted(owned, key=lambda each: (len(each[0].packed), each[0].packed, each[0].length)):
        if widest is not None and widest[0].overlaps(cidr):
            text = f"pod CIDR {cidr} of Node {node} overlaps {widest[0]} of Node {widest[1]}"
            yield Finding(POD_CIDRS.name, Level.FAIL, text, "the older Node's counts; give the other one its own")
        else:
            widest = cidr, node


def judge_addresses(facts: ClusterReport) -> Iterator[Finding]:
    """No two nodes have one address, and none has one that is a pod's."""
    name = ADDRESSES.name
    owners: dict[str, list[str]] = {}
    for node in facts.nodes:
        for address in node.addresses:
            owners.setdefault(address, []).append(node.name)
    shared = {address: names for address, names in owners.items() if len(names) > 1}
    inside = list(_inside_pod_cidrs(facts))
    for address, names in shared.items():
        text = f"{address} is an InternalIP of the Nodes {' and '.join(names)}"
        yield Finding(
            name, Level.FAIL, text, "sessions and tunnels to it reach one of them: give each its own (--node-ip)"
        )
    for address, holder, cidr, owner in inside:
        text = f"{address} of Node {holder} is inside the pod CIDR {cidr} of Node {owner}"
        yield Finding(name, Level.FAIL, text, "pods' addresses are routed: nodes need addresses outside of them")
    lacking = [node.name for node in facts.nodes if not node.addresses]
    for each in lacking[:MOST_SHOWN]:
        yield Finding(name, Level.WARN, f"Node {each} has no InternalIP", "the kubelet writes it (--node-ip)")
    if not shared and not inside and not lacking:
        yield Finding(name, Level.OK, f"{len(owners)} addresses of nodes, each of one")


def _inside_pod_cidrs(facts: ClusterReport) -> Iterator[tuple[str, str, str, str]]:
    by_length: dict[tuple[int, int], dict[Prefix, str]] = {}
    for node in facts.nodes:
        for cidr in map(Prefix.parse, node.pod_cidrs):
            by_length.setdefault((len(cidr.packed), cidr.length), {})[cidr] = node.name
    for node in facts.nodes:
        for address in node.addresses:
            host = Prefix.of_host(parse_address(address))
            for (size, length), cidrs in by_length.items():
                if size == len(host.packed) and (owner := cidrs.get(cidr := host.shortened(length))):
                    yield address, node.name, str(cidr), owner


# Addresses that pods of this node have


class Pool(NamedTuple):
    """A pod CIDR of this node, how many of its addresses pods have, and how many there are for them."""

    cidr: str
    taken: int
    room: int


async def gather_pools(patient: Patient) -> list[Pool]:
    """Count host-local's files, which are where the CNI configuration says; none where the agent serves no runtime."""
    cluster = await gather_cluster(patient)
    conflist = patient.status.cni.conflist if patient.status else ""
    if not conflist:
        return []

    def leases() -> list[Lease]:
        try:
            plugins = json.loads((patient.root / conflist.lstrip("/")).read_text(encoding="utf-8"))["plugins"]
            (data,) = (each["ipam"]["dataDir"] for each in plugins if "ipam" in each)
        except (ValueError, KeyError, TypeError):
            raise LookError(
                f"{conflist} is not as the agent writes it: where addresses are kept is not known"
            ) from None
        return hostlocal.read(patient.root / data.lstrip("/") / NETWORK)

    taken = [Prefix.of_host(parse_address(lease.name)) for lease in await asyncio.to_thread(leases)]
    cidrs = [Prefix.parse(cidr) for node in cluster.nodes if node.name == cluster.node for cidr in node.pod_cidrs]
    return [Pool(str(cidr), sum(map(cidr.contains, taken)), _room(cidr)) for cidr in cidrs]


def _room(cidr: Prefix) -> int:
    """Return how many addresses host-local gives: not the first, not the gateway, in IPv4 not the last."""
    spared = 3 if cidr.family is Family.IPV4 else 2
    return max((1 << 8 * len(cidr.packed) - cidr.length) - spared, 0)


def judge_pools(facts: Sequence[Pool]) -> Iterator[Finding]:
    """A pod CIDR does not grow: what is full stays so until pods go."""
    name = POOLS.name
    for pool in facts:
        text = f"pods have {pool.taken} of the {pool.room} addresses of {pool.cidr}"
        advice = "fewer pods a node (kubelet: maxPods); larger pod CIDRs (--node-cidr-mask-size) are for new Nodes"
        if pool.taken >= pool.room:
            yield Finding(name, Level.FAIL, f"{text}: new pods do not start", advice)
        elif pool.taken >= _FEW_LEFT * pool.room:
            yield Finding(name, Level.WARN, text, advice)
        else:
            yield Finding(name, Level.OK, text)


AGENT: Final = Check("agent", gather_agent, judge_agent)
POD_CIDRS: Final = Check("pod CIDRs", gather_cluster, judge_pod_cidrs)
ADDRESSES: Final = Check("node addresses", gather_cluster, judge_addresses)
POOLS: Final = Check("pod addresses", gather_pools, judge_pools)
CHECKS: Final = (AGENT, POD_CIDRS, POOLS, ADDRESSES)
