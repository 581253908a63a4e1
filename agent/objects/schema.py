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
    """Return the schema of a kind as a CustomResourceDefinition has it."""
    schema: dict[str, Any] = _without_nouns(described(model))
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
    if isinstance(schema.get("additionalProperties"), dict):
        flat["additionalProperties"] = _flat(schema["additionalProperties"], definitions)
    if "items" in flat:
        flat["items"] = _flat(flat["items"], definitions)
    if "properties" in flat:
        flat["properties"] = {name: _flat(inner, definitions) for name, inner in flat["properties"].items()}
    return flat


def _without_nouns(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {name: _without_nouns(value) for name, value in schema.items() if name != NOUN}
    return [_without_nouns(item) for item in schema] if isinstance(schema, list) else schema
