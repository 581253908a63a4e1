from __future__ import annotations

import pytest

from agent.objects import BGPNodeProfile, LabelSelector
from tests.agent.objects.manifests import accepted, refusals

HEAD = "apiVersion: tortie.dev/v1alpha1\nkind: BGPNodeProfile\nmetadata: {name: a}\nspec: {nodeSelector: %s}\n"


def selector(text: str) -> LabelSelector:
    return accepted(BGPNodeProfile, HEAD % text).spec.node_selector


def test_labels_and_expressions_are_taken() -> None:
    said = selector(
        "{matchLabels: {topology.kubernetes.io/zone: a, empty: ''}, "
        "matchExpressions: [{key: rack, operator: In, values: [a, b]}, {key: old, operator: DoesNotExist, values: []}]}"
    )

    assert said.match_labels == {"topology.kubernetes.io/zone": "a", "empty": ""}
    assert [(each.key, each.operator, each.values) for each in said.match_expressions] == [
        ("rack", "In", ("a", "b")),
        ("old", "DoesNotExist", ()),
    ]


NAME = "at most 63 letters, digits, '-', '_' and '.', if need be after a DNS name and '/'"
VALUE = "at most 63 letters, digits, '-', '_' and '.', a letter or digit first and last"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{matchLabels: {rack: true}}", ".matchLabels.rack: true is not a string: put it in quotes"),
        ("{matchLabels: {rack: 1}}", ".matchLabels.rack: 1 is not a string: put it in quotes"),
        ("{matchLabels: {rack: -a}}", f".matchLabels.rack: '-a' is not a label value: {VALUE}"),
        ("{matchLabels: {rack: " + 64 * "a" + "}}", f".matchLabels.rack: '{59 * 'a'}…' is not a label value: {VALUE}"),
        ("{matchLabels: {a b: x}}", f".matchLabels[a b]: 'a b' is not a label name: {NAME}"),
        ("{matchLabels: {A.b/x: x}}", f".matchLabels[A.b/x]: 'A.b/x' is not a label name: {NAME}"),
        ("{matchLabels: {/x: x}}", f".matchLabels[/x]: '/x' is not a label name: {NAME}"),
        (
            "{matchExpressions: [{key: rack, operator: in, values: [a]}]}",
            ".matchExpressions[0].operator: 'in' is not In, NotIn, Exists or DoesNotExist",
        ),
        (
            "{matchExpressions: [{key: rack, operator: NotIn}]}",
            ".matchExpressions[0].values: operator NotIn needs at least one value",
        ),
        (
            "{matchExpressions: [{key: rack, operator: Exists, values: [a]}]}",
            ".matchExpressions[0].values: operator Exists takes no values",
        ),
        ("{matchExpressions: [{operator: Exists}]}", ".matchExpressions[0].key: is required"),
        ("{matchLabel: {}}", ".matchLabel: unknown field; did you mean matchLabels?"),
    ],
)
def test_a_selector_kubernetes_would_refuse_is_refused(text: str, wanted: str) -> None:
    assert refusals(HEAD % text) == [f"spec.nodeSelector{wanted}"]
