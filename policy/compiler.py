"""From objects to what one node enforces, update by update.

Give `Engine` every object as it comes (`apply`), in any order and as often as you like, and ask for the difference
since the last time (`flush`). The state it ends in depends on the objects alone, not on the way there.

Only policies that select a pod of this node become chains, and only sets that those chains look into are filled. A
chain is what one tier says about a pod; pods with the same policies share it. A pod is an endpoint, and so gets any
packets at all, when it has an address, is not on the host network, has not completed, and its namespace is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, TypeAlias

from inet.prefix import Family
from policy.cidr import address_text, holds_address
from policy.ir import (
    Chain,
    Delta,
    Direction,
    Endpoint,
    NodeFacts,
    Outcome,
    Rule,
    Ruleset,
    Target,
    make_chain,
)
from policy.labelindex import LabelIndex
from policy.objects import Namespace, Node, Pod
from policy.policies import Policy, PolicyRef, Selection, Tier
from policy.resident import Resident
from policy.rules import compile_rules, speaks_about_nodes
from policy.selectorindex import SelectorIndex
from policy.settable import SetTable


class Deleted(NamedTuple):
    """An object that is no more. `namespace` is empty for kinds without."""

    kind: str
    namespace: str
    name: str


Update: TypeAlias = Pod | Namespace | Node | Policy | Deleted


class _Compiled:
    """A version of a policy, with the rules that chains in use have been made of."""

    __slots__ = ("_rules", "policy", "precedence")

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.precedence = policy.precedence
        self._rules: dict[tuple[Direction, Family], tuple[Rule, ...]] = {}

    def speaks_about(self, direction: Direction) -> bool:
        if direction is Direction.INGRESS:
            return self.policy.ingress is not None
        return self.policy.egress is not None

    def rules(self, direction: Direction, family: Family) -> tuple[Rule, ...]:
        found = self._rules.get((direction, family))
        if found is None:
            found = self._rules[direction, family] = compile_rules(self.policy, direction, family)
        return found

    def forget(self, direction: Direction, family: Family) -> None:
        """Let go of rules. Who needs them after all has them compiled again."""
        self._rules.pop((direction, family), None)


class Engine:
    """The policies of a cluster, as one node enforces them. `ruleset` is what the deltas so far add up to."""

    def __init__(self, node: str) -> None:
        self._node: Final = node
        self._index: Final = LabelIndex()
        self._sets: Final = SetTable(self._index)
        self._chains: Final = _ChainTable(self._sets)
        self._policies: dict[PolicyRef, _Compiled] = {}
        self._pending: dict[PolicyRef, Policy | None] = {}
        self._by_namespace: dict[str, SelectorIndex[_Compiled]] = {}
        self._cluster_wide: Final[SelectorIndex[_Compiled]] = SelectorIndex()
        self._pods: dict[str, Pod] = {}  # of this node
        self._pods_by_namespace: dict[str, dict[str, Pod]] = {}
        self._claims: dict[bytes, set[str]] = {}  # which pods of this node say they have an address
        self._stale: set[bytes] = set()  # addresses to judge again
        self._facts = NodeFacts()
        self.ruleset: Final = Ruleset(chains=self._chains.live, sets=self._sets.refs, members=self._sets.members)

    def apply(self, update: Update) -> None:
        """Take over one object as it is now. The same twice, or a deletion of what is not known, changes nothing."""
        match update:
            case Pod():
                self._put_pod(update)
            case Policy():
                self._pending[update.ref] = update
            case Namespace():
                self._index.put_namespace(update)
                self._stale_namespace(update.name)
            case Node():
                self._sets.put_node(update)
                if update.name == self._node:
                    self._facts = NodeFacts(tuple(sorted(update.addresses)), tuple(sorted(update.pod_cidrs)))
            case Deleted():
                self._delete(update)

    def _delete(self, gone: Deleted) -> None:
        match gone.kind:
            case "Pod":
                key = f"{gone.namespace}/{gone.name}"
                self._index.remove_pod(key)
                self._replace_pod(key, None)
            case "Namespace":
                self._index.remove_namespace(gone.name)
                self._stale_namespace(gone.name)
            case "Node":
                self._sets.remove_node(gone.name)
                if gone.name == self._node:
                    self._facts = NodeFacts()
            case _:
                self._pending[PolicyRef(gone.kind, gone.namespace, gone.name)] = None

    def _put_pod(self, pod: Pod) -> None:
        self._index.put_pod(pod)
        is_ours = pod.node == self._node and pod.addresses and not pod.host_network and not pod.completed
        if is_ours or pod.key in self._pods:
            self._replace_pod(pod.key, pod if is_ours else None)

    def _replace_pod(self, key: str, new: Pod | None) -> None:
        old = self._pods.get(key)
        if old == new:
            return
        if old is not None:
            del self._pods[key]
            del self._pods_by_namespace[old.namespace][key]
            if not self._pods_by_namespace[old.namespace]:
                del self._pods_by_namespace[old.namespace]
            for address in old.addresses:
                self._claims[address].discard(key)
            self._stale.update(old.addresses)
        if new is not None:
            self._pods[key] = new
            self._pods_by_namespace.setdefault(new.namespace, {})[key] = new
            self._sets.put_local_pod(new)
            for address in new.addresses:
                self._claims.setdefault(address, set()).add(key)
            self._stale.update(new.addresses)
        else:
            self._sets.remove_local_pod(key)

    def _stale_namespace(self, name: str) -> None:
        for pod in self._pods_by_namespace.get(name, {}).values():
            self._stale.update(pod.addresses)

    def flush(self) -> Delta:
        """Return what has changed since the last time; falsy when nothing has."""
        self._take_policies()
        endpoints: dict[bytes, tuple[Endpoint | None, Endpoint | None]] = {}
        for address in sorted(self._stale):
            old, new = self.ruleset.endpoints.get(address), self._endpoint(address)
            if not self._claims[address]:
                del self._claims[address]
            if old == new:
                continue
            endpoints[address] = (old, new)
            if new is None:
                del self.ruleset.endpoints[address]
            else:
                self.ruleset.endpoints[address] = new
                self._chains.acquire(new.targets)
            if old is not None:
                self._chains.release(old.targets)
        self._stale.clear()
        chains_added, chains_removed = self._chains.settle()
        sets = self._sets.drain()
        facts = None
        if self._facts != self.ruleset.facts:
            facts = (self.ruleset.facts, self._facts)
            self.ruleset.facts = self._facts
        return Delta(
            facts=facts,
            sets_added=sets.added,
            members_added={ref.name: frozenset(self._sets.members[ref.name]) for ref in sets.added},
            members_changed=sets.changed,
            sets_removed=sets.removed,
            chains_added=chains_added,
            chains_removed=chains_removed,
            endpoints=endpoints,
        )

    def who(self, address: bytes) -> Resident:
        """Return who has an address, as far as the objects say. For people's questions: it looks at every pod."""
        text = address_text(address)
        for node in self._sets.nodes.values():
            if address in node.addresses:
                return Resident(text, "Node", node.name, node.name, node.labels)
        pod = self._index.find_pod(address)
        if pod is None:
            return Resident(text)
        key, labels, ports = pod
        node_name = next(
            (each.name for each in self._sets.nodes.values() if holds_address(each.pod_cidrs, address)), ""
        )
        namespace_labels = self._index.namespace_labels(key.partition("/")[0])
        spaces = None if namespace_labels is None else dict(namespace_labels)
        return Resident(text, "Pod", key, self._node if key in self._pods else node_name, dict(labels), spaces, ports)

    # Policies

    def _take_policies(self) -> None:
        for ref, policy in self._pending.items():
            old = self._policies.get(ref)
            if policy == (old and old.policy):
                continue
            if old is not None:
                del self._policies[ref]
                self._subjects(old.policy).remove(old.policy.subject.pods, old)
                self._stale_subject(old.policy.subject)
            if policy is not None:
                new = self._policies[ref] = _Compiled(policy)
                self._subjects(policy).add(policy.subject.pods, new)
                self._stale_subject(policy.subject)
            elif ref.namespace in self._by_namespace and not self._by_namespace[ref.namespace]:
                del self._by_namespace[ref.namespace]
        self._pending.clear()

    def _subjects(self, policy: Policy) -> SelectorIndex[_Compiled]:
        """Return the index that a policy's subject is filed in: its namespace's, or everybody's."""
        if policy.subject.namespace is None:
            return self._cluster_wide
        found = self._by_namespace.get(policy.subject.namespace)
        if found is None:
            found = self._by_namespace[policy.subject.namespace] = SelectorIndex()
        return found

    def _stale_subject(self, subject: Selection) -> None:
        pods = self._pods if subject.namespace is None else self._pods_by_namespace.get(subject.namespace, {})
        for pod in pods.values():
            if subject.pods.matches(pod.labels) and self._has_namespace(subject, pod):
                self._stale.update(pod.addresses)

    def _has_namespace(self, subject: Selection, pod: Pod) -> bool:
        if subject.namespaces is None:
            return subject.namespace == pod.namespace
        labels = self._index.namespace_labels(pod.namespace)
        return labels is not None and subject.namespaces.matches(labels)

    def _selecting(self, pod: Pod) -> list[_Compiled]:
        """Return the policies that select a pod, in the order they are asked."""
        found = [
            each for each in self._cluster_wide.matching(pod.labels) if self._has_namespace(each.policy.subject, pod)
        ]
        own = self._by_namespace.get(pod.namespace)
        if own is not None:
            found += own.matching(pod.labels)
        found.sort(key=lambda each: each.precedence)
        return found

    # Endpoints

    def _endpoint(self, address: bytes) -> Endpoint | None:
        # Two pods with one address: an old one's object lives on a little. The one that stays has it.
        claims = [self._pods[key] for key in self._claims[address]]
        pod = min(claims, key=lambda each: (each.terminating, each.key), default=None)
        if pod is None or self._index.namespace_labels(pod.namespace) is None:
            return None
        selecting = self._selecting(pod)
        family = Family.IPV4 if len(address) == 4 else Family.IPV6
        return Endpoint(
            address=address,
            pod=pod.key,
            egress=self._entry(selecting, Direction.EGRESS, family),
            ingress=self._entry(selecting, Direction.INGRESS, family),
            own_node=self._entry(selecting, Direction.OWN_NODE, family),
        )

    def _entry(self, selecting: Iterable[_Compiled], direction: Direction, family: Family) -> Target:
        """Return where a packet of a pod with these policies is judged first.

        A pod that a NetworkPolicy selects is judged by that tier in the end, any other by the Baseline tier; where no
        tier has a say, a packet is allowed. NetworkPolicy always allows what goes to the own node.
        """
        tiers: dict[Tier, list[_Compiled]] = {tier: [] for tier in Tier}
        for each in selecting:
            if each.speaks_about(direction if direction is Direction.INGRESS else Direction.EGRESS):
                tiers[each.policy.tier].append(each)
        if direction is Direction.OWN_NODE and not any(
            speaks_about_nodes(each.policy) for each in tiers[Tier.ADMIN] + tiers[Tier.BASELINE]
        ):
            return Outcome.ALLOW
        target: Target = Outcome.ALLOW
        if not tiers[Tier.NETWORK_POLICY]:
            target = self._chains.chain(family, direction, Tier.BASELINE, tiers[Tier.BASELINE], target)
        elif direction is not Direction.OWN_NODE:
            target = self._chains.chain(
                family, direction, Tier.NETWORK_POLICY, tiers[Tier.NETWORK_POLICY], Outcome.DENY
            )
        return self._chains.chain(family, direction, Tier.ADMIN, tiers[Tier.ADMIN], target)


