"""The reference page of the chart's values: defaults from values.yaml, the rest from values.schema.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent.parent / "charts" / "tortie"
SPEC = "Spec"


def values_page() -> str:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows(schema, defaults, "", schema["$defs"]))
    return f"""# Values of the chart

An unknown value, or one that cannot be meant, is refused before anything is installed. How to install:
[install](../install.md).

| Value | Type | Default | Meaning |
|---|---|---|---|
{table}
"""


def rows(schema: Mapping[str, Any], defaults: Any, prefix: str, named: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each value and, below it, for each value in it."""
    for name, said in schema["properties"].items():
        kind = kind_of(said)
        part = named[said["$ref"].rpartition("/")[2]] | said if "$ref" in said and not kind else said
        default = defaults.get(name) if isinstance(defaults, Mapping) else None
        has_parts = "properties" in part
        shown = "" if has_parts or default is None or default == "" else f"`{json.dumps(default).strip(chr(34))}`"
        yield f"`{prefix}{name}`", f"[{kind}]({kind}.md)" if kind else type_of(part), shown, part["description"]
        if has_parts:
            yield from rows(part, default, f"{prefix}{name}.", named)


def kind_of(schema: Mapping[str, Any]) -> str:
    """Return the kind of ours whose `spec` a value is, which has a page of its own; empty for any other value."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return name.removesuffix(SPEC) if name.endswith(SPEC) else ""


def type_of(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "pattern" in schema and schema["pattern"] == "^/":
        return "path"
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    spelled = {"array": "list", "object": "mapping", "integer": "number", "string": "text", "boolean": "true or false"}
    return " or ".join(spelled[kind] for kind in kinds if kind != "null")
