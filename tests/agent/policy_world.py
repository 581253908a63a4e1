"""A node with policy on a kernel in memory: objects in, rules, marks and cut connections to look at."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Container, Iterable, Mapping
from ipaddress import ip_address
from typing import Any

from agent.datastore import Batch
from agent.enforcement import NodePolicy
from agent.objects.kinds import KINDS, Keyed, decode, key_of
from agent.objects.model import Key
from felix.conntrack import Flow
from felix.netlink import Failure
from felix.nft.counters import RuleCount
from felix.nft.elements import Value
from felix.nft.faketable import FakeRuleTable
from felix.nft.monitor import Event, TableChanged
from inet.prefix import Family


def manifest(kind: str, name: str, namespace: str = "", **content: Any) -> Keyed:
    metadata = {"name": name, "labels": content.pop("labels", {}), "uid": content.pop("uid", "")}
    metadata |= {"namespace": namespace} if namespace else {}
    document = {"metadata": metadata, **content}
    return decode(KINDS[kind], key_of(KINDS[kind], document), document)


class FakePolicyKernel:
    """See `agent.policy_kernel.PolicyKernel`."""

    def __init__(self) -> None:
        self.table = FakeRuleTable()
        self.links: dict[bytes, int] = {}
        self.marked: set[int] = set()
        self.connections: list[Flow] = []
        self.cut_ones: list[Flow] = []
        self.own: set[bytes] = set()
        self.counted: dict[str, list[RuleCount]] = {}
        self._table_news: asyncio.Queue[Event] = asyncio.Queue()

    async def table_events(self) -> AsyncIterator[Event]:
        while True:
            yield await self._table_news.get()

    async def mark_pods(self, addresses: Collection[bytes]) -> Collection[bytes]:
        found = {address: self.links[address] for address in addresses if address in self.links}
        self.marked |= set(found.values())
        return found.keys()

    async def counts(self, chain: str) -> list[RuleCount]:
        return self.counted.get(chain, [])

    async def flows(self, addresses: Container[bytes]) -> list[Flow]:
        return [flow for flow in self.connections if flow.client in addresses or flow.server in addresses]

    async def own_addresses(self) -> Collection[bytes]:
        return self.own

    async def cut(self, flows: Iterable[Flow]) -> list[Failure]:
        self.cut_ones += flows
        self.connections = [flow for flow in self.connections if flow not in self.cut_ones]
        return []

    def flush_ruleset(self) -> None:
        self.table.flush()
        self._table_news.put_nowait(TableChanged("nft", 1))


class PolicyWorld:
    """Node n1 in one family: pods are `x/NAME` with host number NUMBER in its pod CIDR."""

    def __init__(self, family: Family, kernel: FakePolicyKernel | None = None) -> None:
        self.family = family
        self.kernel = kernel or FakePolicyKernel()
        self.time = 1000.0
        self.policy = NodePolicy("n1", self.kernel, now=lambda: self.time)

    @property
    def cidr(self) -> str:
        return "10.42.0.0/24" if self.family is Family.IPV4 else "fd42::/64"

    def text(self, number: int) -> str:
        return f"10.42.0.{number}" if self.family is Family.IPV4 else f"fd42::{number}"

    def address(self, number: int) -> bytes:
        return ip_address(self.text(number)).packed

    def node(self) -> Keyed:
        address = "172.16.1.11" if self.family is Family.IPV4 else "fd16:1::11"
        status = {"addresses": [{"type": "InternalIP", "address": address}]}
        return manifest("Node", "n1", spec={"podCIDRs": [self.cidr]}, status=status)

    def pod(self, name: str, number: int, **labels: str) -> Keyed:
        status = {"podIPs": [{"ip": self.text(number)}]}
        return manifest("Pod", name, "x", labels=labels, spec={"nodeName": "n1"}, status=status)

    def namespace(self) -> Keyed:
        return manifest("Namespace", "x")

    def base(self) -> list[Keyed]:
        return [self.node(), self.namespace()]

    def allow(self, name: str, to: Mapping[str, str], *sources: Mapping[str, str], **more: Any) -> Keyed:
        """Return a NetworkPolicy: pods with these labels get what comes from pods with one of those."""
        rules = [{"from": [{"podSelector": {"matchLabels": dict(source)}}], **more} for source in sources]
        spec = {"podSelector": {"matchLabels": dict(to)}, "policyTypes": ["Ingress"], "ingress": rules}
        return manifest("NetworkPolicy", name, "x", spec=spec)

    def flow(self, client: int, server: int, port: int = 80) -> Flow:
        return Flow(self.address(client), self.address(server), 6, port, b"")

    async def tell(
        self, *items: Keyed, gone: Iterable[Keyed] = (), is_synced: bool = True, full_lists: int = 1
    ) -> None:
        self.take(*items, gone=gone, full_lists=full_lists if is_synced else 0)
        await self.settle()

    def take(self, *items: Keyed, gone: Iterable[Keyed] = (), full_lists: int = 1) -> None:
        """Tell of objects and wait for nothing."""
        deleted = frozenset(item.key for item in gone)
        changed: dict[Key, Keyed] = {item.key: item for item in items}
        self.policy.take(Batch(changed, deleted, (), full_lists=full_lists))

    async def settle(self) -> None:
        for _ in range(3):
            for _ in range(20):
                await asyncio.sleep(0)
            await asyncio.wait_for(self.policy.settled(), 10)

    async def pass_time(self, seconds: float) -> None:
        self.time += seconds
        self.policy.wake()
        self.policy.cutter.wake()
        await self.settle()

    def verdict(self, direction: str, number: int) -> Value | None:
        """Return where a pod's packets are judged, None if it gets none."""
        name = f"{direction}_pod{4 if self.family is Family.IPV4 else 6}"
        return self.kernel.table.elements.get(name, {}).get(self.address(number))


@contextlib.asynccontextmanager
async def enforcing(world: PolicyWorld) -> AsyncIterator[PolicyWorld]:
    task = asyncio.create_task(world.policy.run())
    try:
        yield world
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
