"""host-local's files: one for each address that is taken, in a directory for each network (its `disk` backend)."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from agent.cni.leases import Lease, parse

_LOCK: Final = "lock"


def read(directory: Path) -> list[Lease]:
    """Return every lease of a network; none where it never had one. Raises OSError."""
    try:
        paths = sorted(directory.iterdir())
    except FileNotFoundError:
        return []
    return [lease for path in paths if (lease := _read(path)) is not None]


def free(directory: Path, leases: Iterable[Lease]) -> list[Lease]:
    """Free leases, under host-local's own lock; return those freed. One that changed since is left. Raises OSError."""
    freed = []
    with _locked(directory):
        for lease in leases:
            path = directory / lease.name
            if _read(path) == lease:
                path.unlink()
                freed.append(lease)
    return freed


def _read(path: Path) -> Lease | None:
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        return parse(path.name, path.read_text(encoding="utf-8", errors="replace"), path.stat().st_mtime_ns)
    return None


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    with (directory / _LOCK).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
