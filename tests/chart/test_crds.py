"""The CustomResourceDefinitions, as far as they can be looked over without a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.namespace import OWN_NAMESPACE
from agent.objects.kinds import KINDS

CRDS = Path(__file__).parents[2] / "charts" / "tortie" / "crds"
DEFINITIONS = [yaml.safe_load(file.read_text()) for file in sorted(CRDS.glob("*.yaml"))]
EACH = pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda each: each["spec"]["names"]["kind"])


def schema_of(definition: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def parts(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from parts(inner, f"{path}.{name}")
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            yield from parts(schema[keyword], path)


def test_every_kind_of_ours_is_defined_under_its_own_names() -> None:
    defined = {definition["spec"]["names"]["kind"]: definition for definition in DEFINITIONS}
    ours = {kind.name: kind for kind in KINDS.values() if kind.is_ours}

    assert defined.keys() == ours.keys()
    for name, definition in defined.items():
        assert definition["metadata"]["name"] == f"{ours[name].plural}.tortie.dev"
        assert definition["spec"]["scope"] == "Cluster"
        assert definition["spec"]["names"]["categories"] == ["tortie"]


def test_short_names_are_no_two_kinds_names() -> None:
    names = [name for definition in DEFINITIONS for name in definition["spec"]["names"].get("shortNames", ())]

    assert len(set(names)) == len(names)


@EACH
def test_a_definition_outlives_the_release_and_is_upgraded_with_it(definition: dict[str, Any]) -> None:
    metadata = definition["metadata"]

    assert metadata["annotations"] == {
        "helm.sh/resource-policy": "keep",
        "meta.helm.sh/release-name": "tortie",
        "meta.helm.sh/release-namespace": OWN_NAMESPACE,
    }
    assert metadata["labels"]["app.kubernetes.io/managed-by"] == "Helm"


@EACH
def test_every_column_shows_a_field_there_is(definition: dict[str, Any]) -> None:
    known = {path for path, _ in parts(schema_of(definition))} | {".metadata.creationTimestamp"}

    for column in definition["spec"]["versions"][0]["additionalPrinterColumns"]:
        before, _, after = column["jsonPath"].partition("[?(@.type=='Ready')]")
        assert before + after in known, column


@EACH
def test_every_field_is_described_with_its_range_and_default(definition: dict[str, Any]) -> None:
    for path, part in parts(schema_of(definition)):
        if path.count(".") < 1 or path in {".apiVersion", ".kind", ".metadata"} or "description" not in part:
            continue
        if "minimum" in part:
            assert f"{part['minimum']} to {part['maximum']}" in part["description"], path
        if isinstance(part.get("default"), bool | int | str):
            shown = str(part["default"]).lower() if isinstance(part["default"], bool) else part["default"]
            assert f"default {shown}" in part["description"], path


def test_only_what_agents_report_has_a_status_of_its_own_and_nothing_keeps_them_from_reporting() -> None:
    for definition in DEFINITIONS:
        version = definition["spec"]["versions"][0]
        reported = KINDS[definition["spec"]["names"]["kind"]].is_written_by_agents
        assert ("status" in version.get("subresources", {})) is reported
        if reported:
            for path, part in parts(schema_of(definition)):
                judging = {"x-kubernetes-validations", "maximum", "minimum", "pattern", "maxLength", "default"}
                assert not part.keys() & judging, path
