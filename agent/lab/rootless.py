"""Labs without root: inside a user namespace of one's own, which has its own network and its own /run.

What is left out there: FRR, whose daemons change to a user that such a namespace does not have.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

_ENTER: Final = (
    "unshare",
    "--user",
    "--map-root-user",
    "--net",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "sh",
    "-c",
)
_PREPARE: Final = 'mount -t proc proc /proc && mount -t tmpfs tmpfs /run && exec "$@"'
_MARK: Final = "TORTIE_LAB_ROOTLESS"


def is_rootless() -> bool:
    """Whether this process was started by `enter`."""
    return _MARK in os.environ


def command(argv: Sequence[str]) -> list[str]:
    """Return the command that runs `argv` in a user namespace; everything started in it ends with it."""
    return [*_ENTER, _PREPARE, "sh", *argv]


def enter_unless_root() -> None:
    """Run this very program again in a user namespace, in place of this process. Does nothing for root."""
    if os.geteuid() != 0:
        _replace(command([sys.executable, *sys.orig_argv[1:]]))


def _replace(argv: Sequence[str]) -> NoReturn:
    os.execvpe(argv[0], list(argv), {**os.environ, _MARK: "1"})  # noqa: S606 - no shell is wanted
