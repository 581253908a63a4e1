"""Policies that the kernel refuses, put aside so that the others go on.

A refusal names a chain, a set or a line of text; behind these stand policies. Each gets a substitute: its last
version that the kernel took, or, where there is none, one that lets nothing through which a rule of it would have
judged. That is how one bad object harms only itself, and opens nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from felix.nft.table import Refusal
from policy.compiler import Deleted
from policy.ir import Chain, Ruleset
from policy.policies import Action, Policy, PolicyRef, PolicyRule, Tier

_CONSEQUENCE: Final = {
    True: "The last good version stays in force.",
    False: "Until it is changed, its pods get nothing that it speaks about.",
}


class Quarantine:
    """Which policies are put aside, and which versions the kernel took."""

    def __init__(self) -> None:
        self._good: dict[PolicyRef, Policy] = {}
        self._new: dict[PolicyRef, Policy | None] = {}  # not written yet; None: deleted
        self._aside: dict[PolicyRef, tuple[Policy, str]] = {}  # with what is said of it

    @property
    def problems(self) -> list[str]:
        """What is put aside, and why."""
        return [text for _, (_, text) in sorted(self._aside.items())]

    def hear(self, update: Policy | Deleted) -> None:
        """Hear of another version of a policy, or of its end: the one put aside is history."""
        ref = update.ref if isinstance(update, Policy) else PolicyRef(*update)
        self._aside.pop(ref, None)
        self._new[ref] = update if isinstance(update, Policy) else None

    def succeeded(self) -> None:
        """Hear that the kernel took everything."""
        for ref, policy in self._new.items():
            if policy is None:
                self._good.pop(ref, None)
            elif ref not in self._aside:
                self._good[ref] = policy
        self._new.clear()

    def isolate(self, ruleset: Ruleset, refusals: Sequence[Refusal]) -> list[Policy]:
        """Put the policies behind refusals aside; return what goes in their place. Empty: nobody knows which."""
        substitutes = []
        for refusal in refusals:
            for ref in sorted(_blamed(ruleset, refusal) & {ref for ref, new in self._new.items() if new}):
                policy = self._new[ref]
                if policy is None or ref in self._aside:
                    continue
                good = self._good.get(ref)
                self._aside[ref] = (
                    policy,
                    f"{ref}: the kernel refuses it: {refusal}. {_CONSEQUENCE[good is not None]}",
                )
                substitutes.append(good or _closed(policy))
        return substitutes

    def release(self) -> list[Policy]:
        """Return everything that is put aside, to be tried again."""
        found = [policy for policy, _ in self._aside.values()]
        self._new |= {policy.ref: policy for policy in found}
        self._aside.clear()
        return found


def _blamed(ruleset: Ruleset, refusal: Refusal) -> set[PolicyRef]:
    """Return the policies that may be at fault: of the rule that is refused, else of the chain or set."""
    chain = ruleset.chains.get(refusal.subject)
    if chain is not None:
        rules = [rule.policy for rule in chain.rules if f'comment "{rule}"' in refusal.line]
        return set(rules or chain.policies)
    return {ref for each in ruleset.chains.values() for ref in _users(each, refusal.subject)}


def _users(chain: Chain, set_name: str) -> Iterator[PolicyRef]:
    for rule in chain.rules:
        if any(ref.name == set_name for clause in rule.clauses for ref in clause.sets):
            yield rule.policy


def _closed(policy: Policy) -> Policy:
    """Return a policy with the same subject, tier and directions that lets nothing through."""
    rules = () if policy.tier is Tier.NETWORK_POLICY else (PolicyRule(Action.DENY),)
    return replace(
        policy,
        ingress=None if policy.ingress is None else rules,
        egress=None if policy.egress is None else rules,
    )
