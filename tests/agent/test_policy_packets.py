"""Cases asked of a real kernel, with packets."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agent.cli.main import app
from agent.policy_cases import read_cases
from agent.policy_packets import run_packets
from inet.prefix import Family

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
]

CASES = Path(__file__).parents[1] / "policy" / "cases"
EVERY_FAMILY = pytest.mark.parametrize("family", ["ipv4", "ipv6"])


def case(policies: list[dict[str, Any]], asked: list[tuple[str, str, str]], **more: Any) -> dict[str, Any]:
    return {
        "name": "packets",
        "nodes": [{"name": "n1", "ip": "172.18.0.1"}, {"name": "n2", "ip": "172.18.0.2"}],
        "pods": [
            {"ns": "x", "name": "a", "labels": {"app": "a"}, "ip": "10.1.0.1", "node": "n1"},
            {"ns": "x", "name": "b", "labels": {"app": "b"}, "ip": "10.1.0.2", "node": "n1"},
            {"ns": "x", "name": "c", "labels": {"app": "c"}, "ip": "10.2.0.1", "node": "n2"},
        ],
        "policies": policies,
        "probes": [{"from": source, "to": to, "port": 80, "protocol": protocol} for source, to, protocol in asked],
    } | more


def policy(name: str, app_label: str, **spec: Any) -> dict[str, Any]:
    selector = {"matchLabels": {"app": app_label}}
    return {"metadata": {"name": name, "namespace": "x"}, "spec": {"podSelector": selector, **spec}}


def answers(asked: dict[str, Any], family: str, engine: str = "kernel") -> list[str]:
    words = ["policy", "verdicts", "-", "--engine", engine, "--family", family]
    result = CliRunner().invoke(app, words, input=json.dumps(asked))
    assert result.exit_code == 0, result.stderr
    got: list[str] = json.loads(result.stdout)
    return got


@EVERY_FAMILY
def test_packets_say_what_the_rules_say_on_one_node_across_two_and_to_and_from_outside(family: str) -> None:
    only_a = policy("b-in", "b", ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}]}])
    no_way_out = policy("c-out", "c", policyTypes=["Egress"], egress=[{"ports": [{"port": 80, "protocol": "UDP"}]}])
    ends = [
        *(("x/a", "x/b"), ("x/c", "x/b"), ("x/c", "x/a"), ("x/a", "x/c"), ("node:n1", "x/b"), ("node:n2", "x/b")),
        *(("x/c", "node:n2"), ("x/c", "node:n1"), ("x/c", "ip:192.0.2.9")),
        *(("ip:192.0.2.9", "x/b"), ("ip:192.0.2.9", "x/a")),
    ]  # fmt: skip
    asked = case([only_a, no_way_out], [(*each, protocol) for protocol in ("TCP", "UDP") for each in ends])
    wanted = answers(asked, family, "ir")
    assert {"allow", "deny"} == set(wanted)
    assert answers(asked, family) == wanted


def test_a_probe_asked_twice_is_answered_twice() -> None:
    deny = policy("b-in", "b")
    assert answers(case([deny], [("x/a", "x/b", "TCP")] * 2 + [("x/b", "x/a", "TCP")]), "ipv4") == [
        "deny",
        "deny",
        "allow",
    ]


def test_states_of_one_cluster_follow_each_other(tmp_path: Path) -> None:
    probe = {"from": "x/a", "to": "x/b", "port": 80, "protocol": "UDP"}
    steps = [
        case(policies, [], sequence="s", step=step, probes=[{**probe, "expect": expect}])
        for step, (policies, expect) in enumerate([([], "allow"), ([policy("b-in", "b")], "deny"), ([], "allow")])
    ]
    file = tmp_path / "cases.json"
    file.write_text(json.dumps({"cases": steps}))
    result = CliRunner().invoke(app, ["policy", "verdicts", str(file), "--engine", "kernel"])
    assert result.stdout.splitlines()[-1] == "3 passed, 0 failed"
    assert not list(Path("/run/netns").glob(f"tpk{os.getpid()}-*"))


def test_what_comes_out_is_what_packets_did_whatever_was_expected() -> None:
    asked = case([policy("b-in", "b")], [])
    asked["probes"] = [
        {"from": "x/a", "to": to, "port": 80, "protocol": protocol, "expect": expect}
        for to, expect in (("x/b", "allow"), ("x/c", "deny"), ("x/c", "perhaps"))
        for protocol in ("TCP", "UDP")
    ]
    ((_, found, _),) = run_packets(read_cases(json.dumps(asked), Family.IPV4))
    assert [each.got for each in found] == ["deny", "deny", *["allow"] * 4]


SUITES = ("k8s-e2e-netpol.json", "recipes.json", "cnp-conformance-admin.json")


def passes(file: str, family: str) -> None:
    words = ["policy", "verdicts", str(CASES / file), "--engine", "kernel", "--family", family]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.stdout
    assert result.stdout.splitlines()[-1].endswith(" passed, 0 failed")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("file", SUITES)
def test_the_public_suites_pass_with_packets_of_ipv4(file: str) -> None:
    passes(file, "ipv4")
