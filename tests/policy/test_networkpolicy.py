from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from policy.cidr import parse_block
from policy.fields import RefusedError
from policy.networkpolicy import decode_network_policy
from policy.policies import BlockPeer, PodPeer, Policy, PortMatch, Selection
from policy.selector import EVERYTHING, selector_of_labels

VALIDATION = yaml.safe_load((Path(__file__).parent / "cases" / "netpol-validation.yaml").read_text(encoding="utf-8"))


def policy(**spec: Any) -> Policy:
    return decode_network_policy(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"podSelector": {}, **spec},
        }
    )


def refusal(**spec: Any) -> str:
    with pytest.raises(RefusedError) as refused:
        policy(**spec)
    return str(refused.value)


def port(**fields: Any) -> dict[str, Any]:
    return {"ingress": [{"ports": [fields]}]}


@pytest.mark.parametrize(
    ("spec", "ingress", "egress"),
    [
        pytest.param({}, True, False, id="nothing said: isolated inwards"),
        pytest.param({"ingress": []}, True, False, id="an empty list isolates as a missing one does"),
        pytest.param({"egress": []}, True, False, id="an empty egress list says nothing about egress"),
        pytest.param({"egress": [{}]}, True, True, id="an egress rule brings egress in"),
        pytest.param({"policyTypes": []}, True, False, id="an empty policyTypes is a missing one"),
        pytest.param({"policyTypes": ["Egress"], "ingress": [{}]}, False, True, id="what policyTypes leave out is off"),
        pytest.param({"policyTypes": ["Egress", "Ingress"]}, True, True, id="both"),
    ],
)
def test_policy_types_and_their_defaults(spec: dict[str, Any], *, ingress: bool, egress: bool) -> None:
    read = policy(**spec)
    assert (read.ingress is not None) is ingress
    assert (read.egress is not None) is egress


@pytest.mark.parametrize("rule", [{}, {"from": []}, {"from": None, "ports": None}, {"ports": []}, None])
def test_an_empty_rule_matches_everything(rule: object) -> None:
    (read,) = policy(ingress=[rule]).ingress or ()
    assert read.peers is None
    assert read.ports is None


def test_peers_of_every_kind() -> None:
    labels = {"matchLabels": {"a": "b"}}
    (rule,) = (
        policy(
            egress=[
                {
                    "to": [
                        {"podSelector": labels},
                        {"namespaceSelector": labels},
                        {"namespaceSelector": {}, "podSelector": labels},
                        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                    ]
                }
            ]
        ).egress
        or ()
    )
    selector = selector_of_labels({"a": "b"})
    assert rule.peers == (
        PodPeer(Selection("shop", None, selector), is_own_namespace=True),
        PodPeer(Selection(None, selector, EVERYTHING)),
        PodPeer(Selection(None, EVERYTHING, selector)),
        BlockPeer(parse_block("10.0.0.0/8"), (parse_block("10.1.0.0/16"),)),
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, PortMatch(6)),
        ({"protocol": "UDP"}, PortMatch(17)),
        ({"port": 80}, PortMatch(6, (80, 80))),
        ({"protocol": "SCTP", "port": 80, "endPort": 90}, PortMatch(132, (80, 90))),
        ({"protocol": "UDP", "port": "dns"}, PortMatch(17, name="dns")),
    ],
)
def test_ports_of_every_kind(fields: dict[str, Any], expected: PortMatch) -> None:
    (rule,) = policy(**port(**fields)).ingress or ()
    assert rule.ports == (expected,)


