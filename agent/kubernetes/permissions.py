"""What an agent may ask of the API server, as data: the chart's roles, the documentation and the tests go by it.

Every right has its reason. A test lets an agent do all it does with exactly these and compares them with what the
server's audit log says was asked for.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from agent.objects.kinds import KINDS
from agent.objects.secret import Secret


class Rule(NamedTuple):
    """A right. `group` is empty for the core group."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    why: str


FOLLOWED: Final = ("list", "watch")

_OURS: Final = tuple(kind.plural for kind in KINDS.values() if kind.is_ours and not kind.is_written_by_agents)

CLUSTER: Final = (
    Rule("", ("nodes",), FOLLOWED, "whose pod CIDRs are where, and the condition of its own"),
    Rule("", ("namespaces", "pods"), FOLLOWED, "whom policies select, and addresses of pods"),
    Rule("networking.k8s.io", ("networkpolicies",), FOLLOWED, "policy"),
    Rule("policy.networking.k8s.io", ("clusternetworkpolicies",), FOLLOWED, "policy of administrators, if installed"),
    Rule("tortie.dev", _OURS, FOLLOWED, "the network and BGP"),
    Rule("tortie.dev", ("noderoutingstatuses",), ("create", "patch"), "the status of its own node is made"),
    Rule("tortie.dev", ("noderoutingstatuses/status",), ("patch",), "and written"),
    Rule("", ("nodes/status",), ("patch",), "its own node's condition NetworkUnavailable"),
    Rule("events.k8s.io", ("events",), ("create",), "Events for objects that are not in force"),
)
"""Granted in the whole cluster."""

OWN_NAMESPACE: Final = (Rule("", (KINDS[Secret.kind].plural,), FOLLOWED, "passwords of sessions, by name"),)
"""Granted in the agent's own namespace."""
