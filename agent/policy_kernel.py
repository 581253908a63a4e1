"""The kernel as policy needs it: our table, news of it, pod links to mark, connections to cut.

One Protocol, so that enforcement can be tested with rules in memory; `open_policy_kernel` gives the real one.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection, Container, Iterable, Iterator
from typing import Protocol

from felix.conntrack import Conntrack, Flow
from felix.links import addresses as local_addresses
from felix.netlink import Failure
from felix.nft.counters import RuleCount, rule_counts
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.library import Library
from felix.nft.monitor import Event as TableEvent
from felix.nft.monitor import TableMonitor
from felix.nft.table import TABLE, RuleTable
from felix.podinterfaces import LinkGroups, pod_links
from policy.nftskeleton import POD_INTERFACE_GROUP


class PolicyKernel(Protocol):
    """What enforcement does to a network namespace, and hears of it."""

    @property
    def table(self) -> RuleTable:
        """The table `inet tortie`."""

    def table_events(self) -> AsyncIterator[TableEvent]:
        """Tell, for ever, that someone else changed the table."""

    async def mark_pods(self, addresses: Collection[bytes]) -> Collection[bytes]:
        """Put the links of pods, by packed address, into the interface group; return those that have one.

        Raises OSError.
        """

    async def counts(self, chain: str) -> list[RuleCount]:
        """Return what the rules of a chain have counted. Raises OSError."""

    async def flows(self, addresses: Container[bytes]) -> list[Flow]:
        """Return the connections to and from packed addresses. Raises OSError."""

    async def own_addresses(self) -> Collection[bytes]:
        """Return every packed address of the node itself. Raises OSError."""

    async def cut(self, flows: Iterable[Flow]) -> list[Failure]:
        """End connections; return those that go on. Raises OSError."""


class _RealPolicyKernel:
    def __init__(self, table: KernelRuleTable, news: TableMonitor, groups: LinkGroups, connections: Conntrack) -> None:
        self.table: RuleTable = table
        self._news = news
        self._groups = groups
        self._connections = connections

    def table_events(self) -> AsyncIterator[TableEvent]:
        return self._news.events()

    async def mark_pods(self, addresses: Collection[bytes]) -> Collection[bytes]:
        links = await pod_links(addresses)
        joined = {link for link in set(links.values()) if await self._groups.join(link, POD_INTERFACE_GROUP)}
        return {address for address, link in links.items() if link in joined}

    async def counts(self, chain: str) -> list[RuleCount]:
        return await rule_counts(TABLE, chain)

    async def flows(self, addresses: Container[bytes]) -> list[Flow]:
        return await self._connections.flows(addresses)

    async def own_addresses(self) -> Collection[bytes]:
        return {each.address.packed for each in await local_addresses()}

    async def cut(self, flows: Iterable[Flow]) -> list[Failure]:
        return await self._connections.delete(flows)


@contextlib.contextmanager
def open_policy_kernel() -> Iterator[PolicyKernel]:
    """Open what policy needs of this network namespace.

    Raises LibraryError where libnftables is missing or too old, OSError where sockets cannot be had.
    """
    library = Library()
    with (
        contextlib.closing(KernelRuleTable(library)) as table,
        contextlib.closing(TableMonitor(table.port, table.writer)) as news,
        contextlib.closing(LinkGroups()) as groups,
        contextlib.closing(Conntrack()) as connections,
    ):
        yield _RealPolicyKernel(table, news, groups, connections)
