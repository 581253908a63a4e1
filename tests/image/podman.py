"""The image that is looked at, and podman.

PODMAN may hold the command with options (`podman --root /var/x`), and TORTIE_IMAGE name another image.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import Final

from agent import __version__

IMAGE: Final = os.environ.get("TORTIE_IMAGE", f"localhost/tortie:{__version__}")
PODMAN: Final = shlex.split(os.environ.get("PODMAN", "podman"))


def podman(*arguments: str) -> str:
    """Run podman, which must be content, and return what it prints."""
    done = subprocess.run([*PODMAN, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
    return done.stdout
