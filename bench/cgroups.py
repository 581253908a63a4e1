"""Groups that share the CPUs evenly, as on a node: pods are in one of the kubelet's, the runtime is in another.

A group that was idle comes at once where one process of a crowd waits for its turn, so a figure taken among processes
without groups is not that of a node. cgroups(7), versions 1 and 2.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from bench.measure import BenchError

_ROOT: Final = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def sharing(groups: Mapping[str, Collection[int]]) -> Iterator[None]:
    """Have processes in groups of equal weight, each with its name, until the block ends.

    Processes that they start come into the same group. Raises BenchError where groups cannot be had.
    """
    parent = _ROOT / "cpu" if (_ROOT / "cpu").is_dir() else _ROOT
    made: list[Path] = []
    try:
        for name, pids in groups.items():
            group = parent / f"{name}-{os.getpid()}"
            group.mkdir()
            made.append(group)
            for pid in pids:
                _move(pid, group)
        yield
    except OSError as error:
        raise BenchError(f"{error.filename}: {error.strerror}") from None
    finally:
        for group in made:
            for left in (group / "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError):
                    _move(int(left), parent)
            group.rmdir()


def _move(pid: int, group: Path) -> None:
    (group / "cgroup.procs").write_text(str(pid))
