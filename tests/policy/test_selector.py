from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.fields import FieldError, RefusedError
from policy.selector import EVERYTHING, Operator, Requirement, Selector, decode_selector, selector_of_labels

WEB = {"app": "web", "tier": "front"}


def read(raw: object) -> Selector:
    errors: list[FieldError] = []
    selector = decode_selector(raw, "spec.podSelector", errors)
    if errors:
        raise RefusedError(errors)
    return selector


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("raw", "labels", "expected"),
    [
        pytest.param({}, {}, True, id="the empty selector matches a set without labels"),
        pytest.param({}, WEB, True, id="the empty selector matches everything"),
        pytest.param({"matchLabels": {"app": "web"}}, WEB, True, id="a label that is there"),
        pytest.param({"matchLabels": {"app": "db"}}, WEB, False, id="another value"),
        pytest.param({"matchLabels": {"app": "web", "x": "y"}}, WEB, False, id="all labels are needed"),
        pytest.param({"matchLabels": {"app": ""}}, {"app": ""}, True, id="an empty value is a value"),
        pytest.param({"matchLabels": {"app": ""}}, {}, False, id="an empty value is not a missing one"),
        pytest.param(expression("app", "In", "db", "web"), WEB, True, id="In"),
        pytest.param(expression("app", "In", "db"), WEB, False, id="In without the value"),
        pytest.param(expression("x", "In", "db"), WEB, False, id="In without the key"),
        pytest.param(expression("app", "NotIn", "db"), WEB, True, id="NotIn"),
        pytest.param(expression("app", "NotIn", "web"), WEB, False, id="NotIn with the value"),
        pytest.param(expression("x", "NotIn", "web"), WEB, True, id="NotIn is satisfied without the key"),
        pytest.param(expression("app", "Exists"), WEB, True, id="Exists"),
        pytest.param(expression("x", "Exists"), WEB, False, id="Exists without the key"),
        pytest.param(expression("x", "DoesNotExist"), WEB, True, id="DoesNotExist"),
        pytest.param(expression("app", "DoesNotExist"), WEB, False, id="DoesNotExist with the key"),
        pytest.param(
            {"matchLabels": {"app": "web"}, **expression("app", "NotIn", "web")}, WEB, False, id="a contradiction"
        ),
    ],
)
def test_a_selector_matches(raw: object, labels: dict[str, str], *, expected: bool) -> None:
    assert read(raw).matches(labels) is expected


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        ({"matchLabels": {"app": "web"}}, expression("app", "In", "web"), "app=web"),
        (expression("app", "In", "b", "a", "b"), expression("app", "In", "a", "b"), "app in (a,b)"),
        ({"matchLabels": {"b": "1", "a": "2"}}, {"matchLabels": {"a": "2", "b": "1"}}, "a=2,b=1"),
        (expression("app", "NotIn", "a", "a"), expression("app", "NotIn", "a"), "app!=a"),
        ({"matchLabels": None, "matchExpressions": []}, {}, "*"),
    ],
)
def test_two_ways_of_saying_the_same_are_one_selector(one: object, other: object, text: str) -> None:
    assert read(one) == read(other)
    assert hash(read(one)) == hash(read(other))
    assert str(read(one)) == str(read(other)) == text


def test_canonical_text_reads_as_kubectl_takes_it() -> None:
    raw = {
        "matchLabels": {"app": "web"},
        "matchExpressions": [
            {"key": "env", "operator": "NotIn", "values": ["test", "dev"]},
            {"key": "x", "operator": "Exists"},
            {"key": "y", "operator": "DoesNotExist"},
        ],
    }
    assert str(read(raw)) == "!y,app=web,env notin (dev,test),x"


