"""Read policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy objects.

The rules of its CRD schema are checked here, with the limits it sets. What a newer schema may hold and this version
does not know (a peer or protocol of another kind), and domain names, which are read but not enforced, fail closed as
the API asks: an Accept rule accepts nothing by it, a Deny or Pass rule denies everything; a notice says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from policy.cidr import is_strict_cidr, parse_block
from policy.fields import (
    FieldError,
    RefusedError,
    check_known,
    expect_list,
    expect_name,
    expect_object,
    expect_port_number,
    expect_text,
    invalid,
    required,
    too_many,
    unsupported,
)
from policy.objects import PROTOCOLS
from policy.policies import (
    CLUSTER_NETWORK_POLICY,
    Action,
    BlockPeer,
    NodePeer,
    Notice,
    Peer,
    PodPeer,
    Policy,
    PolicyRef,
    PolicyRule,
    PortMatch,
    Selection,
    Tier,
    UnknownPeer,
)
from policy.selector import EVERYTHING, decode_selector

MOST_ITEMS: Final = 25
MOST_PRIORITY: Final = 1000
RULE_NAME_LENGTH: Final = 100
CIDR_LENGTH: Final = 43

_TIERS: Final = {"Admin": Tier.ADMIN, "Baseline": Tier.BASELINE}
_SPEC_FIELDS: Final = frozenset({"tier", "priority", "subject", "ingress", "egress"})
_SUBJECT_FIELDS: Final = frozenset({"namespaces", "pods"})
_PODS_FIELDS: Final = frozenset({"namespaceSelector", "podSelector"})
_INGRESS_PEERS: Final = frozenset({"namespaces", "pods"})
_EGRESS_PEERS: Final = frozenset({"namespaces", "pods", "nodes", "networks", "domainNames"})
_NAMELESS_PEERS: Final = frozenset({"nodes", "networks", "domainNames"})
_LABEL: Final = r"[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?"
_DOMAIN_NAME: Final = re.compile(rf"(\*\.)?({_LABEL}\.)+{_LABEL}\.?")


class _Reader:
    """One object being read: its complaints and notices add up here."""

    def __init__(self) -> None:
        self.errors: list[FieldError] = []
        self.notices: list[Notice] = []

    def items(self, raw: object, path: str, *, least: int = 0) -> list[tuple[Any, str]]:
        """Return a list's items, checking its length."""
        items = expect_list(raw, path, self.errors)
        if len(items) < least:
            self.errors.append(required(path, "must have at least one item"))
        if len(items) > MOST_ITEMS:
            self.errors.append(too_many(path, len(items), MOST_ITEMS))
        return items

    def exactly_one(self, item: Mapping[str, Any], path: str) -> str:
        """Return the name of the one field that is set, or an empty text after complaining."""
        given = [name for name, value in item.items() if value is not None]
        if len(given) == 1:
            return str(given[0])
        found = "none" if not given else ", ".join(map(str, given))
        self.errors.append(invalid(path, dict(item), f"exactly one field must be set, found {found}"))
        return ""

    def selection(self, field: str, item: Mapping[str, Any], path: str) -> Selection:
        """Read a subject or peer of pods, by `namespaces` or by `pods`."""
        if field == "namespaces":
            return Selection(None, decode_selector(item[field], f"{path}.namespaces", self.errors), EVERYTHING)
        path = f"{path}.pods"
        pods = expect_object(item[field], path, self.errors)
        self.errors += check_known(pods, _PODS_FIELDS, path)
        if pods.get("podSelector") is None:
            self.errors.append(required(f"{path}.podSelector"))
        return Selection(
            None,
            decode_selector(pods.get("namespaceSelector") or {}, f"{path}.namespaceSelector", self.errors),
            decode_selector(pods.get("podSelector") or {}, f"{path}.podSelector", self.errors),
        )


