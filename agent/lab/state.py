"""Where a running lab is written down, so that every later command finds all of it, and `down` takes all away.

ROOT/NAME/lab.json             the topology as it was, the namespaces
ROOT/NAME/faults.json          cut cables and machines without power
ROOT/NAME/hosts                names of everything
ROOT/NAME/config/              what agents read: nodes.yaml, pods.yaml, manifests/ (the user's directory, mounted there)
ROOT/NAME/machines/MACHINE/    configuration, sockets, logs and process ids of what runs there
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

from agent.lab.processes import Process
from agent.lab.topology import Announcement, Topology, parse

_SOCKET_PATH_MAX: Final = 107  # sun_path less its final 0 (linux/un.h)


class LabError(Exception):
    """The lab cannot do what was asked; the text says why and what to do."""


def default_root() -> Path:
    """Return where labs are kept: /run/tortie-lab for root (a user namespace's too), else the user's own."""
    if os.geteuid() == 0:
        return Path("/run/tortie-lab")
    return Path(os.environ.get("XDG_RUNTIME_DIR", f"/tmp/run-{os.geteuid()}")) / "tortie-lab"  # noqa: S108 - per user


@dataclass(slots=True)
class Faults:
    """What was broken on purpose. Links are numbers of cables in the plan."""

    cut: set[int] = field(default_factory=set)
    silent: set[int] = field(default_factory=set)
    off: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class State:
    """The directory of one lab."""

    path: Path

    @classmethod
    def create(cls, root: Path, topology: Topology, namespaces: Sequence[str]) -> State:
        """Make the directory, whole at once; that it is not there already is what makes a name unique.

        Raises LabError.
        """
        state = cls(root / topology.name)
        root.mkdir(mode=0o755, parents=True, exist_ok=True)
        being_made = Path(mkdtemp(prefix=f".{topology.name}.", dir=root))
        being_made.chmod(0o755)
        record = {"topology": topology.model_dump(mode="json", by_alias=True), "namespaces": list(namespaces)}
        _write(being_made / "lab.json", json.dumps(record, indent=1))
        (being_made / "config" / "manifests").mkdir(parents=True)
        (being_made / "machines").mkdir()
        try:
            being_made.rename(state.path)
        except OSError as error:
            shutil.rmtree(being_made)
            if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
                raise
            raise LabError(
                f"lab {topology.name} is up already: `tortie lab down {topology.name}` first, or give another --name"
            ) from None
        return state

    @classmethod
    def find(cls, root: Path, name: str) -> State:
        """Return the directory of a lab that is up, wholly or in part. Raises LabError."""
        state = cls(root / name)
        if not (state.path / "lab.json").is_file():
            up = ", ".join(running(root)) or "none"
            raise LabError(f"lab {name} is not up (up: {up})")
        return state

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.path.name

    @property
    def hosts(self) -> Path:
        """What is /etc/hosts in the lab."""
        return self.path / "hosts"

    @property
    def config(self) -> Path:
        """The directory that agents read."""
        return self.path / "config"

    @property
    def manifests(self) -> Path:
        """Where the user's directory is mounted for agents, and manifests may be put if there is none."""
        return self.config / "manifests"

    def topology(self) -> Topology:
        """Return the topology as it was at `up`."""
        return parse(self._record()["topology"])

    def namespaces(self) -> list[str]:
        """Return every namespace the lab made or meant to make."""
        names: list[str] = self._record()["namespaces"]
        return names

    def _record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.path / "lab.json").read_text())
        return record

    def machine(self, name: str) -> Path:
        """Return the directory of a machine."""
        return self.path / "machines" / name

    def check_socket(self, path: Path) -> None:
        """Raise LabError for a path no socket can have."""
        if len(os.fsencode(path)) > _SOCKET_PATH_MAX:
            raise LabError(f"{path} is too long for a socket ({_SOCKET_PATH_MAX} bytes at most): give a shorter name")

    def log(self, machine: str, program: str) -> Path:
        """Return where a program's output goes."""
        return self.machine(machine) / f"{program}.log"

    def remember(self, machine: str, program: str, process: Process) -> None:
        """Note a process that was started."""
        _write(self.machine(machine) / f"{program}.process", json.dumps(asdict(process)))

    def processes(self, machine: str | None = None) -> Iterator[tuple[str, str, Process]]:
        """Yield (machine, program, process) of everything that was started, in no matter what condition."""
        for path in sorted(self.path.glob(f"machines/{machine or '*'}/*.process")):
            yield path.parent.name, path.stem, Process(**json.loads(path.read_text()))

    def forget(self, machine: str, program: str) -> None:
        """Drop the note of a process that was stopped."""
        (self.machine(machine) / f"{program}.process").unlink(missing_ok=True)

    def faults(self) -> Faults:
        """Return what is broken on purpose."""
        with suppress(FileNotFoundError):
            record: Mapping[str, Any] = json.loads((self.path / "faults.json").read_text())
            return Faults(set(record["cut"]), set(record["silent"]), set(record["off"]))
        return Faults()

    def set_faults(self, faults: Faults) -> None:
        """Note what is broken on purpose."""
        record = {"cut": sorted(faults.cut), "silent": sorted(faults.silent), "off": sorted(faults.off)}
        _write(self.path / "faults.json", json.dumps(record))

    def announced(self, machine: str, default: Sequence[Announcement]) -> tuple[Announcement, ...]:
        """Return what a speaker originates now; at first what its topology says."""
        try:
            entries = json.loads((self.machine(machine) / "announced.json").read_text())
        except FileNotFoundError:
            return tuple(default)
        return tuple(Announcement.model_validate(entry) for entry in entries)

    def set_announced(self, machine: str, announced: Sequence[Announcement]) -> None:
        """Note what a speaker originates."""
        entries = [it.model_dump(mode="json", by_alias=True) for it in announced]
        _write(self.machine(machine) / "announced.json", json.dumps(entries))

    def remove(self) -> None:
        """Delete the directory, and the root if this was the last."""
        shutil.rmtree(self.path)
        with suppress(OSError):
            self.path.parent.rmdir()


def running(root: Path) -> list[str]:
    """Return the names of the labs that are up."""
    return sorted(path.parent.name for path in root.glob("*/lab.json"))


def the_only_name(root: Path) -> str:
    """Return the name of the lab that is up when there is just one. Raises LabError."""
    names = running(root)
    if len(names) != 1:
        raise LabError(f"several labs are up: say which of {', '.join(names)}" if names else "no lab is up")
    return names[0]


def _write(path: Path, text: str) -> None:
    """Write a file so that it is there in full or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)
