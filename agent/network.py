"""A node's network settings, beside routes and policy: outgoing NAT, service guard, MTU, kernel settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from agent.checksums import ChecksumKeeper
from agent.datastore import Batch
from agent.enforcement import NodePolicy
from agent.mtu import PodMtu, RealMtuKernel, whose
from agent.outgoing_nat import OutgoingNat
from agent.report import ConditionReport, NetworkReport
from agent.routing import Routing
from agent.surroundings import Surroundings
from agent.sysctls import SysctlKeeper
from bgp.carriage import How
from felix import conntracktable
from felix.sysctl import Sysctls
from inet.prefix import IPAddress


class NodeNetwork:
    """What follows objects and routes so that pods can be carried."""

    def __init__(
        self, node: str, routing: Routing, policy: NodePolicy, sysctls: Sysctls, news: AsyncIterator[None]
    ) -> None:
        self._routing = routing
        self.around = Surroundings(node)
        self.nat = OutgoingNat(self.around, policy, lambda: routing.fib.destinations, self._tunnelled)
        self.mtu = PodMtu(self.around, policy, RealMtuKernel())
        self.checksums = ChecksumKeeper(routing.carrier)
        self.sysctls = SysctlKeeper(self.around, self.mtu, sysctls, news)
        self.mtu.on_change(self.sysctls.wake)
        self.mtu.on_change(lambda: routing.set_pod_mtu(self.mtu.route_mtu))
        routing.route_listeners.append(self.nat.routes_changed)
        routing.kernel_listeners += (self.mtu.hear, self.sysctls.hear)

    def take(self, batch: Batch) -> None:
        """Take over what changed."""
        if self.around.take(batch):
            self.mtu.wake()
            self.sysctls.wake()
            self.nat.refresh()
        else:
            self.nat.pods_changed()

    def _tunnelled(self) -> frozenset[IPAddress]:
        """Return the addresses of nodes that pods' packets reach in a tunnel alone."""
        carrier = self._routing.carrier
        if not carrier.media:
            return frozenset()
        addresses = (address for node in self.around.others for address in node.internal_addresses)
        return frozenset(each for each in addresses if carrier.carriage(each)[0].how is How.TUNNEL)

    @property
    def problems(self) -> list[str]:
        """What is not as it should be, for people."""
        return [*self.mtu.problems, *self.sysctls.problems]

    def report(self) -> NetworkReport:
        """Say how pods are carried."""
        wanted, table = self.nat.wanted, conntracktable.usage()
        return NetworkReport(
            mtu=self.mtu.mtu(),
            uplinks={each.name: each.mtu for each in self.mtu.uplinks},
            tunnel_overhead=self.mtu.overhead,
            tunnel_checksums=self.checksums.verdict.value,
            mtu_corrected=self.mtu.corrected,
            mtu_uncorrected=[f"{whose(each)} (MTU {each.mtu}): {each.reason}" for each in self.mtu.uncorrected],
            nat_sources=list(map(str, wanted.pods)),
            nat_opted_out=len(wanted.opted_out),
            nat_learned=len(wanted.learned),
            sysctls_repaired=self.sysctls.repaired,
            sysctls_failed=dict(self.sysctls.failed),
            connections=table.entries if table else None,
            connections_limit=table.limit if table else None,
            connections_dropped=table.drops if table else 0,
        )

    def conditions(self) -> Iterator[ConditionReport]:
        """Yield what is worth knowing besides."""
        table = conntracktable.usage()
        if table is not None and table.is_nearly_full:
            message = (
                f"{table.entries} of {table.limit} connections are tracked, {table.drops} packets were dropped for "
                "want of room: raise net.netfilter.nf_conntrack_max (kube-proxy: --conntrack-max-per-core)"
            )
            yield ConditionReport("ConnectionTableFull", "True", "NoRoomForNew", message)

    async def run(self) -> None:
        """Follow routes and the kernel until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.nat.run(), name="outgoing NAT")
            tasks.create_task(self.mtu.run(), name="MTU")
            tasks.create_task(self.sysctls.run(), name="settings")
            tasks.create_task(self.checksums.run(), name="checksums in tunnels")
