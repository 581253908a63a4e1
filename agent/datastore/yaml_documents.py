"""YAML and JSON text as plain values that know the line they came from.

In: the bytes of a file. Out: one `Document` after another; `NotYaml` where the text makes no sense from there on.
Values are what the Kubernetes API would make of them: mappings, lists, strings, numbers, booleans and null, with a
time or `10:30` left a string. What only harms one document (a key set twice, a foreign tag) is a fault of it. No
text of the file is repeated in a message but key names: a value may be a password.

Written on libyaml's events, since its node trees can neither refuse a repeated key nor an alias bomb in time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentStartEvent,
    Event,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
)

from agent.objects.problem import Path

MAX_DEPTH: Final = 50
MAX_REPEATED: Final = 10_000
"""Values that aliases may add to one document."""

_MERGE: Final = "<<"
_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS: Final = {
    spelling: value
    for word, value in (("true", True), ("yes", True), ("on", True), ("false", False), ("no", False), ("off", False))
    for spelling in (word, word.capitalize(), word.upper())
}
_DECIMAL: Final = re.compile(r"[-+]?(0|[1-9][0-9]{0,40})")
_OTHER_BASE: Final = re.compile(r"0(x[0-9a-fA-F]{1,32}|o?[0-7]{1,40}|b[01]{1,128})")
_FLOAT: Final = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]{1,3})?")
_KNOWN_TAGS: Final = frozenset(
    {
        None,
        "!",
        *(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "bool", "null", "float", "map", "seq")),
    }
)


class NotYaml(Exception):  # noqa: N818 - it says what the text is
    """Text that is not YAML, or too much of it. Nothing after `line` could be read."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


class LocatedMapping(dict[str, Any]):
    """A mapping that knows the line of each key."""

    __slots__ = ("lines",)

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, int] = {}


class LocatedList(list[Any]):
    """A list that knows the line of each item."""

    __slots__ = ("lines",)

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[int] = []


class Fault(NamedTuple):
    """What is wrong with one document."""

    path: Path
    message: str
    line: int


@dataclass(frozen=True, slots=True)
class Document:
    """One document: `content` is a LocatedMapping unless a person wrote something else."""

    content: Any
    line: int
    faults: tuple[Fault, ...] = ()

    def line_of(self, path: Path) -> int:
        """Return the line of a value, or of the nearest thing around it that is there."""
        line, value = self.line, self.content
        for step in path:
            if isinstance(value, LocatedMapping) and step in value.lines:
                line, value = value.lines[str(step)], value.get(str(step))
            elif isinstance(value, LocatedList) and isinstance(step, int) and step < len(value):
                line, value = value.lines[step], value[step]
            else:
                break
        return line


