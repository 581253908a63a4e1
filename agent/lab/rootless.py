"""Labs without root: inside a user namespace of one's own, which has its own network and its own /run.

What is left out there is FRR: its daemons change to the user frr, whom such a namespace does not have.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_ENTER: Final = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child")
_PREPARE: Final = 'mount -t proc proc /proc && mount -t tmpfs tmpfs /run && exec "$@"'


def command(argv: Sequence[str]) -> list[str]:
    """Return the command that runs `argv` in a user namespace; everything started in it ends with it."""
    return [*_ENTER, "sh", "-c", _PREPARE, "sh", *argv]


def enter_unless_root() -> None:
    """Run this very program again in a user namespace, in place of this process. Returns for root."""
    if os.geteuid() != 0:
        argv = command([sys.executable, *sys.orig_argv[1:]])
        os.execvp(argv[0], argv)  # noqa: S606 - no shell is wanted


def has_user(name: str) -> bool:
    """Whether a user exists and processes here can become that user."""
    try:
        uid = pwd.getpwnam(name).pw_uid
    except KeyError:
        return False
    ranges = (map(int, line.split()) for line in Path("/proc/self/uid_map").read_text().splitlines())
    return any(first <= uid < first + count for first, _, count in ranges)