def decode_cluster_network_policy(raw: Mapping[str, Any]) -> Policy:
    """Read a ClusterNetworkPolicy. Raises RefusedError with every complaint."""
    reader = _Reader()
    errors = reader.errors
    meta = expect_object(raw.get("metadata"), "metadata", errors)
    name = expect_name(meta.get("name"), "metadata.name", errors)
    spec = expect_object(raw.get("spec"), "spec", errors)
    errors += check_known(spec, _SPEC_FIELDS, "spec")
    tier = spec.get("tier")
    if not isinstance(tier, str) or tier not in _TIERS:
        errors.append(unsupported("spec.tier", tier, _TIERS) if tier else required("spec.tier"))
    priority = spec.get("priority")
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= MOST_PRIORITY:
        errors.append(invalid("spec.priority", priority, f"must be a number from 0 to {MOST_PRIORITY}"))
        priority = 0
    subject = _decode_subject(spec.get("subject"), reader)
    ingress = _decode_rules(spec.get("ingress"), "spec.ingress", "from", reader)
    egress = _decode_rules(spec.get("egress"), "spec.egress", "to", reader)
    if errors:
        raise RefusedError(errors)
    return Policy(
        ref=PolicyRef(CLUSTER_NETWORK_POLICY, "", name),
        tier=_TIERS[str(tier)],
        priority=priority,
        subject=subject,
        ingress=ingress or None,
        egress=egress or None,
        notices=tuple(reader.notices),
    )


def _decode_subject(raw: object, reader: _Reader) -> Selection:
    everything = Selection(None, EVERYTHING, EVERYTHING)
    if raw is None:
        reader.errors.append(required("spec.subject"))
        return everything
    item = expect_object(raw, "spec.subject", reader.errors)
    unknown = check_known(item, _SUBJECT_FIELDS, "spec.subject")
    reader.errors += unknown
    field = "" if unknown else reader.exactly_one(item, "spec.subject")
    return reader.selection(field, item, "spec.subject") if field else everything


def _decode_rules(raw: object, path: str, peers_field: str, reader: _Reader) -> tuple[PolicyRule, ...]:
    return tuple(_decode_rule(each, at, peers_field, reader) for each, at in reader.items(raw, path))


def _decode_rule(raw: object, path: str, peers_field: str, reader: _Reader) -> PolicyRule:
    rule = expect_object(raw, path, reader.errors)
    reader.errors += check_known(rule, frozenset({"name", "action", peers_field, "protocols"}), path)
    name = expect_text(rule.get("name"), f"{path}.name", reader.errors)
    if len(name) > RULE_NAME_LENGTH:
        reader.errors.append(invalid(f"{path}.name", name, f"must be no more than {RULE_NAME_LENGTH} characters"))
    action = rule.get("action")
    if not isinstance(action, str) or action not in {str(each) for each in Action}:
        complaint = unsupported(f"{path}.action", action, Action) if action else required(f"{path}.action")
        reader.errors.append(complaint)
        action = Action.DENY
    kinds: set[str] = set()
    peers: list[Peer] = []
    for each, at in reader.items(rule.get(peers_field), f"{path}.{peers_field}", least=1):
        kind, read = _decode_peer(each, at, peers_field, reader)
        kinds.add(kind)
        peers += read
    ports, has_names, unknown_protocols = _decode_protocols(rule.get("protocols"), f"{path}.protocols", reader)
    if has_names and kinds & _NAMELESS_PEERS:
        detail = "networks/nodes/domainNames peer cannot be set with namedPorts"
        reader.errors.append(invalid(path, {"name": name}, f"{detail}, which only pods have"))
    decoded = PolicyRule(Action(action), tuple(peers), ports, name)
    unknown = [peer.text for peer in peers if isinstance(peer, UnknownPeer)] + unknown_protocols
    return _fail_closed(decoded, unknown, path, reader) if unknown else decoded


def _fail_closed(rule: PolicyRule, unknown: list[str], path: str, reader: _Reader) -> PolicyRule:
    """Return what stands for a rule with parts that are not enforced, with a notice of it."""
    what = ", ".join(unknown)
    if rule.action is not Action.ACCEPT:
        text = f"{what}: not enforced; the {rule.action} rule denies everything instead"
        reader.notices.append(Notice(path, text))
        return PolicyRule(Action.DENY, None, None, rule.name)
    if all(text.startswith("domain names ") for text in unknown):
        # Known, only not done: the rule's other peers keep their meaning.
        reader.notices.append(Notice(path, f"{what}: not enforced; nothing is accepted by them"))
        return rule
    reader.notices.append(Notice(path, f"{what}: not enforced; the rule accepts nothing"))
    return replace(rule, peers=())


