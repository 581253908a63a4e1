"""A node's network settings that nobody keeps: for what only looks at them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from agent.enforcement import NodePolicy
from agent.network import NodeNetwork
from agent.routing import Routing
from felix.sysctl import Sysctls


async def _nothing() -> AsyncIterator[None]:
    return
    yield


def idle_network(routing: Routing, policy: NodePolicy) -> NodeNetwork:
    return NodeNetwork("n1", routing, policy, Sysctls(Path("/nowhere")), _nothing())
