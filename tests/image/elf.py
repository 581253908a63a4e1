"""What the header of a program or library says about where it runs."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

MACHINES: Final = {"amd64": 62, "arm64": 183}
"""e_machine by the name that images and Go have for it (elf.h: EM_X86_64, EM_AARCH64)."""

_HEADER: Final = struct.Struct("<16s2HI3QI6H")
_SEGMENT: Final = struct.Struct("<2I6Q")
_LOAD, _INTERPRETER = 1, 3


class Elf(NamedTuple):
    """A 64-bit little-endian file: the machine, whether it needs a loader, and the largest page it can be loaded by."""

    machine: int
    needs_loader: bool
    page_bytes: int


def read(data: bytes) -> Elf | None:
    """Read a file; None if it is no ELF file."""
    if data[:6] != b"\x7fELF\x02\x01":
        return None
    _, _, machine, _, _, offset, _, _, _, size, count, *_ = _HEADER.unpack_from(data)
    segments = [_SEGMENT.unpack_from(data, offset + number * size) for number in range(count)]
    aligned = min((each[-1] for each in segments if each[0] == _LOAD), default=0)
    return Elf(machine, any(each[0] == _INTERPRETER for each in segments), aligned)