def _decode_peer(raw: object, path: str, peers_field: str, reader: _Reader) -> tuple[str, tuple[Peer, ...]]:
    """Return the kind of a peer and what it stands for: several CIDRs are as many peers."""
    item = expect_object(raw, path, reader.errors)
    known = _INGRESS_PEERS if peers_field == "from" else _EGRESS_PEERS
    kind = reader.exactly_one(item, path)
    if not kind:
        return kind, ()
    if kind not in known:
        return kind, (UnknownPeer(f"peer {kind!r}"),)
    at = f"{path}.{kind}"
    if kind == "nodes":
        return kind, (NodePeer(decode_selector(item[kind], at, reader.errors)),)
    if kind == "networks":
        return kind, tuple(_decode_networks(item[kind], at, reader))
    if kind == "domainNames":
        return kind, (_decode_domain_names(item[kind], at, reader),)
    return kind, (PodPeer(reader.selection(kind, item, path)),)


def _decode_networks(raw: object, path: str, reader: _Reader) -> list[Peer]:
    peers: list[Peer] = []
    seen: set[object] = set()
    for each, at in reader.items(raw, path, least=1):
        text = expect_text(each, at, reader.errors)
        if len(text) > CIDR_LENGTH or not is_strict_cidr(text):
            reader.errors.append(invalid(at, each, "Invalid CIDR format provided"))
            continue
        if text in seen:
            reader.errors.append(FieldError(at, f'Duplicate value: "{text}"'))
        seen.add(text)
        peers.append(BlockPeer(parse_block(text)))
    return peers


def _decode_domain_names(raw: object, path: str, reader: _Reader) -> Peer:
    names = []
    for each, at in reader.items(raw, path, least=1):
        text = expect_text(each, at, reader.errors)
        if not _DOMAIN_NAME.fullmatch(text):
            reader.errors.append(invalid(at, each, "must be a domain name, with '*.' before it or not"))
        names.append(text)
    return UnknownPeer(f"domain names {', '.join(names)}")


def _decode_protocols(raw: object, path: str, reader: _Reader) -> tuple[tuple[PortMatch, ...] | None, bool, list[str]]:
    """Return the ports, whether one is named, and what is not known here."""
    if raw is None:
        return None, False, []
    matches: list[PortMatch] = []
    unknown = []
    has_names = False
    for each, at in reader.items(raw, path, least=1):
        item = expect_object(each, at, reader.errors)
        kind = reader.exactly_one(item, at)
        if kind == "destinationNamedPort":
            has_names = True
            name = expect_text(item[kind], f"{at}.{kind}", reader.errors)
            matches.append(PortMatch(None, name=name))
        elif kind in {"tcp", "udp", "sctp"}:
            matches.append(_decode_protocol(PROTOCOLS[kind.upper()], item[kind], f"{at}.{kind}", reader))
        elif kind:
            unknown.append(f"protocol {kind!r}")
    return tuple(matches), has_names, unknown


def _decode_protocol(protocol: int, raw: object, path: str, reader: _Reader) -> PortMatch:
    errors = reader.errors
    item = expect_object(raw, path, errors)
    errors += check_known(item, frozenset({"destinationPort"}), path)
    port = item.get("destinationPort")
    if port is None:
        errors.append(required(f"{path}.destinationPort"))
        return PortMatch(protocol)
    path = f"{path}.destinationPort"
    port = expect_object(port, path, errors)
    errors += check_known(port, frozenset({"number", "range"}), path)
    kind = reader.exactly_one(port, path)
    if kind == "number":
        number = expect_port_number(port[kind], f"{path}.number", errors)
        return PortMatch(protocol, (number, number))
    if kind != "range":
        return PortMatch(protocol)
    limits = expect_object(port[kind], f"{path}.range", errors)
    errors += check_known(limits, frozenset({"start", "end"}), f"{path}.range")
    first = expect_port_number(limits.get("start"), f"{path}.range.start", errors)
    last = expect_port_number(limits.get("end"), f"{path}.range.end", errors)
    if first >= last:
        errors.append(invalid(f"{path}.range", dict(limits), "Start port must be less than End port"))
    return PortMatch(protocol, (first, last))
