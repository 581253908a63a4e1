"""Write docs/reference/*.md and the chart's kinds and schema from the code; with --check, only say which are stale.

A page is a function that returns its text, listed in `pages`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crds import crds
from docs_answers import answers_page
from docs_cli import commands_page, lab_page
from docs_values import values_page
from values_schema import values_schema

from agent.objects.kinds import KINDS, Kind
from agent.objects.label_selector import LabelSelector
from agent.objects.scalars import NOUN
from agent.objects.schema import described

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
CHART = ROOT / "charts" / "tortie"
CRDS = CHART / "crds"
VALUES = CHART / "values.schema.json"
EXAMPLES = REFERENCE / "examples"
GENERATED = "Written by scripts/docs.py from the code: edit that, then `make docs`."

Schema = Mapping[str, Any]


def pages() -> dict[str, str]:
    """Return every page by file name."""
    kinds = {f"{kind.name}.md": kind_page(kind) for kind in KINDS.values() if kind.model}
    others = {
        "LabelSelector.md": label_selector_page(),
        "answers.md": answers_page(),
        "commands.md": commands_page(),
        "lab-file.md": lab_page(),
        "values.md": values_page(),
    }
    return {"index.md": index_page()} | others | kinds


def index_page() -> str:
    rows = {
        title: [
            f"- [{kind.name}]({kind.name}.md): {summary(kind)}"
            for kind in KINDS.values()
            if kind.model and kind.is_ours is ours
        ]
        for title, ours in (("Tortie's own objects", True), ("Kubernetes' objects, as far as they are read", False))
    }
    sections = "\n".join(f"## {title}\n\n" + "\n".join(lines) + "\n" for title, lines in rows.items())
    return f"""# Objects

The same manifests work in a directory and through the Kubernetes API. An unknown field is refused, with the object,
the field and the line; the last good version of the object stays in force.

{sections}
Wherever nodes are chosen: [label selector](LabelSelector.md).

Besides: [commands](commands.md), [what they print with `-o json`](answers.md),
[values of the chart](values.md), [lab file](lab-file.md).
"""


def kind_page(kind: Kind) -> str:
    assert kind.model is not None, f"{kind.name} has no model to describe"  # noqa: S101 - a mistake in KINDS
    schema = described(kind.model)
    example = (EXAMPLES / f"{kind.name}.yaml").read_text()
    scope = f"in namespace `{kind.namespace}`" if kind.namespace else "cluster-scoped"
    parts = {name: part for name, part in schema["properties"].items() if name != "metadata"}
    return f"""# {kind.name}

{schema["description"]}

`{kind.group_version}`, {scope}.

```yaml
{example}```

{fields_table(parts, schema.get("required", ()))}"""


def label_selector_page() -> str:
    schema = described(LabelSelector)
    return f"""# Label selector

{schema["description"]} As everywhere in Kubernetes.

```yaml
nodeSelector:
  matchLabels: {{rack: a}}
  matchExpressions: [{{key: decommissioned, operator: DoesNotExist}}]
```

{fields_table(schema["properties"], ())}"""


def summary(kind: Kind) -> str:
    return (kind.model.__doc__ or "").splitlines()[0] if kind.model else ""


def fields_table(properties: Schema, required: Any) -> str:
    lines = ["| Field | Type | Default | Range | Meaning |", "|---|---|---|---|---|"]
    lines += ["| " + " | ".join(cells) + " |" for cells in rows(properties, set(required), "")]
    return "\n".join(lines) + "\n"


def rows(properties: Schema, required: set[str], prefix: str) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield a row for each field and, below it, for each field in it."""
    for name, schema in properties.items():
        path = f"{prefix}{name}"
        default = "required" if name in required else default_of(schema)
        yield f"`{path}`", type_of(schema), default, range_of(schema), schema.get("description", "")
        inner, below = (schema["items"], f"{path}[].") if schema.get("type") == "array" else (schema, f"{path}.")
        if "properties" in inner and not is_selector(inner):
            yield from rows(inner["properties"], set(inner.get("required", ())), below)


def is_selector(schema: Schema) -> bool:
    return "matchExpressions" in schema.get("properties", {})


def type_of(schema: Schema) -> str:
    if schema.get("type") == "array":
        return f"list of {type_of(schema['items'])}"
    if is_selector(schema):
        return "[label selector](LabelSelector.md)"
    if NOUN in schema:
        return str(schema[NOUN])
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if isinstance(inner := schema.get("additionalProperties"), dict):
        return f"mapping to {type_of(inner)}"
    return "mapping" if schema["type"] == "object" else str(schema["type"])


def default_of(schema: Schema) -> str:
    match schema.get("default"):
        case None | "" | {}:
            return ""
        case []:
            return "none"
        case bool() as switch:
            return f"`{str(switch).lower()}`"
        case value:
            return f"`{value}`"


def range_of(schema: Schema) -> str:
    if "minimum" in schema:
        return f"{schema['minimum']} to {schema['maximum']}"
    if "maxItems" in schema:
        return f"at most {schema['maxItems']} entries"
    if "maxLength" in schema and NOUN not in schema:
        return f"at most {schema['maxLength']} characters"
    return ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is not as it would be")
    wanted = {REFERENCE / name: f"<!-- {GENERATED} -->\n{text}" for name, text in pages().items()}
    wanted |= {CRDS / name: f"# {GENERATED}\n{text}" for name, text in crds().items()}
    wanted[VALUES] = values_schema(VALUES.read_text())
    there = {path: path.read_text() for path in (*REFERENCE.glob("*.md"), *CRDS.glob("*.yaml"), VALUES)}
    stale = sorted(path for path in wanted.keys() | there.keys() if wanted.get(path) != there.get(path))
    if parser.parse_args(arguments).check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale: run make docs and commit it", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        if path in wanted:
            path.write_text(wanted[path])
        else:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
