"""What `tortie policy check` finds: refused objects, and policies that do not say what their author may think.

That a rule matches nobody or a policy selects nothing is a fact about the pods in the same manifests; where there are
none, such facts are not looked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from agent.datastore.manifest_directory import ManifestDirectory, View
from agent.datastore.manifest_file import Located, locate
from agent.datastore.yaml_documents import NotYaml
from agent.objects.model import Key
from agent.objects.policy_objects import PolicyObject, notices, steps, update_of
from agent.objects.problem import Problem
from agent.policy_cluster import policies_of
from inet.prefix import Family
from policy.ir import Direction
from policy.objects import Namespace, Node, Pod
from policy.policies import BlockPeer, NodePeer, Peer, PodPeer, Policy, PolicyRule, PortMatch, Selection, UnknownPeer
from policy.rules import compile_rules


def check_policies(directory: Path) -> list[Problem]:
    """Return what is wrong or suspicious, sorted by file and line."""
    view = ManifestDirectory(directory).read()
    objects = list(view.objects.values())
    values = [each.value for each in objects if isinstance(each, PolicyObject)]
    pods = [each for each in values if isinstance(each, Pod) and not each.host_network and not each.completed]
    nodes = [each for each in map(update_of, objects) if isinstance(each, Node)]
    inventory = _Inventory(pods, [each for each in values if isinstance(each, Namespace)], nodes)
    policies = sorted(policies_of(objects), key=lambda each: (each.ref.kind, each.ref.key))
    found = notices(objects)
    for policy in policies:
        found += _check_policy(policy, inventory)
    found += _unprotected(pods, policies, inventory)
    refused = (replace(problem, consequence="") for problem in view.problems)
    return sorted([*refused, *map(_Lines(view).add, found)])


class _Lines:
    """Finds lines for problems of objects. Files are read again for that: nobody else asks for lines."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._located: dict[str, dict[Key, Located]] = {}

    def add(self, problem: Problem) -> Problem:
        """Return a problem of an object with file and line."""
        key = Key(problem.kind, problem.namespace, problem.name)
        file = self._view.files[key]
        if file not in self._located:
            self._located[file] = {}
            with contextlib.suppress(OSError, NotYaml):  # it was there a moment ago
                self._located[file] = locate(Path(file).read_bytes())
        place = self._located[file].get(key)
        return replace(problem, file=file, line=place.line_of(steps(problem.field)) if place else 0)


class _Inventory:
    """The pods, namespaces and nodes that selections may find."""

    def __init__(self, pods: Sequence[Pod], namespaces: Sequence[Namespace], nodes: Sequence[Node]) -> None:
        self.pods = pods
        self.nodes = nodes
        self._labels = {each.name: each.labels for each in namespaces}

    def selected(self, selection: Selection) -> list[Pod]:
        return [pod for pod in self.pods if self._has_namespace(selection, pod) and selection.pods.matches(pod.labels)]

    def _has_namespace(self, selection: Selection, pod: Pod) -> bool:
        if selection.namespaces is None:
            return selection.namespace == pod.namespace
        labels = self._labels.get(pod.namespace)
        return labels is not None and selection.namespaces.matches(labels)


def _check_policy(policy: Policy, inventory: _Inventory) -> Iterator[Problem]:
    subjects = inventory.selected(policy.subject)
    if inventory.pods and not subjects:
        yield _problem(policy, "", f"selects no pod: {policy.subject}")
    for direction, rules in ((Direction.INGRESS, policy.ingress), (Direction.EGRESS, policy.egress)):
        compiled = [compile_rules(policy, direction, family) for family in Family]
        for index, rule in enumerate(rules or ()):
            field = f"spec.{direction}[{index}]"
            if _is_unenforced(rule):
                continue
            if not any(each[index].clauses for each in compiled):
                yield _problem(policy, field, "can never match: nothing is left of its peers and ports")
                continue
            covering = next((at for at, earlier in enumerate((rules or ())[:index]) if _covers(earlier, rule)), None)
            if covering is not None:
                yield _problem(policy, field, f"never decides: rule {covering + 1} before it matches all that it does")
            elif inventory.pods and (reason := _matches_nobody(rule, direction, subjects, inventory)):
                yield _problem(policy, field, f"matches nothing in these manifests: {reason}")


def _is_unenforced(rule: PolicyRule) -> bool:
    """Whether a notice of the policy says already why the rule does nothing."""
    return rule.peers == () or any(isinstance(each, UnknownPeer) for each in rule.peers or ())


def _covers(earlier: PolicyRule, later: PolicyRule) -> bool:
    """Whether every packet that the later rule matches has been matched before, as far as the words say."""
    return _is_within(later.peers, earlier.peers) and _is_within(later.ports, earlier.ports)


def _is_within(later: Sequence[Peer | PortMatch] | None, earlier: Sequence[Peer | PortMatch] | None) -> bool:
    if earlier is None:
        return True
    return later is not None and set(later) <= set(earlier)


def _matches_nobody(rule: PolicyRule, direction: Direction, subjects: Sequence[Pod], inventory: _Inventory) -> str:
    """Say why a rule matches nothing at present; nothing if it may match."""
    peers: list[Pod] = []
    is_open = rule.peers is None
    for peer in rule.peers or ():
        match peer:
            case PodPeer():
                peers += inventory.selected(peer.selection)
            case NodePeer():
                is_open |= any(peer.selector.matches(node.labels) for node in inventory.nodes)
            case BlockPeer():
                is_open = True
    if not peers and not is_open:
        return f"nobody is {' or '.join(map(str, rule.peers or ()))}"
    destinations = subjects if direction is Direction.INGRESS else inventory.pods if is_open else peers
    if not destinations or rule.ports is None or any(each.name is None for each in rule.ports):
        return ""
    names = {str(each.name) for each in rule.ports if not any(_has_port(pod, each) for pod in destinations)}
    return f"no pod has a port {' or '.join(sorted(names))}" if len(names) == len(set(rule.ports)) else ""


def _has_port(pod: Pod, match: PortMatch) -> bool:
    return any(each.name == match.name and match.protocol in {None, each.protocol} for each in pod.ports)


def _unprotected(pods: Sequence[Pod], policies: Sequence[Policy], inventory: _Inventory) -> Iterator[Problem]:
    selected = {pod.key for policy in policies for pod in inventory.selected(policy.subject)}
    for pod in sorted(pods, key=lambda each: each.key):
        if pod.key not in selected:
            message = "no policy selects it: everything to and from it is allowed"
            yield Problem(kind="Pod", namespace=pod.namespace, name=pod.name, message=message)


def _problem(policy: Policy, field: str, message: str) -> Problem:
    ref = policy.ref
    return Problem(kind=ref.kind, namespace=ref.namespace, name=ref.name, field=field, message=message)
