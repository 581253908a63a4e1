from __future__ import annotations

from typing import Any

import pytest

from policy.cidr import parse_block
from policy.clusterpolicy import decode_cluster_network_policy
from policy.fields import RefusedError
from policy.policies import (
    Action,
    BlockPeer,
    NodePeer,
    PodPeer,
    Policy,
    PolicyRule,
    PortMatch,
    Selection,
    Tier,
    UnknownPeer,
)
from policy.selector import EVERYTHING, selector_of_labels

EVERY_NAMESPACE = [{"namespaces": {}}]
EVERY_POD = PodPeer(Selection(None, EVERYTHING, EVERYTHING))


def policy(**spec: Any) -> Policy:
    whole = {"tier": "Admin", "priority": 10, "subject": {"namespaces": {}}, **spec}
    return decode_cluster_network_policy(
        {"metadata": {"name": "rules"}, "spec": {key: value for key, value in whole.items() if value != "absent"}}
    )


def refusal(**spec: Any) -> str:
    with pytest.raises(RefusedError) as refused:
        policy(**spec)
    return str(refused.value)


def ingress(**rule: Any) -> dict[str, Any]:
    return {"ingress": [{"action": "Accept", "from": EVERY_NAMESPACE, **rule}]}


def egress(*to: dict[str, Any], action: str = "Accept", **rule: Any) -> dict[str, Any]:
    return {"egress": [{"action": action, "to": list(to), **rule}]}


def test_tiers_and_priorities() -> None:
    admin, baseline = policy(priority=7), policy(tier="Baseline", priority=0)
    assert (admin.tier, admin.priority) == (Tier.ADMIN, 7)
    assert (baseline.tier, baseline.priority) == (Tier.BASELINE, 0)
    assert admin.ingress is None  # a policy without rules says nothing, and isolates nobody
    assert admin.egress is None


def test_subjects() -> None:
    selector = {"matchLabels": {"a": "b"}}
    labels = selector_of_labels({"a": "b"})
    assert policy(subject={"namespaces": selector}).subject == Selection(None, labels, EVERYTHING)
    both = {"pods": {"namespaceSelector": {}, "podSelector": selector}}
    assert policy(subject=both).subject == Selection(None, EVERYTHING, labels)
    assert policy(subject={"pods": {"podSelector": selector}}).subject == Selection(None, EVERYTHING, labels)


def test_egress_peers_of_every_kind() -> None:
    (rule,) = (
        policy(
            **egress(
                {"namespaces": {}},
                {"pods": {"namespaceSelector": {}, "podSelector": {}}},
                {"nodes": {"matchLabels": {"rack": "a"}}},
                {"networks": ["10.0.0.0/8", "fd00::/8"]},
                action="Deny",
            )
        ).egress
        or ()
    )
    assert rule == PolicyRule(
        Action.DENY,
        (
            EVERY_POD,
            EVERY_POD,
            NodePeer(selector_of_labels({"rack": "a"})),
            BlockPeer(parse_block("10.0.0.0/8")),
            BlockPeer(parse_block("fd00::/8")),
        ),
    )


def test_protocols_of_every_kind() -> None:
    protocols = [
        {"tcp": {"destinationPort": {"number": 80}}},
        {"udp": {"destinationPort": {"range": {"start": 1, "end": 65535}}}},
        {"sctp": {"destinationPort": {"number": 9}}},
        {"destinationNamedPort": "http"},
    ]
    (rule,) = policy(**ingress(name="web", protocols=protocols)).ingress or ()
    assert rule.name == "web"
    assert rule.ports == (
        PortMatch(6, (80, 80)),
        PortMatch(17, (1, 65535)),
        PortMatch(132, (9, 9)),
        PortMatch(None, name="http"),
    )


def test_domain_names_are_read_not_enforced_and_said() -> None:
    read = policy(**egress({"domainNames": ["*.example.com", "example.org."]}, {"namespaces": {}}))
    (rule,) = read.egress or ()
    assert rule.peers == (UnknownPeer("domain names *.example.com, example.org."), EVERY_POD)
    assert rule.action is Action.ACCEPT
    (notice,) = read.notices
    assert str(notice) == (
        "spec.egress[0]: domain names *.example.com, example.org.: not enforced; nothing is accepted by them"
    )


@pytest.mark.parametrize("action", ["Deny", "Pass"])
def test_a_deny_that_cannot_be_judged_denies_everything(action: str) -> None:
    read = policy(**egress({"domainNames": ["example.com"]}, action=action))
    assert read.egress == (PolicyRule(Action.DENY),)
    assert f"the {action} rule denies everything instead" in str(read.notices[0])