def test_labels_alone_make_a_selector() -> None:
    assert selector_of_labels({"rack": "a"}) == read({"matchLabels": {"rack": "a"}})
    assert selector_of_labels({}) == EVERYTHING
    assert EVERYTHING.matches_everything


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        pytest.param(
            expression("app", "Equals", "x"),
            'spec.podSelector.matchExpressions[0].operator: Invalid value: "Equals": not a valid selector operator',
            id="unknown operator",
        ),
        pytest.param(
            expression("app", "In"),
            "spec.podSelector.matchExpressions[0].values: Required value: "
            "must be specified when `operator` is 'In' or 'NotIn'",
            id="In without values",
        ),
        pytest.param(
            expression("app", "Exists", "x"),
            "spec.podSelector.matchExpressions[0].values: Forbidden: "
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            id="Exists with values",
        ),
        pytest.param(
            expression("app", "In", "ok", "-bad"),
            'spec.podSelector.matchExpressions[0].values[1]: Invalid value: "-bad": a valid label must be',
            id="bad value",
        ),
        pytest.param(
            expression("", "Exists"),
            'spec.podSelector.matchExpressions[0].key: Invalid value: "": name part must be non-empty',
            id="no key",
        ),
        pytest.param(
            {"matchLabels": {"a" * 64: "x"}},
            "name part must be no more than 63 bytes",
            id="long key",
        ),
        pytest.param({"matchLabels": {"Example.com/a": "x"}}, "prefix part must be a lowercase RFC 1123", id="prefix"),
        pytest.param({"matchLabels": {"/a": "x"}}, "prefix part must be non-empty", id="empty prefix"),
        pytest.param({"matchLabels": {"a/b/c": "x"}}, "at most one '/'", id="two slashes"),
        pytest.param({"matchLabels": {"a": "x" * 64}}, "must be no more than 63 bytes", id="long value"),
        pytest.param({"matchLabels": {"a": 1}}, 'spec.podSelector.matchLabels: Invalid value: {"a": 1}', id="number"),
        pytest.param({"matchlabels": {"a": "b"}}, "spec.podSelector.matchlabels: unknown field", id="misspelt field"),
        pytest.param([], "spec.podSelector: Invalid value: []: must be an object", id="not an object"),
        pytest.param({"matchExpressions": {}}, "matchExpressions: Invalid value: {}: must be a list", id="not a list"),
    ],
)
def test_what_the_api_server_refuses_is_refused(raw: object, message: str) -> None:
    with pytest.raises(RefusedError) as refused:
        read(raw)
    assert message in str(refused.value)


def test_every_complaint_is_listed() -> None:
    with pytest.raises(RefusedError) as refused:
        read({"matchLabels": {"a": "-"}, "matchExpressions": [{"key": "-", "operator": "Exists"}]})
    assert [error.field for error in refused.value.errors] == [
        "spec.podSelector.matchLabels",
        "spec.podSelector.matchExpressions[0].key",
    ]


KEYS = st.sampled_from(["a", "b", "c"])
VALUES = st.sampled_from(["", "x", "y"])
REQUIREMENTS = st.one_of(
    st.builds(
        Requirement,
        KEYS,
        st.sampled_from([Operator.IN, Operator.NOT_IN]),
        st.lists(VALUES, min_size=1).map(tuple),
    ),
    st.builds(Requirement, KEYS, st.sampled_from([Operator.EXISTS, Operator.DOES_NOT_EXIST])),
)


def accepts(requirement: Requirement, labels: dict[str, str]) -> bool:
    value = labels.get(requirement.key)
    return {
        Operator.IN: value is not None and value in requirement.values,
        Operator.NOT_IN: value is None or value not in requirement.values,
        Operator.EXISTS: value is not None,
        Operator.DOES_NOT_EXIST: value is None,
    }[requirement.operator]


@given(st.lists(REQUIREMENTS), st.lists(REQUIREMENTS), st.dictionaries(KEYS, VALUES))
def test_equal_text_means_equal_matching(
    one: list[Requirement], other: list[Requirement], labels: dict[str, str]
) -> None:
    first, second = Selector(one), Selector([*reversed(one), *one])
    assert first == second
    assert first.matches(labels) is second.matches(labels) is all(accepts(each, labels) for each in one)
    if Selector(other) == first:
        assert Selector(other).matches(labels) is first.matches(labels)
