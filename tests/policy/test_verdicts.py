"""Every probe of the public suites: by the IR and by the text, in both families, on one node and spread over three."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inet.prefix import Family
from policy.fields import RefusedError
from policy.policies import Policy
from policy.verdicts import ENGINES, Case, Cluster, Probe, Result, run
from tests.policy.clusters import engine_of, frozen

CASES = Path(__file__).parent / "cases"
FILES = {"k8s-e2e-netpol.json": 4680, "recipes.json": 1098, "cnp-conformance-admin.json": 146}


def raw_cases(file: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((CASES / file).read_text(encoding="utf-8"))["cases"]
    return cases


@pytest.mark.no_cover  # many times the ways of the tests beside it: to trace each costs as much again
@pytest.mark.parametrize("spread_over", [1, 3], ids=["one node", "three nodes"])
@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("file", FILES)
def test_every_probe_gets_its_verdict(file: str, engine: str, family: Family, spread_over: int) -> None:
    cases = [Case.read(raw, family, spread_over=spread_over) for raw in raw_cases(file)]
    results = [(case.name, result) for case, results in run(cases, engine) for result in results]
    assert [each for each in results if not each[1].is_expected] == []
    assert len(results) == FILES[file]


@pytest.mark.no_cover  # many times the ways of the tests beside it: to trace each costs as much again
@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)
@pytest.mark.parametrize("file", FILES)
def test_every_step_of_a_sequence_ends_where_starting_afresh_does(file: str, family: Family) -> None:
    cluster, steps = Cluster(), 0
    for raw in raw_cases(file):
        case = Case.read(raw, family)
        cluster.move_to(case)  # every case is walked to from the one before, of its sequence or not
        for name, engine in cluster.engines.items():
            assert frozen(engine.ruleset) == frozen(engine_of(case.objects.values(), name).ruleset)
        steps += 1
    assert steps == len(raw_cases(file))


CASE: dict[str, Any] = {
    "namespaces": [{"name": "a", "labels": {"team": "x"}}],
    "pods": [
        {"ns": "a", "name": "p", "labels": {"app": "p"}, "ip": "10.0.0.1", "node": "n1"},
        {"ns": "a", "name": "q", "labels": {"app": "q"}, "ip": "10.0.0.2", "node": "n2"},
        {"ns": "a", "name": "h", "labels": {"app": "h"}, "ip": "172.16.0.1", "node": "n1", "hostNetwork": True},
    ],
    "policies": [{"metadata": {"namespace": "a", "name": "closed"}, "spec": {"podSelector": {}}}],
}


def asked(*probes: tuple[str, str], **changes: Any) -> list[str]:
    listed = [{"from": source, "to": target, "port": 80, "protocol": "TCP"} for source, target in probes]
    case = Case.read({**CASE, "probes": listed, **changes})
    answers = [[result.got for result in results] for engine in ENGINES for _, results in run([case], engine)]
    assert answers[0] == answers[1]
    return answers[0]


def test_pods_nodes_and_addresses_can_be_asked_about() -> None:
    assert asked(("a/p", "a/q"), ("a/p", "ip:192.0.2.1"), ("ip:192.0.2.1", "a/p")) == ["deny", "allow", "deny"]
    assert asked(("node:n1", "a/p"), ("node:n1", "a/q"), ("a/q", "node:n1")) == ["allow", "deny", "allow"]
    assert asked(("a/h", "a/p"), ("a/h", "a/q"), ("a/p", "a/h")) == ["allow", "deny", "allow"]


def test_a_probe_without_expectation_is_never_wrong() -> None:
    assert Result(Probe("a", "b", 1, "TCP"), "deny").is_expected
    assert not Result(Probe("a", "b", 1, "TCP", "allow"), "deny").is_expected


def test_a_matrix_is_its_probes() -> None:
    matrix = {"port": 80, "protocol": "UDP", "rows": ["-X", ".-"], "order": ["a/p", "a/q"]}
    assert Case.read({**CASE, "matrices": [matrix]}).probes == (
        Probe("a/p", "a/q", 80, "UDP", "deny"),
        Probe("a/q", "a/p", 80, "UDP", "allow"),
    )


def test_ipv6_moves_addresses_blocks_and_nothing_else() -> None:
    block = {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}
    policy = {"metadata": {"name": "p"}, "spec": {"podSelector": {}, "ingress": [{"from": [block]}]}}
    probe = {"from": "ip:10.0.0.9", "to": "a/p", "port": 80, "protocol": "TCP"}
    case = Case.read({**CASE, "policies": [policy], "probes": [probe]}, Family.IPV6)
    assert case.probes[0].source == "ip:fd00:10::10.0.0.9"
    read = case.objects["NetworkPolicy", "default/p"]
    assert isinstance(read, Policy)
    assert [str(peer) for rule in read.ingress or () for peer in rule.peers or ()] == [
        "fd00:10::a00:0/104 except fd00:10::a01:0/112"
    ]
    assert len(case.places["a/p"].address) == 16


def test_a_bad_object_of_a_case_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"spec.podSelectr: unknown field"):
        Case.read({**CASE, "policies": [{"metadata": {"name": "p"}, "spec": {"podSelectr": {}}}]})


def test_a_name_that_the_case_does_not_have_is_an_error() -> None:
    with pytest.raises(KeyError, match="a/none"):
        asked(("a/none", "a/p"))
