from __future__ import annotations

import json
from typing import Any

import pytest

from agent.policy_cases import CaseError, answers, has_expectations, read_cases, report, results
from inet.prefix import Family

CASE: dict[str, Any] = {
    "name": "one",
    "nodes": [{"name": "n1", "ip": "172.18.0.1"}],
    "pods": [
        {"ns": "x", "name": "a", "ip": "10.0.0.1", "labels": {"app": "a"}, "node": "n1"},
        {"ns": "x", "name": "b", "ip": "10.0.0.2", "labels": {"app": "b"}, "node": "n1"},
    ],
    "policies": [
        {"metadata": {"name": "b-in", "namespace": "x"}, "spec": {"podSelector": {"matchLabels": {"app": "b"}}}}
    ],
    "probes": [
        {"from": "x/a", "to": "x/b", "port": 80, "protocol": "TCP"},
        {"from": "x/b", "to": "x/a", "port": 80, "protocol": "TCP"},
    ],
}


def expecting(*expected: str) -> dict[str, Any]:
    return CASE | {"probes": [probe | {"expect": each} for probe, each in zip(CASE["probes"], expected, strict=True)]}


@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)
@pytest.mark.parametrize("engine", ["ir", "nft"])
def test_a_case_without_expectations_is_answered_probe_by_probe(engine: str, family: Family) -> None:
    cases = read_cases(json.dumps(CASE), family)
    assert not has_expectations(cases)
    assert answers(cases, engine) == ["deny", "allow"]


def test_a_file_of_cases_is_compared_case_by_case() -> None:
    file = {"cases": [expecting("deny", "allow"), expecting("allow", "allow") | {"name": "two"}]}
    cases = read_cases(json.dumps(file), Family.IPV4)
    assert has_expectations(cases)
    one, two = (report(*each) for each in results(cases, "ir"))
    assert (one.name, one.probes, one.has_passed) == ("one", 2, True)
    assert (two.name, two.has_passed) == ("two", False)
    (difference,) = two.differences
    assert (difference.source, difference.destination, difference.expected, difference.got) == (
        "x/a", "x/b", "allow", "deny",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not JSON: "),
        ('{"cases": 5}', "cases is not a list"),
        ("[]", "case 0 is not an object"),
        (json.dumps(CASE | {"probes": [{"from": "x/a", "to": "x/ghost", "port": 1, "protocol": "TCP"}]}), "one: "),
        (json.dumps(CASE | {"probes": [{"from": "x/a"}]}), "one: 'to' is missing"),
        (
            json.dumps(CASE | {"policies": [{"metadata": {"name": "p"}, "spec": {"podSelector": 3}}]}),
            "one: spec.podSelector",
        ),
        (json.dumps({"pods": 7}), "case 0: "),
    ],
    ids=["no JSON", "no list", "no object", "unknown end", "missing end", "refused policy", "wrong type"],
)
def test_what_cannot_be_run_says_why(text: str, complaint: str) -> None:
    with pytest.raises(CaseError, match=f"^{complaint}"):
        read_cases(text, Family.IPV4)