def test_a_peer_of_a_newer_api_fails_closed() -> None:
    newer = {"serviceAccounts": {"matchLabels": {}}}
    accepting = policy(**egress({"namespaces": {}}, newer))
    assert [rule.peers for rule in accepting.egress or ()] == [()]
    assert str(accepting.notices[0]) == "spec.egress[0]: peer 'serviceAccounts': not enforced; the rule accepts nothing"
    denying = policy(**ingress(action="Deny", **{"from": [newer]}))
    assert denying.ingress == (PolicyRule(Action.DENY),)


def test_a_protocol_of_a_newer_api_fails_closed() -> None:
    accepting = policy(**ingress(protocols=[{"icmp": {"type": 8}}, {"tcp": {"destinationPort": {"number": 1}}}]))
    assert [rule.peers for rule in accepting.ingress or ()] == [()]
    assert "protocol 'icmp'" in str(accepting.notices[0])


TOO_MANY = [{"action": "Deny", "from": EVERY_NAMESPACE}] * 26


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"tier": "absent"}, "spec.tier: Required value"),
        (
            {"tier": "NetworkPolicy"},
            'spec.tier: Unsupported value: "NetworkPolicy": supported values: "Admin", "Baseline"',
        ),
        ({"priority": "absent"}, "spec.priority: Invalid value: null: must be a number from 0 to 1000"),
        ({"priority": 1001}, "spec.priority: Invalid value: 1001"),
        ({"priority": -1}, "spec.priority: Invalid value: -1"),
        ({"subject": "absent"}, "spec.subject: Required value"),
        ({"subject": {}}, "spec.subject: Invalid value: {}: exactly one field must be set, found none"),
        (
            {"subject": {"namespaces": {}, "pods": {"podSelector": {}}}},
            "exactly one field must be set, found namespaces, pods",
        ),
        ({"subject": {"nodes": {}}}, "spec.subject.nodes: unknown field"),
        ({"subject": {"pods": {}}}, "spec.subject.pods.podSelector: Required value"),
        ({"ingress": TOO_MANY}, "spec.ingress: Too many: 26: must have at most 25 items"),
        (
            ingress(action="Allow"),
            'spec.ingress[0].action: Unsupported value: "Allow": supported values: "Accept", "Deny"',
        ),
        (ingress(action=None), "spec.ingress[0].action: Required value"),
        (ingress(name="x" * 101), "spec.ingress[0].name: Invalid value"),
        (ingress(**{"from": []}), "spec.ingress[0].from: Required value: must have at least one item"),
        (ingress(**{"from": EVERY_NAMESPACE * 26}), "spec.ingress[0].from: Too many: 26"),
        (ingress(**{"from": [{}]}), "spec.ingress[0].from[0]: Invalid value: {}: exactly one field must be set"),
        (ingress(to=[]), "spec.ingress[0].to: unknown field"),
        (ingress(protocols=[]), "spec.ingress[0].protocols: Required value: must have at least one item"),
        (ingress(protocols=[{}]), "spec.ingress[0].protocols[0]: Invalid value: {}: exactly one field must be set"),
        (ingress(protocols=[{"tcp": {}}]), "protocols[0].tcp.destinationPort: Required value"),
        (
            ingress(protocols=[{"tcp": {"destinationPort": {"number": 0}}}]),
            "protocols[0].tcp.destinationPort.number: Invalid value: 0: must be between 1 and 65535",
        ),
        (
            ingress(protocols=[{"tcp": {"destinationPort": {"range": {"start": 5, "end": 5}}}}]),
            "Start port must be less than End port",
        ),
        (egress({"networks": []}), "spec.egress[0].to[0].networks: Required value"),
        (egress({"networks": ["10.0.0.0"]}), 'networks[0]: Invalid value: "10.0.0.0": Invalid CIDR format provided'),
        (egress({"networks": ["10.0.0.0/8"] * 2}), 'networks[1]: Duplicate value: "10.0.0.0/8"'),
        (egress({"networks": [f"10.{n}.0.0/16" for n in range(26)]}), "networks: Too many: 26"),
        (egress({"domainNames": ["a.*.com"]}), 'domainNames[0]: Invalid value: "a.*.com": must be a domain name'),
        (egress({"domainNames": ["com"]}), "must be a domain name"),
        (
            egress({"networks": ["10.0.0.0/8"]}, protocols=[{"destinationNamedPort": "web"}]),
            "networks/nodes/domainNames peer cannot be set with namedPorts",
        ),
        (
            egress({"nodes": {"matchExpressions": [{"key": "a", "operator": "Near", "values": ["b"]}]}}),
            "spec.egress[0].to[0].nodes.matchExpressions[0].operator: Invalid value",
        ),
        ({"Ingress": []}, "spec.Ingress: unknown field"),
    ],
)
def test_what_the_api_server_refuses_is_refused(spec: dict[str, Any], message: str) -> None:
    assert message in refusal(**spec)


def test_nodes_and_networks_are_no_peers_of_ingress() -> None:
    # The API has no such fields there, so they are of an API newer than this, and fail closed.
    assert policy(**ingress(**{"from": [{"networks": ["10.0.0.0/8"]}]})).notices
