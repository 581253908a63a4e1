"""The parts of charts/tortie/values.schema.json that say what objects of ours are like, made from their models.

`networkConfiguration` and `bgpConfiguration` are handed to the API server as they are. With their shape in the schema,
Helm names a field that does not exist before anything is installed. The rest of the file is written by hand and kept;
generated definitions are those whose names begin with a capital letter.

What Helm reads is plain JSON Schema: a reference is one, an unknown field is refused by `additionalProperties`, and
what only the server can tell (`x-kubernetes-validations`) is left to it. A field set to null is a field left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from agent.objects.bgp_configuration import BGPConfigurationSpec
from agent.objects.model import Model
from agent.objects.network_configuration import NetworkConfigurationSpec

HANDED_ON: Final[tuple[type[Model], ...]] = (NetworkConfigurationSpec, BGPConfigurationSpec)


def values_schema(there: str) -> str:
    """Return the text of the file with its generated parts made anew."""
    schema = json.loads(there)
    kept = {name: said for name, said in schema["$defs"].items() if not name[0].isupper()}
    schema["$defs"] = kept | dict(sorted(definitions().items()))
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def definitions() -> dict[str, Any]:
    """Return the schemas of the models and of all they are made of, by name."""
    made: dict[str, Any] = {}
    for model in HANDED_ON:
        schema = model.model_json_schema(by_alias=True)
        made |= {model.__name__: schema} | schema.pop("$defs", {})
    return {name: for_helm(schema) for name, schema in made.items()}


def for_helm(schema: Mapping[str, Any], *, may_be_null: bool = True) -> dict[str, Any]:
    """Return a model's schema as Helm is to read it. `may_be_null`: a null here is a field left out."""
    if NULL in schema.get("anyOf", ()):  # optional, and by default left out
        (choice,) = (choice for choice in schema["anyOf"] if choice != NULL)
        return for_helm({name: value for name, value in schema.items() if name not in {"anyOf", "default"}} | choice)
    said = {name: value for name, value in schema.items() if name in KEPT}
    if isinstance(said.get("default"), dict | list):
        del said["default"]  # of parts, which have their own
    if may_be_null and "type" in said:
        said["type"] = [said["type"], "null"]
    if may_be_null and "enum" in said:
        said["enum"] = [*said["enum"], None]
    if "anyOf" in said:
        said["anyOf"] = [*said["anyOf"], *([NULL] if may_be_null else [])]
    if "items" in said:
        entry = for_helm(said["items"], may_be_null=False)
        said["items"] = entry | {"type": "object"} if "$ref" in entry else entry
    if "patternProperties" in said:
        said["patternProperties"] = {
            name: for_helm(inner, may_be_null=False) for name, inner in said["patternProperties"].items()
        }
        said["additionalProperties"] = False
    if "properties" in said:
        required = said.get("required", ())
        said["properties"] = {
            name: for_helm(inner, may_be_null=name not in required) for name, inner in said["properties"].items()
        }
    return said


NULL: Final = {"type": "null"}
KEPT: Final = frozenset(
    {
        *("$ref", "additionalProperties", "anyOf", "default", "description", "enum", "items", "patternProperties"),
        *("maxItems", "maxLength", "maxProperties", "maximum", "minLength", "minimum", "pattern", "properties"),
        *("required", "type"),
    }
)
