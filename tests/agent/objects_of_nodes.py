"""Node objects as the cluster has them, for tests of what follows from objects."""

from __future__ import annotations

from typing import Any

from agent.datastore import Batch
from agent.objects.kinds import Keyed
from tests.agent.policy_world import manifest


def node_object(number: int, **metadata: Any) -> Keyed:
    """Return node `n{number}`, with the addresses and pod CIDRs that `routing_world.World` gives it."""
    addresses = (f"192.168.0.{number}", f"fd00::{number:x}")
    cidrs = [f"10.42.{number}.0/24", f"fd42:0:0:{number:x}::/64"]
    status = {"addresses": [{"type": "InternalIP", "address": each} for each in addresses]}
    return manifest("Node", f"n{number}", spec={"podCIDRs": cidrs}, status=status, **metadata)


def batch(*items: Keyed, gone: tuple[Keyed, ...] = (), full_lists: int = 1, **more: Any) -> Batch:
    """Return what a datastore tells when these objects are new and those are gone."""
    return Batch({item.key: item for item in items}, frozenset(item.key for item in gone), (), full_lists, **more)
