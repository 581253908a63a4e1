"""Which established connections a change of policy may have denied, and which it has. Pure.

The kernel does not judge an established connection again. So whoever changed rules asks here whose connections to
look at, and which of them the rules as they are now would not let begin.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from felix.conntrack import Flow
from policy.evaluator import Packet, evaluate
from policy.ir import Chain, Delta, MemberChange, NodeFacts, Outcome, Ruleset
from policy.policies import Action


def doubtful(ruleset: Ruleset, delta: Delta) -> set[bytes]:
    """Return the addresses of pods whose connections a delta may deny; `ruleset` is the one after it."""
    found = {address for address, (before, after) in delta.endpoints.items() if before and after}
    suspects = _stricter(ruleset.chains, delta.members_changed)
    if suspects:
        found.update(
            address for address, endpoint in ruleset.endpoints.items() if not suspects.isdisjoint(endpoint.targets)
        )
    return found


def _stricter(chains: Mapping[str, Chain], changes: Mapping[str, MemberChange]) -> set[str]:
    """Return the chains that let through less than before, or go on to such a one."""
    if not changes:
        return set()
    found = {name for name, chain in chains.items() if _denies_more(chain, changes)}
    while found:
        before = {name for name, chain in chains.items() if chain.otherwise in found} - found
        if not before:
            break
        found |= before
    return found


def _denies_more(chain: Chain, changes: Mapping[str, MemberChange]) -> bool:
    """Whether somebody is no longer let through, or is now among those who are not."""
    touched = [ref.name for ref in chain.sets if ref.name in changes]
    if not touched:  # nearly all of them, many times a second
        return False
    if any(changes[name].removed for name in touched):
        return True
    return any(
        ref.name in touched
        for rule in chain.rules
        if rule.action is not Action.ACCEPT
        for clause in rule.clauses
        for ref in clause.sets
    )


def denied(ruleset: Ruleset, flows: Iterable[Flow], own_addresses: Collection[bytes]) -> list[Flow]:
    """Return the connections that could not begin now; `own_addresses` are all that the node itself has.

    Those are more than its object says: a pod's gateway, an address of a name server that runs on every node.
    """
    facts = NodeFacts(tuple(sorted({*ruleset.facts.addresses, *own_addresses})), ruleset.facts.pod_cidrs)
    ruleset = replace(ruleset, facts=facts)
    return [
        flow
        for flow in flows
        if evaluate(ruleset, Packet(flow.client, flow.server, flow.protocol, flow.port)).outcome is Outcome.DENY
    ]
