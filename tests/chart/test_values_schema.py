"""What the chart hands on to objects of ours: a mistake in it is named by Helm, before anything is installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import helm_python as helm
import pytest
import yaml

from agent.objects.bgp_configuration import BGPConfiguration
from agent.objects.model import Object
from agent.objects.network_configuration import NetworkConfiguration
from agent.objects.schema import described
from tests.agent.objects import test_bgp_configuration, test_network_configuration
from tests.chart.rendering import CHART, render

ROOT = CHART.parents[1]
EXAMPLES = ROOT / "docs" / "reference" / "examples"
HANDED_ON: dict[str, type[Object]] = {
    "networkConfiguration": NetworkConfiguration,
    "bgpConfiguration": BGPConfiguration,
}


def places(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the way to every mapping with fields of its own; a list's one entry is `0`."""
    if "properties" in schema:
        yield path
        for name, inner in schema["properties"].items():
            yield from places(inner, (*path, name))
    if "items" in schema:
        yield from places(schema["items"], (*path, "0"))


PLACES = [
    (value, *path) for value, model in HANDED_ON.items() for path in places(described(model)["properties"]["spec"])
]


def nested(path: tuple[str, ...], innermost: Any) -> Any:
    for step in reversed(path):
        innermost = [innermost] if step == "0" else {step: innermost}
    return innermost


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(helm.HelmError) as refused:
        render(values)
    return str(refused.value)


def test_there_are_fields_in_fields_to_misspell() -> None:
    assert len(PLACES) > 15
    assert ("networkConfiguration", "encapsulation", "overrides", "0", "nodeSelector") in PLACES


@pytest.mark.parametrize("path", PLACES, ids=".".join)
def test_a_field_that_does_not_exist_is_named_with_its_place(path: tuple[str, ...]) -> None:
    said = refusal(nested(path, {"colour": "red"}))

    assert f"'/{'/'.join(path)}': additional properties 'colour' not allowed" in said


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"bgpConfiguration": {"localASN": 0}}, "/bgpConfiguration/localASN"),
        ({"bgpConfiguration": {"localASN": "65000"}}, "/bgpConfiguration/localASN"),
        ({"bgpConfiguration": {"nodeMesh": {"enabled": "no"}}}, "/bgpConfiguration/nodeMesh/enabled"),
        ({"bgpConfiguration": {"nodeMesh": {"passwordSecretRef": {"name": "bgp"}}}}, "missing property 'key'"),
        ({"bgpConfiguration": {"nodeMesh": {"passwordSecretRef": {"name": "a", "key": None}}}}, "SecretRef/key"),
        ({"bgpConfiguration": {"import": {"accept": [{"cidr": "::/0", "maxLength": 129}]}}}, "accept/0/maxLength"),
        ({"bgpConfiguration": {"import": {"accept": [None]}}}, "/bgpConfiguration/import/accept/0"),
        ({"networkConfiguration": {"nodeRoutes": "direct"}}, "/networkConfiguration/nodeRoutes"),
        ({"networkConfiguration": {"podCIDRs": "10.42.0.0/16"}}, "/networkConfiguration/podCIDRs"),
        ({"networkConfiguration": {"mtu": 1279}}, "/networkConfiguration/mtu"),
        ({"networkConfiguration": {"mtu": "Auto"}}, "/networkConfiguration/mtu"),
        ({"networkConfiguration": {"mtu": True}}, "/networkConfiguration/mtu"),
        ({"networkConfiguration": {"uplinks": [""]}}, "/networkConfiguration/uplinks/0"),
        ({"networkConfiguration": {"encapsulation": {"overrides": [{"name": "a"}]}}}, "missing property 'mode'"),
        (
            {"networkConfiguration": {"outgoingNAT": {"optOut": [{"podSelector": {"matchLabels": {"a b": "c"}}}]}}},
            "'a b'",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_no_object_can_have_is_named(values: dict[str, Any], named: str) -> None:
    assert named in refusal(values)


@pytest.mark.parametrize("value", HANDED_ON)
def test_the_examples_of_the_reference_are_taken(value: str) -> None:
    for document in yaml.safe_load_all((EXAMPLES / f"{HANDED_ON[value].kind}.yaml").read_text()):
        render({value: document["spec"]})


@pytest.mark.parametrize(
    "values",
    [
        {"networkConfiguration": None, "bgpConfiguration": None},
        {"bgpConfiguration": {"timers": None, "import": None, "localASN": None, "nodeMesh": {"enabled": None}}},
        {"bgpConfiguration": {"nodeMesh": {"passwordSecretRef": None}, "timers": {"holdTimeSeconds": 0}}},
        {"bgpConfiguration": {"localASN": 4294967295, "import": {"accept": [{"cidr": "::/0", "minLength": 48}]}}},
        {"networkConfiguration": {"mtu": None, "nodeRoutes": None, "encapsulation": {"overrides": None}}},
        {"networkConfiguration": {"mtu": "auto"}},
        {"networkConfiguration": {"mtu": 9000, "uplinks": ["eth*"], "nodeRoutes": "Direct"}},
        {"networkConfiguration": {"outgoingNAT": {"optOut": [{"podSelector": {"matchLabels": {"x.y/a": ""}}}]}}},
    ],
    ids=str,
)
def test_what_the_server_takes_helm_takes(values: dict[str, Any]) -> None:
    render(values)


OF_RULES_ALONE = (
    *("23456", "host bits", "is not a prefix", "overlaps", "every address there is"),
    *("is less than", "is the name of", "needs namespaceSelector"),
)
"""What only the server's rules, or the agent, can say."""


@pytest.mark.parametrize(
    ("value", "module"),
    [("networkConfiguration", test_network_configuration), ("bgpConfiguration", test_bgp_configuration)],
)
def test_what_the_models_refuse_for_its_shape_helm_refuses(value: str, module: Any) -> None:
    cases = [
        getattr(entry, "values", entry)
        for name, test in vars(module).items()
        for mark in (getattr(test, "pytestmark", ()) if name.startswith("test_") else ())
        if "wanted" in mark.args[0] and "spelled" not in mark.args[0]
        for entry in mark.args[1]
    ]
    assert len(cases) > 5
    for content, said in cases:
        if not any(words in said for words in OF_RULES_ALONE):
            refusal({value: yaml.safe_load(content) if isinstance(content, str) else content})


def test_the_file_is_as_the_models_have_it() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "docs.py", "--check"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert "values.schema.json" not in done.stderr
