"""Which VNIs packets in VXLAN may bear, remembered over restarts of the agent: routes tell that only of those in use.

A node that has not heard of another VNI yet uses the former one, and has to be understood by an agent that was killed
meanwhile, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import structlog

FILE_NAME: Final = "vnis.json"

log = structlog.get_logger("tunnels")


class RememberedVnis:
    """A file of them; without one, nothing is remembered."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._written: frozenset[int] | None = None

    def read(self) -> frozenset[int]:
        """Return what was written last; nothing where that cannot be read, which is said."""
        if self._file is None:
            return frozenset()
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=frozenset[int])
        except FileNotFoundError:
            return frozenset()
        except (OSError, msgspec.DecodeError) as error:
            log.warning("tunnel.vnis_forgotten", file=str(self._file), reason=str(error))
            return frozenset()

    def write(self, vnis: frozenset[int]) -> None:
        """Remember these, in place of all others. What cannot be written is said."""
        if self._file is None or vnis == self._written or not (vnis or self._written):
            return
        self._written = vnis
        temporary = self._file.with_suffix(".new")
        try:
            temporary.write_bytes(msgspec.json.encode(sorted(vnis)))
            temporary.replace(self._file)
        except OSError as error:
            log.warning("tunnel.vnis_not_remembered", file=str(self._file), reason=error.strerror or str(error))