@pytest.mark.parametrize("case", VALIDATION["cases"], ids=lambda case: case["name"])
def test_end_ports_as_the_api_takes_them(case: dict[str, Any]) -> None:
    spec = {"egress": [{"ports": [{"protocol": "TCP", **case["port"]}]}]}
    if case["valid"]:
        assert policy(**spec).egress
    else:
        assert ".endPort: Invalid value: 20000: " in refusal(**spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (port(port=0), "spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"),
        (port(port=65536), "ports[0].port: Invalid value: 65536: must be between 1"),
        (port(port=True), "ports[0].port: Invalid value: true: must be between 1"),
        (port(port="-http"), 'ports[0].port: Invalid value: "-http": must not begin or end with a hyphen'),
        (port(port="a--b"), "must not contain consecutive hyphens"),
        (port(port="1234"), "must contain at least one letter (a-z)"),
        (port(port="sixteen-letters-"), "must be no more than 15 characters"),
        (port(port=""), "must contain only alphanumeric"),
        (port(protocol="ICMP"), 'ports[0].protocol: Unsupported value: "ICMP": supported values: "TCP", "UDP", "SCTP"'),
        (port(protocol="tcp"), 'Unsupported value: "tcp"'),
        (port(port=1, endPort=70000), "ports[0].endPort: Invalid value: 70000: must be between 1"),
        (port(port=9, endPort=8), "endPort: Invalid value: 8: must be greater than or equal to `port`"),
        (port(port="web", endPort=8), "endPort: Invalid value: 8: may not be specified when `port` is non-numeric"),
        (port(endPort=8), "endPort: Invalid value: 8: may not be specified when `port` is not specified"),
        (port(Port=8), "spec.ingress[0].ports[0].Port: unknown field"),
        ({"ingress": [{"from": [{}]}]}, "spec.ingress[0].from[0]: Required value: must specify a peer"),
        (
            {"ingress": [{"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}]},
            "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer",
        ),
        ({"egress": [{"to": [{"ipBlock": {}}]}]}, "spec.egress[0].to[0].ipBlock.cidr: Required value"),
        (
            {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/40"}}]}]},
            'spec.egress[0].to[0].ipBlock.cidr: Invalid value: "10.0.0.0/40": must be a valid CIDR value',
        ),
        (
            {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]},
            'ipBlock.except[0]: Invalid value: "11.0.0.0/16": must be a strict subset of `cidr`',
        ),
        (
            {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}]}]},
            "must be a strict subset of `cidr`",
        ),
        (
            {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["fd00::/64"]}}]}]},
            "must be a strict subset of `cidr`",
        ),
        ({"egress": [{"from": []}]}, "spec.egress[0].from: unknown field"),
        ({"ingress": [{"to": []}]}, "spec.ingress[0].to: unknown field"),
        ({"podselector": {}}, "spec.podselector: unknown field"),
        (
            {"policyTypes": ["ingress"]},
            'spec.policyTypes[0]: Unsupported value: "ingress": supported values: "Ingress"',
        ),
        ({"policyTypes": ["Ingress"] * 3}, "may not specify more than two policyTypes"),
        ({"ingress": {}}, "spec.ingress: Invalid value: {}: must be a list"),
        ({"podSelector": {"matchLabels": {"a": "b c"}}}, 'spec.podSelector.matchLabels: Invalid value: "b c"'),
        (
            {"ingress": [{"from": [{"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Has"}]}}]}]},
            'namespaceSelector.matchExpressions[0].operator: Invalid value: "Has": not a valid selector operator',
        ),
    ],
)
def test_what_the_api_server_refuses_is_refused(spec: dict[str, Any], message: str) -> None:
    assert message in refusal(**spec)


def test_names_are_checked() -> None:
    with pytest.raises(RefusedError, match=r"metadata.name: Required value"):
        decode_network_policy({"metadata": {"namespace": "shop"}, "spec": {}})
    with pytest.raises(RefusedError, match=r"metadata.name: .*no more than 253 bytes"):
        decode_network_policy({"metadata": {"name": "a" * 254}, "spec": {}})
    assert decode_network_policy({"metadata": {"name": "a" * 253}, "spec": {}}).ref.namespace == "default"


def test_every_complaint_is_listed() -> None:
    text = refusal(ingress=[{"ports": [{"port": 0}], "from": [{}]}], policyTypes=["Up"])
    assert "ports[0].port" in text
    assert "from[0]: Required" in text
    assert "policyTypes[0]" in text
