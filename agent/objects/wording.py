"""Turns what pydantic found wrong into words for the person who wrote the manifest.

Every message says what was found and what is wanted, in terms of the manifest and not of Python. A value in a
Secret, or under a field whose name speaks of a password or secret, is never shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from agent.objects.problem import Finding, Path, field_path, show
from agent.objects.scalars import REFUSED

_MAPPING_KEY: Final = "[key]"  # pydantic's mark for an error in a key, not its value
_FOLLOWS_FROM_ANOTHER: Final = "default_factory_not_called"  # the default is computed from a field found wrong

_WANTED: Final = {
    "missing": "required",
    "bool_type": "not true or false",
    "string_type": "not a string: put it in quotes",
    "string_too_short": "empty",
    "tuple_type": "not a list",
    "model_type": "not a mapping",
    "dict_type": "not a mapping",
}


def findings(error: ValidationError, model: type[BaseModel], *, confidential: bool = False) -> list[Finding]:
    """Return what is wrong with a document for `model`, in the order of its fields."""
    return [
        _finding(details, model, confidential=confidential)
        for details in error.errors(include_url=False)
        if details["type"] != _FOLLOWS_FROM_ANOTHER
    ]


def _finding(details: ErrorDetails, model: type[BaseModel], *, confidential: bool) -> Finding:
    path = tuple(step for step in details["loc"] if step != _MAPPING_KEY)
    if details["type"] == "extra_forbidden":
        return Finding(path, _unknown(path, model))
    if details["type"] == "missing":
        return Finding(path, _sentence(details, ""))
    if details["type"] == REFUSED and (field := details["ctx"]["field"]):
        return Finding(_join(path, field), _sentence(details, ""))
    shown = show(details["input"])
    if confidential or _speaks_of_secrets(path):
        return Finding(path, _sentence(details, "").removeprefix(shown).strip())
    return Finding(path, _sentence(details, shown), "" if isinstance(details["input"], dict | list) else shown)


def _sentence(details: ErrorDetails, subject: str) -> str:
    """Return what is wrong with `subject`: a value as shown, or nothing."""
    context = details.get("ctx", {})
    match details["type"]:
        case "refused":
            return str(context["message"])
        case "literal_error":
            wanted = "not " + context["expected"].replace("'", "")
        case "string_too_long":
            wanted = f"too long: at most {context['max_length']} characters"
        case "too_long":
            wanted = f"too long: at most {context['max_length']} entries"
        case "string_type" if isinstance(details["input"], dict | list):
            wanted = "not a string"
        case kind:
            wanted = _WANTED.get(kind, details["msg"])
    return f"{subject} is {wanted}".strip()


def _speaks_of_secrets(path: Path) -> bool:
    return any(word in str(step).casefold() for step in path for word in ("password", "secret"))


def _join(path: Path, field: str) -> Path:
    """Append `serviceCIDRs[1]` to a path."""
    name, bracket, position = field.partition("[")
    return (*path, name, int(position.removesuffix("]"))) if bracket else (*path, name)


def _unknown(path: Path, model: type[BaseModel]) -> str:
    """Return `unknown field`, with the name that was probably meant or the place where this one belongs."""
    *parents, name = path
    owner = _model_at(tuple(parents), model)
    siblings = [field.alias or "" for field in owner.model_fields.values()] if owner else []
    by_folded = {sibling.casefold(): sibling for sibling in siblings}
    folded = str(name).casefold()
    close = [sibling for sibling in by_folded if sibling.startswith(folded)]
    close += get_close_matches(folded, by_folded, n=1, cutoff=0.75)
    if close:
        return f"unknown field; did you mean {by_folded[close[0]]}?"
    elsewhere = [place for place in _fields(model) if place[-1] == name]
    if len(elsewhere) == 1:
        return f"unknown field here; did you mean {field_path(elsewhere[0])}?"
    return "unknown field"


def _model_at(path: Path, model: type[BaseModel]) -> type[BaseModel] | None:
    found: type[BaseModel] | None = model
    for step in path:
        if found is None or isinstance(step, int):
            continue
        field = next((field for field in found.model_fields.values() if field.alias == step), None)
        found = _model_in(field.annotation) if field else None
    return found


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model a field holds: itself, optional, or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _fields(model: type[BaseModel], path: Path = ()) -> Iterator[Path]:
    """Yield the path of every field below a model."""
    for field in model.model_fields.values():
        here = (*path, field.alias or "")
        yield here
        if (inner := _model_in(field.annotation)) is not None:
            yield from _fields(inner, here)
