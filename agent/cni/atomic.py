"""A whole file in the place of another, in one step: whoever reads it meanwhile sees the one or the other."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Final

TEMPORARY: Final = ".tortie-tmp"
"""How names of files end that are not whole yet: nobody reads configurations or plugins of such names."""


def replace_file(path: Path, content: bytes, *, mode: int = 0o644) -> bool:
    """Have a file say this; whether it said something else. Raises OSError, and then it is as it was."""
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == content:
            return False
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return True
