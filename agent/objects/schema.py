"""JSON schemas of the kinds, in the form a CustomResourceDefinition wants: everything in place, nothing by reference.

`described` is for the reference pages; `structural` is what the Kubernetes API server takes as openAPIV3Schema
(structural schemas: no $ref, no null type, no additionalProperties beside properties).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.objects.model import Model, Object
from agent.objects.scalars import NOUN

_NOT_STRUCTURAL = frozenset({"$defs", "additionalProperties", "propertyNames", "title"})


def described(model: type[Model]) -> dict[str, Any]:
    """Return the schema of a model, with the noun of each type under `NOUN`."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    return _flat(schema, schema.get("$defs", {}))


def structural(model: type[Object]) -> dict[str, Any]:
    """Return the schema of a kind as a CustomResourceDefinition has it.

    Defaults that say nothing (no entries, no text) are left out: the server writes defaults into objects.
    """
    schema: dict[str, Any] = _for_server(described(model))
    named = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    schema["properties"] |= named
    return schema


def _flat(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema with what it refers to put in its place."""
    if "$ref" in schema:
        referred = definitions[schema["$ref"].rpartition("/")[2]]
        return _flat(referred | {name: value for name, value in schema.items() if name != "$ref"}, definitions)
    if any(choice == {"type": "null"} for choice in schema.get("anyOf", ())):  # optional: a null is a field left out
        (choice,) = (choice for choice in schema["anyOf"] if choice != {"type": "null"})
        return _flat(choice | {name: value for name, value in schema.items() if name != "anyOf"}, definitions)
    flat = {name: value for name, value in schema.items() if name not in _NOT_STRUCTURAL}
    if flat.get("default", ...) is None:
        del flat["default"]
    if "const" in flat:
        flat["enum"] = [flat.pop("const")]
    if isinstance(flat.get("default"), dict):
        flat["default"] = {}  # what is in it has its own defaults
    if "patternProperties" in flat:  # keys have a pattern, which a structural schema cannot say
        (flat["additionalProperties"],) = (_flat(each, definitions) for each in flat.pop("patternProperties").values())
    if isinstance(schema.get("additionalProperties"), dict):
        flat["additionalProperties"] = _flat(schema["additionalProperties"], definitions)
    if "items" in flat:
        flat["items"] = _flat(flat["items"], definitions)
    if "properties" in flat:
        flat["properties"] = {name: _flat(inner, definitions) for name, inner in flat["properties"].items()}
    return flat


def _for_server(schema: Mapping[str, Any]) -> dict[str, Any]:
    made = {name: value for name, value in schema.items() if name != NOUN}
    if "properties" in made:
        made["properties"] = {name: _for_server(inner) for name, inner in made["properties"].items()}
    for inner in ("items", "additionalProperties"):
        if inner in made:
            made[inner] = _for_server(made[inner])
    default = made.get("default", ...)
    if default in ("", []) or (default == {} and not any("default" in each for each in _properties(made))):
        del made["default"]
    return made


def _properties(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(schema.get("properties", {}).values())
