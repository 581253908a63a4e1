"""One file of manifests: its bytes as objects and problems. Pure; remembers nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from agent.datastore.yaml_documents import Document, NotYaml, read_documents
from agent.objects.kinds import Keyed, decode, key_of, kind_of
from agent.objects.model import Key
from agent.objects.problem import Finding, Invalid, Path, Problem, show

MAX_BYTES: Final = 4 * 1024 * 1024
"""Some 20,000 small objects; parsing takes up to sixty times as much memory for a moment."""


@dataclass(frozen=True, slots=True)
class Found:
    """One object of a file; `item` is None where it was refused."""

    key: Key
    item: Keyed | None
    line: int
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """What a file says. `is_whole` is False where some of it could not be made out: then nothing is known gone."""

    found: tuple[Found, ...] = ()
    problems: tuple[Problem, ...] = ()  # of no object that could be named
    is_whole: bool = True


def unreadable(file: str, message: str, line: int = 0) -> ManifestFile:
    """Return a file that says nothing one could rely on."""
    return ManifestFile(problems=(Problem(file=file, line=line, message=message),), is_whole=False)


def read_manifests(file: str, raw: bytes) -> ManifestFile:
    """Read the text of a file called `file`."""
    if len(raw) > MAX_BYTES:
        return unreadable(file, f"is larger than {MAX_BYTES // 1024**2} MiB: split it")
    if not raw.strip():
        return ManifestFile(is_whole=False)  # as an interrupted save leaves it
    found: list[Found] = []
    problems: list[Problem] = []
    try:
        for document in read_documents(raw):
            for item in _objects(document):
                try:
                    if (said := _read(file, item)) is not None:
                        found.append(said)
                except Invalid as error:  # nobody knows which object this was
                    problems += _problems(file, item, error.findings)
    except NotYaml as error:
        return unreadable(file, error.message, error.line)
    return ManifestFile(tuple(found), tuple(problems), is_whole=not problems)


@dataclass(frozen=True, slots=True)
class Located:
    """One object of a document: all of it, or an item of a `List`, as kubectl prints them."""

    document: Document
    content: Any
    path: Path = ()

    @property
    def line(self) -> int:
        """Where it begins."""
        return self.document.line_of(self.path)

    def line_of(self, path: Path) -> int:
        """Return the line of a field, or of what is nearest to it."""
        return self.document.line_of(self.path + path)


def locate(raw: bytes) -> dict[Key, Located]:
    """Return where the objects of a file's text are. Raises NotYaml."""
    found: dict[Key, Located] = {}
    for document in read_documents(raw):
        for item in _objects(document):
            with contextlib.suppress(Invalid):
                kind = kind_of(item.content) if isinstance(item.content, dict) else None
                if kind is not None:
                    found.setdefault(key_of(kind, item.content), item)
    return found


def _objects(document: Document) -> Iterator[Located]:
    content = document.content
    if isinstance(content, dict) and content.get("kind") == "List" and isinstance(content.get("items"), list):
        for position, item in enumerate(content["items"]):
            yield Located(document, item, ("items", position))
    else:
        yield Located(document, content)


def _read(file: str, item: Located) -> Found | None:
    """Return an object, refused or not; None for a kind that is not read. Raises Invalid where it has no name."""
    if not isinstance(item.content, dict):
        raise Invalid([Finding((), f"{show(item.content)} is not an object: apiVersion, kind, metadata ...")])
    kind = kind_of(item.content)
    if kind is None or kind.is_written_by_agents:
        return None
    key = key_of(kind, item.content)
    depth = len(item.path)
    faults = [fault for fault in item.document.faults if fault.path[:depth] == item.path]
    if faults:
        problems = [
            replace(_problem(file, item, Finding(fault.path[depth:], fault.message), key), line=fault.line)
            for fault in faults
        ]
        return Found(key, None, item.line, tuple(problems))
    try:
        return Found(key, decode(kind, key, item.content), item.line)
    except Invalid as error:
        return Found(key, None, item.line, tuple(_problems(file, item, error.findings, key)))


def _problems(file: str, item: Located, findings: tuple[Finding, ...], key: Key | None = None) -> list[Problem]:
    return [_problem(file, item, finding, key) for finding in findings]


def _problem(file: str, item: Located, finding: Finding, key: Key | None) -> Problem:
    kind = item.content.get("kind") if isinstance(item.content, dict) else None
    return Problem(
        file=file,
        line=item.line_of(finding.path),
        kind=key.kind if key else kind if isinstance(kind, str) else "",
        namespace=key.namespace if key else "",
        name=key.name if key else "",
        field=finding.field,
        message=finding.message,
        found=finding.found,
    )