class _ChainKey(NamedTuple):
    """What a chain is made of."""

    family: Family
    direction: Direction
    tier: Tier
    policies: tuple[_Compiled, ...]
    otherwise: Target


class _ChainTable:
    """The chains in use. Like sets, they are made and dropped when counts are settled."""

    def __init__(self, sets: SetTable) -> None:
        self._sets: Final = sets
        self._built: dict[_ChainKey, Chain] = {}
        self._keys: dict[str, _ChainKey] = {}  # by name
        self._users: dict[str, int] = {}
        self._touched: dict[str, None] = {}
        self.live: Final[dict[str, Chain]] = {}

    def chain(
        self, family: Family, direction: Direction, tier: Tier, policies: list[_Compiled], otherwise: Target
    ) -> Target:
        """Return the chain of these policies, or where it would go on to when there are none."""
        if not policies:
            return otherwise
        key = _ChainKey(family, direction, tier, tuple(policies), otherwise)
        chain = self._built.get(key)
        if chain is None:
            rules: Mapping[PolicyRef, tuple[Rule, ...]] = {
                each.policy.ref: each.rules(direction, family) for each in policies
            }
            chain = make_chain(family, direction, tier, rules, otherwise)
            if chain.name in self._keys:  # the versions of its policies before said the same
                del self._built[self._keys[chain.name]]
            self._built[key] = chain
            self._keys[chain.name] = key
        return chain.name

    def acquire(self, targets: Iterable[Target]) -> None:
        for target in targets:
            if not isinstance(target, Outcome):
                self._users[target] = self._users.get(target, 0) + 1
                self._touched[target] = None

    def release(self, targets: Iterable[Target]) -> None:
        for target in targets:
            if not isinstance(target, Outcome):
                self._users[target] -= 1
                self._touched[target] = None

    def settle(self) -> tuple[tuple[Chain, ...], tuple[Chain, ...]]:
        """Make the counts true; return the chains added and removed, in the order Delta wants them."""
        added: list[Chain] = []
        removed: list[Chain] = []
        for name in [name for name in self._touched if self._users[name]]:
            self._add(name, added)
        while self._touched:
            name, _ = self._touched.popitem()
            if self._users.get(name) == 0:
                del self._users[name]
                self._forget(name)
                chain = self.live.pop(name, None)
                if chain is not None:
                    removed.append(chain)
                    self._sets.release(chain.sets)
                    self.release((chain.otherwise,))
        return tuple(added), tuple(removed)

    def _add(self, name: str, added: list[Chain]) -> None:
        if name in self.live:
            return
        chain = self.live[name] = self._built[self._keys[name]]
        self._sets.acquire(chain.sets)
        self.acquire((chain.otherwise,))
        if not isinstance(chain.otherwise, Outcome):
            self._add(chain.otherwise, added)
        added.append(chain)

    def _forget(self, name: str) -> None:
        key = self._keys.pop(name)
        del self._built[key]
        for each in key.policies:
            each.forget(key.direction, key.family)