def read_documents(raw: bytes) -> Iterator[Document]:
    """Yield every document that is not empty. Raises NotYaml."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotYaml("not UTF-8 text", raw.count(b"\n", 0, error.start) + 1) from None
    events = yaml.parse(text, Loader=yaml.CSafeLoader)
    try:
        for event in events:
            if isinstance(event, DocumentStartEvent):
                document = _Composer(events).document()
                if document.content is not None or document.faults:
                    yield document
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text) from None
    except yaml.reader.ReaderError as error:
        line = text.encode().count(b"\n", 0, error.position) + 1
        raise NotYaml("not YAML: a control character", line) from None


def _syntax_error(error: yaml.MarkedYAMLError, text: str) -> NotYaml:
    """Say what libyaml found, with a hint where its words are no help."""
    mark, context, problem = error.problem_mark, error.context_mark, error.problem or "unreadable"
    rows = text.splitlines()
    line = min(mark.line + 1, len(rows)) if mark else 0  # the end of the text is in its last line
    begun = min(context.line + 1, len(rows)) if context else line
    if problem == "could not find expected ':'":
        return NotYaml("not YAML: a ':' is missing", begun)
    if problem == "found character that cannot start any token" and mark:
        character = rows[line - 1][mark.column : mark.column + 1]
        if character == "\t":
            return NotYaml("not YAML: a tab cannot indent, use spaces", line)
        return NotYaml(f"not YAML: a value that starts with {character} needs quotes", line)
    where = f" {error.context} that begins in line {begun}" if error.context and begun != line else ""
    return NotYaml(f"not YAML: {problem}{where}", line)


def _line(event: Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


class _Anchored(NamedTuple):
    value: Any
    size: int


@dataclass(slots=True)
class _Composer:
    """Builds one document from the events after its start."""

    events: Iterator[Event]
    faults: list[Fault] = field(default_factory=list)
    anchors: dict[str, _Anchored] = field(default_factory=dict)
    size: int = 0  # values so far, aliases counted as what they stand for
    repeated: int = 0

    def document(self) -> Document:
        """Compose what is before the next DocumentEnd event."""
        event = next(self.events)
        line = _line(event)
        content = self._node(event, ())
        next(self.events)
        return Document(content, line, tuple(self.faults))

    def _node(self, event: Event, path: Path, depth: int = 0) -> Any:
        if depth > MAX_DEPTH:
            raise NotYaml(f"more than {MAX_DEPTH} levels deep", _line(event))
        if isinstance(event, AliasEvent):
            return self._alias(event, path)
        before = self.size
        self.size += 1
        value: Any
        if isinstance(event, ScalarEvent):
            value = self._scalar(event, path)
        elif isinstance(event, SequenceStartEvent):
            value = self._sequence(path, depth)
        else:
            value = self._mapping(path, depth)
        if isinstance(event, NodeEvent) and event.anchor:
            self.anchors[event.anchor] = _Anchored(value, self.size - before)
        return value

    def _alias(self, event: AliasEvent, path: Path) -> Any:
        line = _line(event)
        anchored = self.anchors.get(event.anchor or "")
        if anchored is None:
            self.faults.append(
                Fault(path, "an alias (*) without its anchor (&): quote a text that starts with *", line)
            )
            return None
        self.size += anchored.size
        self.repeated += anchored.size
        if self.repeated > MAX_REPEATED:
            raise NotYaml(f"aliases repeat more than {MAX_REPEATED} values", line)
        return anchored.value

    def _scalar(self, event: ScalarEvent, path: Path) -> Any:
        if event.tag not in _KNOWN_TAGS:
            line = _line(event)
            self.faults.append(Fault(path, "a YAML tag means nothing here: quote a text that starts with !", line))
        is_plain = event.implicit[0] or event.tag not in {None, "!", "tag:yaml.org,2002:str"}
        return _resolve(event.value) if is_plain else event.value

    def _sequence(self, path: Path, depth: int) -> LocatedList:
        items = LocatedList()
        while not isinstance(event := next(self.events), CollectionEndEvent):
            items.lines.append(_line(event))
            items.append(self._node(event, (*path, len(items)), depth + 1))
        return items

    def _mapping(self, path: Path, depth: int) -> LocatedMapping:
        mapping = LocatedMapping()
        merged: list[tuple[Any, int]] = []
        while not isinstance(event := next(self.events), CollectionEndEvent):
            line = _line(event)
            key = self._key(event, path, depth)
            value = self._node(next(self.events), (*path, key), depth + 1)
            if key == _MERGE and isinstance(event, ScalarEvent) and event.implicit[0]:
                merged += ((source, line) for source in (value if isinstance(value, list) else [value]))
            elif key in mapping:
                message = f"is set twice, first in line {mapping.lines[key]}"
                self.faults.append(Fault((*path, key), message, line))
            else:
                mapping[key] = value
                mapping.lines[key] = line
        for source, line in merged:
            self._merge(source, line, mapping, path)
        return mapping

    def _key(self, event: Event, path: Path, depth: int) -> str:
        if isinstance(event, ScalarEvent):
            return str(event.value)  # as written: `on` and `8080` are names here
        key = self._node(event, path, depth + 1)
        if not isinstance(key, str):
            self.faults.append(Fault(path, "a key must be a string", _line(event)))
        return str(key)

    def _merge(self, source: Any, line: int, mapping: LocatedMapping, path: Path) -> None:
        if not isinstance(source, LocatedMapping):
            self.faults.append(Fault(path, "<< takes a mapping", line))
            return
        for key, value in source.items():
            if key not in mapping:
                mapping[key] = value
                mapping.lines[key] = source.lines[key]


def _resolve(text: str) -> Any:
    """Return what a scalar without quotes means."""
    if text in _NULL:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _DECIMAL.fullmatch(text):
        return int(text)
    if _OTHER_BASE.fullmatch(text):
        is_old_octal = text[1].isdecimal()
        return int(text, 8 if is_old_octal else 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
