"""The agent's policy on a real kernel: a node with pods in namespaces, and `NodePolicy` in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from agent.datastore import Batch
from agent.enforcement import NodePolicy
from agent.objects.kinds import Keyed
from agent.objects.model import Key
from agent.policy_kernel import PolicyKernel, open_policy_kernel
from inet.prefix import Family
from tests.agent.policy_world import manifest
from tests.felix.nft.pods import OWN, PodNode

PATIENCE_S = 60.0


def network_policy(name: str, app: str, *types: str, **spec: Any) -> Keyed:
    """Return a NetworkPolicy about the pods of an app."""
    selector = {"matchLabels": {"app": app}}
    return manifest("NetworkPolicy", name, "x", spec={"podSelector": selector, "policyTypes": list(types), **spec})


def cluster_policy(name: str, **rules: Any) -> Keyed:
    """Return a ClusterNetworkPolicy of the Admin tier about every pod."""
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, **rules}
    return manifest("ClusterNetworkPolicy", name, spec=spec)


def from_app(*apps: str) -> dict[str, Any]:
    """Return an ingress rule: pods of some apps."""
    return {"from": [{"podSelector": {"matchLabels": {"app": app}}} for app in apps]}


class RealNode:
    """Node n1 with pods x/p0, x/p1, ... whose label app is their name."""

    def __init__(self, pods: PodNode, policy: NodePolicy) -> None:
        self.pods = pods
        self.policy = policy

    def objects(self, *pods: int) -> list[Keyed]:
        """Return the node, the namespace, and these pods; all of them where none is named."""
        status = {"addresses": [{"type": "InternalIP", "address": each} for each in OWN.values()]}
        node = manifest("Node", "n1", spec={"podCIDRs": ["10.64.1.0/24", "fd64:1::/64"]}, status=status)
        return [node, manifest("Namespace", "x"), *map(self.pod, pods or range(len(self.pods.pods)))]

    def pod(self, number: int, **labels: str) -> Keyed:
        status = {"podIPs": [{"ip": self.pods.address(family, number)} for family in Family]}
        labels = {"app": f"p{number}"} | labels
        return manifest("Pod", f"p{number}", "x", labels=labels, spec={"nodeName": "n1"}, status=status)

    async def tell(self, *items: Keyed, gone: Iterable[Keyed] = ()) -> None:
        """Have the objects in force."""
        changed: Mapping[Key, Keyed] = {item.key: item for item in items}
        self.policy.take(Batch(dict(changed), frozenset(item.key for item in gone), (), full_lists=1))
        await asyncio.wait_for(self.policy.settled(), PATIENCE_S)
        assert self.policy.error == ""


@contextlib.asynccontextmanager
async def enforcing(pods: PodNode, kernel: PolicyKernel | None = None) -> AsyncIterator[RealNode]:
    """Enforce policy on a node whose namespace this thread is in, until the end of the block."""
    with contextlib.ExitStack() as stack:
        policy = NodePolicy("n1", kernel or stack.enter_context(open_policy_kernel()))
        task = asyncio.create_task(policy.run())
        try:
            yield RealNode(pods, policy)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
