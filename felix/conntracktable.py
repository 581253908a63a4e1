"""How full the kernel's table of connections is. When it is full, packets of new connections are dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

_COUNT: Final = Path("/proc/sys/net/netfilter/nf_conntrack_count")
_LIMIT: Final = Path("/proc/sys/net/netfilter/nf_conntrack_max")
_STATISTICS: Final = Path("/proc/thread-self/net/stat/nf_conntrack")

NEARLY_FULL: Final = 0.9


class Usage(NamedTuple):
    """Connections there are and may be, and packets dropped, since the start, because there was no room for another."""

    entries: int
    limit: int
    drops: int

    @property
    def is_nearly_full(self) -> bool:
        """Whether more than nine tenths are taken."""
        return self.entries > NEARLY_FULL * self.limit


def usage(count: Path = _COUNT, limit: Path = _LIMIT, statistics: Path = _STATISTICS) -> Usage | None:
    """Return how full the table is; None where nothing tracks connections."""
    try:
        return Usage(int(count.read_text()), int(limit.read_text()), _drops(statistics))
    except (OSError, ValueError):
        return None


def _drops(statistics: Path) -> int:
    """Add up what the processors have counted: a line for each, hexadecimal, under headings."""
    try:
        headings, *rows = (line.split() for line in statistics.read_text().splitlines())
        column = headings.index("drop")
        return sum(int(row[column], 16) for row in rows)
    except (OSError, ValueError, IndexError):
        return 0
