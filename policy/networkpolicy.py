"""Read networking.k8s.io/v1 NetworkPolicy objects.

What the API server would refuse is refused here with its field and reason, and so are unknown fields, which kubectl
refuses: a misspelt selector would select everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from policy.cidr import Block, parse_block
from policy.fields import (
    FieldError,
    RefusedError,
    check_known,
    expect_list,
    expect_name,
    expect_object,
    expect_port_number,
    expect_text,
    forbidden,
    invalid,
    port_name_problems,
    required,
    unsupported,
)
from policy.objects import PROTOCOLS
from policy.policies import (
    NETWORK_POLICY,
    Action,
    BlockPeer,
    Peer,
    PodPeer,
    Policy,
    PolicyRef,
    PolicyRule,
    PortMatch,
    Selection,
    Tier,
)
from policy.selector import EVERYTHING, decode_selector

_SPEC_FIELDS: Final = frozenset({"podSelector", "policyTypes", "ingress", "egress"})
_PEER_FIELDS: Final = frozenset({"podSelector", "namespaceSelector", "ipBlock"})
_PORT_FIELDS: Final = frozenset({"protocol", "port", "endPort"})
_BLOCK_FIELDS: Final = frozenset({"cidr", "except"})
_TYPES: Final = ("Ingress", "Egress")


def decode_network_policy(raw: Mapping[str, Any]) -> Policy:
    """Read a NetworkPolicy. Raises RefusedError with every complaint."""
    errors: list[FieldError] = []
    meta = expect_object(raw.get("metadata"), "metadata", errors)
    namespace = expect_name(meta.get("namespace") or "default", "metadata.namespace", errors)
    name = expect_name(meta.get("name"), "metadata.name", errors)
    spec = expect_object(raw.get("spec") or {}, "spec", errors)
    errors += check_known(spec, _SPEC_FIELDS, "spec")
    subject = decode_selector(spec.get("podSelector") or {}, "spec.podSelector", errors)
    ingress = _decode_rules(spec.get("ingress"), "spec.ingress", "from", namespace, errors)
    egress = _decode_rules(spec.get("egress"), "spec.egress", "to", namespace, errors)
    types = _decode_types(spec, errors)
    if errors:
        raise RefusedError(errors)
    return Policy(
        ref=PolicyRef(NETWORK_POLICY, namespace, name),
        tier=Tier.NETWORK_POLICY,
        priority=0,
        subject=Selection(namespace, None, subject),
        ingress=ingress if "Ingress" in types else None,
        egress=egress if "Egress" in types else None,
    )


def _decode_types(spec: Mapping[str, Any], errors: list[FieldError]) -> tuple[str, ...]:
    """Return policyTypes; where there are none, Ingress, and Egress if there is an egress rule."""
    raw = expect_list(spec.get("policyTypes"), "spec.policyTypes", errors)
    if not raw:
        return _TYPES if spec.get("egress") else ("Ingress",)
    if len(raw) > len(_TYPES):
        errors.append(invalid("spec.policyTypes", spec["policyTypes"], "may not specify more than two policyTypes"))
    errors += [unsupported(path, each, _TYPES) for each, path in raw if each not in _TYPES]
    return tuple(each for each, _path in raw)


def _decode_rules(
    raw: object, path: str, peers_field: str, namespace: str, errors: list[FieldError]
) -> tuple[PolicyRule, ...]:
    return tuple(_decode_rule(each, at, peers_field, namespace, errors) for each, at in expect_list(raw, path, errors))


def _decode_rule(raw: object, path: str, peers_field: str, namespace: str, errors: list[FieldError]) -> PolicyRule:
    rule = expect_object({} if raw is None else raw, path, errors)
    errors += check_known(rule, frozenset({"ports", peers_field}), path)
    ports = tuple(
        _decode_port(each, at, errors) for each, at in expect_list(rule.get("ports"), f"{path}.ports", errors)
    )
    peers = tuple(
        _decode_peer(each, at, namespace, errors)
        for each, at in expect_list(rule.get(peers_field), f"{path}.{peers_field}", errors)
    )
    # An empty list says the same as none: everything.
    return PolicyRule(Action.ACCEPT, peers or None, ports or None)


def _decode_port(raw: object, path: str, errors: list[FieldError]) -> PortMatch:
    item = expect_object({} if raw is None else raw, path, errors)
    errors += check_known(item, _PORT_FIELDS, path)
    protocol = item.get("protocol")
    if protocol is None:
        protocol = "TCP"
    if not isinstance(protocol, str) or protocol not in PROTOCOLS:
        errors.append(unsupported(f"{path}.protocol", protocol, PROTOCOLS))
        protocol = "TCP"
    number = PROTOCOLS[protocol]
    port, end = item.get("port"), item.get("endPort")
    if isinstance(port, str):
        if end is not None:
            errors.append(invalid(f"{path}.endPort", end, "may not be specified when `port` is non-numeric"))
        errors += [invalid(f"{path}.port", port, problem) for problem in port_name_problems(port)]
        return PortMatch(number, name=port)
    if port is None:
        if end is not None:
            errors.append(invalid(f"{path}.endPort", end, "may not be specified when `port` is not specified"))
        return PortMatch(number)
    first = expect_port_number(port, f"{path}.port", errors)
    last = first if end is None else expect_port_number(end, f"{path}.endPort", errors)
    if last < first:
        errors.append(invalid(f"{path}.endPort", end, "must be greater than or equal to `port`"))
    return PortMatch(number, (first, last))


def _decode_peer(raw: object, path: str, namespace: str, errors: list[FieldError]) -> Peer:
    item = expect_object({} if raw is None else raw, path, errors)
    errors += check_known(item, _PEER_FIELDS, path)
    pods, namespaces, block = item.get("podSelector"), item.get("namespaceSelector"), item.get("ipBlock")
    if pods is None and namespaces is None and block is None:
        errors.append(required(path, "must specify a peer"))
    if block is not None:
        if pods is not None or namespaces is not None:
            errors.append(forbidden(path, "may not specify both ipBlock and another peer"))
        return _decode_block(block, f"{path}.ipBlock", errors)
    pod_selector = EVERYTHING if pods is None else decode_selector(pods, f"{path}.podSelector", errors)
    if namespaces is None:
        return PodPeer(Selection(namespace, None, pod_selector), is_own_namespace=True)
    namespace_selector = decode_selector(namespaces, f"{path}.namespaceSelector", errors)
    return PodPeer(Selection(None, namespace_selector, pod_selector))


def _decode_block(raw: object, path: str, errors: list[FieldError]) -> BlockPeer:
    item = expect_object(raw, path, errors)
    errors += check_known(item, _BLOCK_FIELDS, path)
    if not item.get("cidr"):
        errors.append(required(f"{path}.cidr"))
        return BlockPeer(parse_block("0.0.0.0/0"))
    block = _expect_block(item["cidr"], f"{path}.cidr", errors)
    exceptions = []
    for each, at in expect_list(item.get("except"), f"{path}.except", errors):
        exception = _expect_block(each, at, errors)
        if block is not None and exception is not None:
            exceptions.append(exception)
            if not block.holds(exception):
                errors.append(invalid(at, each, "must be a strict subset of `cidr`"))
    return BlockPeer(block or parse_block("0.0.0.0/0"), tuple(exceptions))


def _expect_block(raw: object, path: str, errors: list[FieldError]) -> Block | None:
    text = expect_text(raw, path, errors)
    try:
        return parse_block(text)
    except ValueError as error:
        errors.append(invalid(path, raw, str(error)))
        return None
