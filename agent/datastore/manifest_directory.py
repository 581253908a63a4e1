"""A directory of manifests as it is now, with what it said before wherever it makes no sense now.

`ManifestDirectory.read` looks at the files, reads those that changed, and returns every object in force and every
problem. An object that became bad keeps its last good version; a file that cannot be read or is half written keeps
all it said; of two objects with one key that in the file first by path wins; a pod's namespace that no file describes
is there all the same. Nothing here is asynchronous or watches anything: `agent.datastore.directory` does, in a thread.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from agent.datastore.manifest_file import MAX_BYTES, ManifestFile, read_manifests, unreadable
from agent.objects.kinds import Keyed
from agent.objects.model import Key
from agent.objects.policy_objects import implied_namespaces
from agent.objects.problem import Problem

SUFFIXES: Final = (".yaml", ".yml", ".json")

LAST_GOOD: Final = "The last good version stays in force."
IGNORED: Final = "It is ignored."
FILE_STAYS: Final = "What the file said before stays in force."
DIRECTORY_STAYS: Final = "What its files said before stays in force."
MISSING_STAYS: Final = "It is ignored; what the file no longer says stays in force."

_CLOCK_GRAIN_NS: Final = 100_000_000
"""A file written so shortly ago may be written again without a change of its times."""

Stamp: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class View:
    """Everything a directory says: objects in force, what is wrong, and why it could not be read at all."""

    objects: Mapping[Key, Keyed] = field(default_factory=dict)
    files: Mapping[Key, str] = field(default_factory=dict)  # where an object comes from, as it is read now
    problems: tuple[Problem, ...] = ()
    error: str = ""  # the directory itself is not readable: `objects` are those of before


class _Seen(NamedTuple):
    """A file as it was when it was read; without a stamp it has to be read again."""

    stamp: Stamp | None
    content: ManifestFile


class _Held(NamedTuple):
    """An object a file has in force, and its line there."""

    item: Keyed
    line: int


class ManifestDirectory:
    """The files below a directory. Not for use by two threads at once."""

    def __init__(self, root: Path | str) -> None:
        self._root = str(root)
        self._seen: dict[str, _Seen] = {}
        self._held: dict[str, dict[Key, _Held]] = {}
        self._objects: dict[Key, Keyed] = {}

    def read(self) -> View:
        """Look at every file, read what changed."""
        listing = _Listing()
        try:
            listing.walk(self._root)
        except OSError as error:
            reason = _reason(error)
            stays = "The objects of before stay in force." if self._objects else ""
            problem = Problem(file=self._root, message=reason, consequence=stays)
            return View(self._objects, problems=(problem,), error=reason)
        seen = {name: look for name in listing.files if (look := _look(name, self._seen.get(name))) is not None}
        problems: list[Problem] = []
        for directory, reason in listing.unreadable.items():
            seen |= {name: look for name, look in self._seen.items() if name.startswith(directory + os.sep)}
            problems.append(Problem(file=directory, message=reason, consequence=DIRECTORY_STAYS))
        self._seen = seen
        return self._settle(problems)

    def _settle(self, problems: list[Problem]) -> View:
        """Decide what is in force: for each file what it holds, then for each object which file."""
        held: dict[str, dict[Key, _Held]] = {}
        for file in sorted(self._seen):
            held[file] = self._hold(file, self._seen[file].content, problems)
        origins: dict[Key, str] = {}
        objects: dict[Key, Keyed] = {}
        for file, content in held.items():
            for key, (item, line) in content.items():
                if key in origins:
                    problems.append(_duplicate(key, file, line, origins[key]))
                else:
                    origins[key], objects[key] = f"{file}:{line}", item
        self._keep_what_moved(held, objects)
        for file, content in held.items():
            for found in self._seen[file].content.found:
                if found.item is None:
                    consequence = LAST_GOOD if found.key in content else IGNORED
                    problems += (replace(problem, consequence=consequence) for problem in found.problems)
        self._held, self._objects = held, objects
        files = {key: file for file, content in reversed(held.items()) for key in content}
        return View(objects | implied_namespaces(objects), files, tuple(sorted(problems)))

    def _hold(self, file: str, content: ManifestFile, problems: list[Problem]) -> dict[Key, _Held]:
        """Return what a file has in force: what it says, and what it said before where that is not known to be gone."""
        before = self._held.get(file, {})
        held: dict[Key, _Held] = {}
        for found in content.found:
            if found.key in held:
                problems.append(_duplicate(found.key, file, found.line, f"{file}:{held[found.key].line}"))
            elif found.item is not None:
                held[found.key] = _Held(found.item, found.line)
            elif found.key in before:
                held[found.key] = _Held(before[found.key].item, found.line)
        if content.is_whole:
            return held
        stays = MISSING_STAYS if content.found else FILE_STAYS
        said = content.problems
        if before and not said:
            said = (Problem(file=file, message="is empty: delete the file to delete what was in it"),)
        problems += (replace(problem, consequence=stays if before else IGNORED) for problem in said)
        return before | held

    def _keep_what_moved(self, held: dict[str, dict[Key, _Held]], objects: dict[Key, Keyed]) -> None:
        """Keep the last good version of a refused object that came from another file, now without it."""
        for file, content in held.items():
            for found in self._seen[file].content.found:
                if found.item is None and found.key not in objects and found.key in self._objects:
                    objects[found.key] = self._objects[found.key]
                    content[found.key] = _Held(objects[found.key], found.line)


def _duplicate(key: Key, file: str, line: int, winner: str) -> Problem:
    return Problem(
        file=file,
        line=line,
        kind=key.kind,
        namespace=key.namespace,
        name=key.name,
        message=f"is also in {winner}, which comes first",
        consequence=IGNORED,
    )


def _reason(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error)


@dataclass(slots=True)
class _Listing:
    """Manifest files below a directory, links followed, hidden names (`..data`, editors' own) left out."""

    files: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)  # directory -> reason
    visited: set[tuple[int, int]] = field(default_factory=set)  # a link may lead back up

    def walk(self, directory: str) -> None:
        """Add what is below a directory. Raises OSError where it cannot be listed itself."""
        status = Path(directory).stat()
        if (status.st_dev, status.st_ino) in self.visited:
            return
        self.visited.add((status.st_dev, status.st_ino))
        with os.scandir(directory) as entries:
            shown = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
        for entry in shown:
            if entry.is_dir():
                try:
                    self.walk(entry.path)
                except OSError as error:
                    self.unreadable[entry.path] = _reason(error)
            elif entry.name.endswith(SUFFIXES):
                self.files.append(entry.path)


def _look(name: str, seen: _Seen | None) -> _Seen | None:
    """Read a file unless it is as it was. None where it is gone by now."""
    try:
        status = Path(name).stat()
        if not stat.S_ISREG(status.st_mode):
            return _Seen(None, unreadable(name, "is not a regular file"))
        if seen is not None and seen.stamp == _stamp(status):
            return seen
        began = time.time_ns()
        with Path(name).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        return _Seen(None, unreadable(name, _reason(error))) if os.path.lexists(name) else None
    is_settled = began - max(status.st_mtime_ns, status.st_ctime_ns) > _CLOCK_GRAIN_NS
    return _Seen(_stamp(status) if is_settled else None, read_manifests(name, raw))


def _stamp(status: os.stat_result) -> Stamp:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
