"""What is wanted of the kinds that are not read as a whole: which Secrets, and whether the pods of all nodes.

Pure functions of the objects in force.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.objects import BGPConfiguration, BGPPeer
from agent.objects.kinds import Keyed
from agent.objects.policy_objects import PolicyObject
from policy.policies import PodPeer, Policy, PolicyRule


def secret_names(items: Iterable[Keyed]) -> frozenset[str]:
    """Return the names of the Secrets that objects name."""
    references = (
        item.spec.node_mesh.password_secret_ref if isinstance(item, BGPConfiguration) else item.spec.password_secret_ref
        for item in items
        if isinstance(item, BGPConfiguration | BGPPeer)
    )
    return frozenset(reference.name for reference in references if reference)


def needs_all_pods(item: Keyed) -> bool:
    """Whether an object is a policy that speaks of pods by what they are: any of them may be on another node."""
    if not isinstance(item, PolicyObject) or not isinstance(item.value, Policy):
        return False
    ingress, egress = item.value.ingress or (), item.value.egress or ()
    return any(map(_has_pods, (*ingress, *egress))) or any(map(_has_named_port, egress))


def _has_pods(rule: PolicyRule) -> bool:
    return any(isinstance(peer, PodPeer) for peer in rule.peers or ())


def _has_named_port(rule: PolicyRule) -> bool:
    """A port by name is what each pod that is spoken to calls so."""
    return any(port.name for port in rule.ports or ())
