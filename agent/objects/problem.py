"""What is wrong with something a person wrote, said so that they can mend it.

A model that refuses a document raises `Invalid` with `Finding`s: where in the document, and what. Whoever read the
document (a datastore) knows the object, the file and what happens now, and makes a `Problem` of each. A problem
is a value: shown as one line by the command line, status and logs, and as JSON for machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""Where in a document: camelCase field names and list positions."""

_SHOWN_LENGTH = 60


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong. `field` is a path such as `spec.import.accept[0].cidr`; what does not apply is empty."""

    file: str = ""
    line: int = 0  # from 1; 0 where there is no file
    kind: str = ""
    namespace: str = ""
    name: str = ""
    field: str = ""
    message: str = ""  # what was found and what is wanted; no full stop
    found: str = ""  # the value itself, as shown; never a secret one
    consequence: str = ""  # what happens now: a sentence, or empty where nothing is running

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        named = f"{self.namespace}/{self.name}" if self.namespace else self.name
        words = ": ".join(filter(None, (place, f"{self.kind} {named}".strip(), self.field, self.message)))
        return f"{words}. {self.consequence}" if self.consequence else words

    def to_json(self) -> dict[str, str | int]:
        """Return the facts that apply, by name."""
        return {item.name: value for item in fields(self) if (value := getattr(self, item.name))}


class Finding(NamedTuple):
    """One thing wrong inside one document."""

    path: Path
    message: str
    found: str = ""

    @property
    def field(self) -> str:
        """The path as people read it."""
        return field_path(self.path)


class Invalid(Exception):  # noqa: N818 - it says what the document is
    """A document that cannot be taken, and every reason why."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("; ".join(f"{finding.field}: {finding.message}" for finding in findings))
        self.findings = tuple(findings)


def field_path(path: Path) -> str:
    """Return `spec.peers[2].matchLabels[tier/x]`: names joined by dots, everything else in brackets."""
    text = ""
    for step in path:
        if isinstance(step, str) and step.isidentifier():
            text += f".{step}" if text else step
        else:
            text += f"[{step}]"
    return text


def show(value: Any) -> str:
    """Return a value as it should stand in a message: short, printable, on one line."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case str():
            return repr(value if len(value) <= _SHOWN_LENGTH else value[: _SHOWN_LENGTH - 1] + "…")
        case list() | tuple() | set() | frozenset():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return str(value)[:_SHOWN_LENGTH]
