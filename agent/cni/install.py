"""CNI plugins put where the container runtime of a node looks for them, beside those that are there.

Other networks may use the plugins of the same directory, and a kubelet may be about to run any of them. So a file is
replaced in one step, never written to; what somebody else put there stays as long as it works, and what we put there
earlier is brought up to date. A file of ours says which those are.
"""

from __future__ import annotations

import enum
import hashlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from agent.cni.atomic import TEMPORARY, replace_file
from agent.cni.conflist import CNI_VERSIONS, PLUGINS, VERSIONS_FILE

RECORD_NAME: Final = ".tortie.json"
"""In the directory: sha256 of every plugin that we put there, by name."""

PROGRAMS: Final = ("loopback", *PLUGINS)
"""What is installed: runtimes give every pod `loopback`, without a configuration that names it."""

_OWN: Final = "tortie-cni"
_VERSION_LIMIT_S: Final = 10.0


class Outcome(enum.Enum):
    """What became of one plugin."""

    INSTALLED = "installed"
    UPDATED = "updated"
    SAME = "up to date"
    KEPT = "another's, left alone: it works"
    REPLACED = "another's, replaced: it did not work"


@dataclass(frozen=True, slots=True)
class Installed:
    """One plugin, and the CNI versions that what is there now speaks."""

    name: str
    outcome: Outcome
    versions: frozenset[str]


class InstallError(Exception):
    """Nothing can be installed; the text says why."""


def install(source: Path, target: Path) -> list[Installed]:
    """Have every plugin of `source` in `target`. Raises InstallError, and OSError with the file it is about."""
    lacking = [name for name in PROGRAMS if not (source / name).is_file()]
    if lacking:
        raise InstallError(f"{source} has no {', '.join(lacking)}")
    if not target.is_dir():
        raise InstallError(f"{target} is no directory")
    for left in target.glob(f".*{TEMPORARY}"):  # by one that was killed
        left.unlink()
    record = read_record(target)
    done = []
    for name in PROGRAMS:
        done.append(_install_one(name, (source / name).read_bytes(), target, record))
        replace_file(target / RECORD_NAME, msgspec.json.encode(record))
    return done


def common_versions(plugins: list[Installed]) -> list[str]:
    """Return the CNI versions, of those a conflist may have, that all plugins speak; never none."""
    return [each for each in CNI_VERSIONS if all(each in plugin.versions for plugin in plugins)] or [CNI_VERSIONS[0]]


def note_versions(run_dir: Path, versions: Sequence[str]) -> None:
    """Note for agents to come which CNI versions all plugins of this node speak. Raises OSError."""
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(run_dir / VERSIONS_FILE, " ".join(versions).encode() + b"\n")


def _install_one(name: str, content: bytes, target: Path, record: dict[str, str]) -> Installed:
    path = target / name
    digest = hashlib.sha256(content).hexdigest()
    try:
        there = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        there = ""
    outcome = Outcome.SAME
    if not there:
        outcome = Outcome.INSTALLED
    elif there != digest:
        if name == _OWN or record.get(name) == there:
            outcome = Outcome.UPDATED
        else:
            outcome = Outcome.KEPT if CNI_VERSIONS[0] in spoken(path) else Outcome.REPLACED
    if outcome in {Outcome.INSTALLED, Outcome.UPDATED, Outcome.REPLACED}:
        replace_file(path, content, mode=0o755)
        record[name] = digest
    elif outcome is Outcome.KEPT:
        record.pop(name, None)
    return Installed(name, outcome, spoken(path))


def spoken(path: Path) -> frozenset[str]:
    """Return the CNI versions that a plugin says it speaks; none where it cannot be run."""
    try:
        answer = subprocess.run(
            [path],
            input=b'{"cniVersion": "1.0.0", "name": "versions"}',
            env={"CNI_COMMAND": "VERSION", "CNI_PATH": str(path.parent)},
            capture_output=True,
            timeout=_VERSION_LIMIT_S,
            check=True,
        ).stdout
        return frozenset(msgspec.json.decode(answer, type=_Versions).supported)
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError):
        return frozenset()


class _Versions(msgspec.Struct):
    supported: list[str] = msgspec.field(name="supportedVersions")


def read_record(target: Path) -> dict[str, str]:
    """Return sha256 of every plugin that we put into a directory, by name."""
    try:
        return msgspec.json.decode((target / RECORD_NAME).read_bytes(), type=dict[str, str])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}
