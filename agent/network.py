"""A node's network settings, beside routes and policy: outgoing NAT, service guard, MTU, kernel settings."""

from __future__ import annotations

import asyncio

from agent.datastore import Batch
from agent.enforcement import NodePolicy
from agent.mtu import PodMtu, RealMtuKernel
from agent.outgoing_nat import OutgoingNat
from agent.routing import Routing
from agent.surroundings import Surroundings
from agent.sysctls import SysctlKeeper
from felix.netconf import SettingsMonitor
from felix.sysctl import Sysctls


class NodeNetwork:
    """What follows objects and routes so that pods can be carried."""

    def __init__(
        self, node: str, routing: Routing, policy: NodePolicy, sysctls: Sysctls, news: SettingsMonitor
    ) -> None:
        self.around = Surroundings(node)
        self.nat = OutgoingNat(self.around, policy, lambda: routing.fib.destinations)
        self.mtu = PodMtu(self.around, policy, RealMtuKernel())
        self.sysctls = SysctlKeeper(self.around, self.mtu, sysctls, news)
        self.mtu.on_change(self.sysctls.wake)
        routing.route_listeners.append(self.nat.routes_changed)
        routing.kernel_listeners += (self.mtu.hear, self.sysctls.hear)

    def take(self, batch: Batch) -> None:
        """Take over what changed."""
        if self.around.take(batch):
            self.mtu.wake()
            self.sysctls.wake()
        self.nat.refresh()

    @property
    def problems(self) -> list[str]:
        """What is not as it should be, for people."""
        return [*self.mtu.problems, *self.sysctls.problems]

    async def run(self) -> None:
        """Follow routes and the kernel until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.nat.run(), name="outgoing NAT")
            tasks.create_task(self.mtu.run(), name="MTU")
            tasks.create_task(self.sysctls.run(), name="settings")
