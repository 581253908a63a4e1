"""What is wrong with a field of an object, in the words the Kubernetes API server uses.

A file is read by the same rules as the API: whoever wrote the object sees the message they already know. Errors
are collected, not raised one by one; `RefusedError` carries all of them to whoever decodes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

LABEL_LENGTH: Final = 63
SUBDOMAIN_LENGTH: Final = 253
PORT_NAME_LENGTH: Final = 15
LAST_PORT: Final = 65535

_LABEL_NAME: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_PORT_NAME: Final = re.compile(r"[-a-z0-9]+")
_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class FieldError:
    """One complaint: `field` is a path such as spec.ingress[0].from[1].ipBlock.cidr."""

    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"


class RefusedError(ValueError):
    """An object is not taken over, for these reasons."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(map(str, errors)))
        self.errors = tuple(errors)


def invalid(field: str, value: object, detail: str) -> FieldError:
    """Return the complaint that a value is not well formed."""
    return FieldError(field, f"Invalid value: {json.dumps(value, default=str)}: {detail}")


def required(field: str, detail: str = "") -> FieldError:
    """Return the complaint that a value is missing."""
    return FieldError(field, f"Required value: {detail}" if detail else "Required value")


def forbidden(field: str, detail: str) -> FieldError:
    """Return the complaint that a value must not be given here."""
    return FieldError(field, f"Forbidden: {detail}")


def unsupported(field: str, value: object, supported: Iterable[str]) -> FieldError:
    """Return the complaint that a value is none of a list."""
    choices = ", ".join(f'"{choice}"' for choice in supported)
    return FieldError(field, f"Unsupported value: {json.dumps(value, default=str)}: supported values: {choices}")


def too_many(field: str, count: int, most: int) -> FieldError:
    """Return the complaint that a list is too long."""
    return FieldError(field, f"Too many: {count}: must have at most {most} items")


def unknown(field: str) -> FieldError:
    """Return the complaint that no field has this name (kubectl's strict decoding)."""
    return FieldError(field, "unknown field")


def check_known(raw: Mapping[str, Any], names: frozenset[str], path: str) -> list[FieldError]:
    """Return a complaint for every field that is not one of `names`: a misspelt one would silently widen a rule."""
    return [unknown(f"{path}.{name}" if path else str(name)) for name in raw if name not in names]


def check_label_key(key: str, field: str) -> list[FieldError]:
    """Check a label's key: an optional DNS subdomain and a slash, then a name."""
    prefix, slash, name = key.rpartition("/")
    errors = []
    if "/" in prefix:
        return [invalid(field, key, "a qualified name has at most one '/' (e.g. 'example.com/MyName')")]
    if slash:
        errors += [invalid(field, key, f"prefix part {problem}") for problem in subdomain_problems(prefix)]
    if not name:
        errors.append(invalid(field, key, "name part must be non-empty"))
    elif len(name) > LABEL_LENGTH:
        errors.append(invalid(field, key, f"name part must be no more than {LABEL_LENGTH} bytes"))
    if name and not _LABEL_NAME.fullmatch(name):
        errors.append(
            invalid(
                field,
                key,
                "name part must consist of alphanumeric characters, '-', '_' or '.', "
                "and must start and end with an alphanumeric character (e.g. 'MyName', 'my.name' or '123-abc')",
            )
        )
    return errors


def check_label_value(value: str, field: str) -> list[FieldError]:
    """Check a label's value: empty, or 63 letters, digits and -_. between two letters or digits."""
    errors = []
    if len(value) > LABEL_LENGTH:
        errors.append(invalid(field, value, f"must be no more than {LABEL_LENGTH} bytes"))
    if value and not _LABEL_NAME.fullmatch(value):
        errors.append(
            invalid(
                field,
                value,
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
                "and must start and end with an alphanumeric character (e.g. 'MyValue', 'my_value' or '12345')",
            )
        )
    return errors


def subdomain_problems(text: str) -> list[str]:
    """Say what keeps a text from being a lower-case DNS subdomain (RFC 1123)."""
    if not text:
        return ["must be non-empty"]
    problems = []
    if len(text) > SUBDOMAIN_LENGTH:
        problems.append(f"must be no more than {SUBDOMAIN_LENGTH} bytes")
    if not _SUBDOMAIN.fullmatch(text):
        problems.append(
            "must be a lowercase RFC 1123 subdomain: lower case alphanumeric characters, '-' or '.', "
            "starting and ending with an alphanumeric character (e.g. 'example.com')"
        )
    return problems


def expect_object(raw: object, path: str, errors: list[FieldError]) -> Mapping[str, Any]:
    """Return a JSON object; anything else is a complaint and an empty one."""
    if isinstance(raw, Mapping):
        return raw
    errors.append(invalid(path, raw, "must be an object"))
    return {}


def expect_list(raw: object, path: str, errors: list[FieldError]) -> list[tuple[Any, str]]:
    """Return a list's items, each with its path; null is an empty list, anything else a complaint and an empty one."""
    if raw is None:
        return []
    if isinstance(raw, list):
        return [(item, f"{path}[{index}]") for index, item in enumerate(raw)]
    errors.append(invalid(path, raw, "must be a list"))
    return []


def expect_text(raw: object, path: str, errors: list[FieldError]) -> str:
    """Return a string; null is an empty one, anything else a complaint and an empty one."""
    if raw is None or isinstance(raw, str):
        return raw or ""
    errors.append(invalid(path, raw, "must be a string"))
    return ""


def expect_name(raw: object, path: str, errors: list[FieldError]) -> str:
    """Return an object's name: a DNS subdomain."""
    name = expect_text(raw, path, errors)
    if not name:
        errors.append(required(path, "name is required"))
    else:
        errors += [invalid(path, name, problem) for problem in subdomain_problems(name)]
    return name


def expect_port_number(raw: object, path: str, errors: list[FieldError]) -> int:
    """Return a port number, 1 to 65535; anything else is a complaint and 1."""
    if isinstance(raw, bool) or not isinstance(raw, int) or not 1 <= raw <= LAST_PORT:
        errors.append(invalid(path, raw, f"must be between 1 and {LAST_PORT}, inclusive"))
        return 1
    return raw


def port_name_problems(name: str) -> list[str]:
    """Say what keeps a text from being a port's name (IANA_SVC_NAME, RFC 6335 section 5.1)."""
    problems = []
    if len(name) > PORT_NAME_LENGTH:
        problems.append(f"must be no more than {PORT_NAME_LENGTH} characters")
    if not _PORT_NAME.fullmatch(name):
        problems.append("must contain only alphanumeric characters (a-z, 0-9), and hyphens (-)")
    if not any(letter.isalpha() for letter in name):
        problems.append("must contain at least one letter (a-z)")
    if "--" in name:
        problems.append("must not contain consecutive hyphens")
    if name.startswith("-") or name.endswith("-"):
        problems.append("must not begin or end with a hyphen")
    return problems
