from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.objects import Problem
from agent.objects.problem import Path, field_path, show


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (
            Problem(
                kind="BGPPeer",
                name="rack-a-tor-1",
                field="spec.peerASN",
                message="4294967296 is not an AS number (1 to 4294967295)",
                consequence="The last good version stays in force.",
            ),
            (
                "BGPPeer rack-a-tor-1: spec.peerASN: 4294967296 is not an AS number (1 to 4294967295). "
                "The last good version stays in force."
            ),
        ),
        (
            Problem(file="d/a.yaml", line=7, kind="Secret", namespace="shop", name="bgp", message="is wrong"),
            "d/a.yaml:7: Secret shop/bgp: is wrong",
        ),
        (Problem(file="d/a.yaml", message="permission denied"), "d/a.yaml: permission denied"),
        (
            Problem(file="d/a.yaml", line=1, kind="BGPPeer", field="metadata", message="x"),
            "d/a.yaml:1: BGPPeer: metadata: x",
        ),
    ],
)
def test_a_problem_is_one_line(problem: Problem, line: str) -> None:
    assert str(problem) == line


def test_a_problem_as_json_has_the_facts_that_apply() -> None:
    problem = Problem(file="a.yaml", line=7, kind="BGPPeer", name="x", field="spec.port", message="no", found="0")

    assert problem.to_json() == {
        "file": "a.yaml",
        "line": 7,
        "kind": "BGPPeer",
        "name": "x",
        "field": "spec.port",
        "message": "no",
        "found": "0",
    }
    assert json.dumps(problem.to_json())


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("spec", "peerASN"), "spec.peerASN"),
        (("spec", "import", "accept", 0, "cidr"), "spec.import.accept[0].cidr"),
        (("metadata", "labels", "example.com/x"), "metadata.labels[example.com/x]"),
    ],
)
def test_a_field_is_named_as_people_write_it(path: Path, text: str) -> None:
    assert field_path(path) == text


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_a_value_is_shown_short_and_on_one_line(value: object) -> None:
    shown = show(value)

    assert shown
    assert len(shown) < 700
    assert shown.isprintable()
