from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from agent.datastore.directory import read_directory
from agent.objects import BGPPeer
from agent.objects.kinds import KINDS, Kind
from agent.objects.schema import described, structural
from agent.objects.wording import _model_in

EXAMPLES = Path(__file__).parents[3] / "docs" / "reference" / "examples"
DESCRIBED = [kind for kind in KINDS.values() if kind.model]
EVERY_KIND = pytest.mark.parametrize("kind", DESCRIBED, ids=lambda kind: kind.name)


def schemas(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from schemas(inner, f"{path}.{name}")
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield from schemas(schema[keyword], f"{path}[]")


@EVERY_KIND
def test_the_schema_is_what_a_custom_resource_definition_takes(kind: Kind) -> None:
    assert kind.model
    schema = structural(kind.model)

    assert "$ref" not in json.dumps(schema)
    assert schema["properties"].keys() >= {"apiVersion", "kind", "metadata"}
    for path, part in schemas(schema):
        assert "type" in part or part.get("x-kubernetes-int-or-string"), path
        assert part.get("type") != "null", path
        assert not part.keys() & {"$defs", "title", "const", "propertyNames", "x-noun", "allOf", "oneOf"}, path
        assert not ("additionalProperties" in part and "properties" in part), path
        if "anyOf" in part:
            assert part["x-kubernetes-int-or-string"], path
            assert part["anyOf"] == [{"type": "integer"}, {"type": "string"}], path


@EVERY_KIND
def test_every_field_says_what_it_is_for(kind: Kind) -> None:
    assert kind.model
    pending: list[type[BaseModel]] = [kind.model]
    while pending:
        for name, field in (model := pending.pop()).model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            assert field.description.endswith("."), f"{model.__name__}.{name}"
            pending += [inner] if (inner := _model_in(field.annotation)) else []


def test_numbers_have_their_range_and_defaults_their_place() -> None:
    spec = described(BGPPeer)["properties"]["spec"]

    assert spec["required"] == ["peer"]
    port, selector = spec["properties"]["port"], spec["properties"]["nodeSelector"]
    assert (port["minimum"], port["maximum"], port["default"], port["x-noun"]) == (1, 65535, 179, "TCP port")
    assert selector["default"] == {}
    assert "default" not in spec["properties"]["timers"]


@EVERY_KIND
def test_every_kind_has_an_example(kind: Kind) -> None:
    assert f"kind: {kind.name}\n" in (EXAMPLES / f"{kind.name}.yaml").read_text()


def test_the_examples_are_right() -> None:
    objects, problems = read_directory(EXAMPLES)

    assert [str(problem) for problem in problems] == []
    read = {kind.name for kind in DESCRIBED if not kind.is_written_by_agents}
    assert {item.key.kind for item in objects} == read
