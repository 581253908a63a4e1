"""Addresses that are taken though nobody has them: which, and since when.

host-local keeps a file for each address it gave, and frees it at DEL. A sandbox that vanishes without one (a runtime
that lost its state, a node switched off) leaves its file, and in the end a node out of addresses.

A lease is alive while a marked link names its sandbox or some link leads to its address: both are there as long as the
sandbox's network namespace is, whatever the runtime remembers. Between host-local's turn and the link's making an ADD
has neither, so a lease is only freed when it was found dead, the same one, for longer than any runtime lets an ADD
take. Time is counted by a clock of our own: that of files can jump.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

GRACE_S: Final = 300.0
"""A kubelet gives up on a sandbox after four minutes (twice its runtimeRequestTimeout of two)."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One file of host-local's."""

    name: str  # of the file: the address as it wrote it
    address: bytes  # packed
    container: str
    taken: int  # time of the file, ns: tells a lease from a later one of the same sandbox


def parse(name: str, content: str, taken: int) -> Lease | None:
    """Read a file; None for those that are no leases (`lock`, `last_reserved_ip.0`)."""
    try:
        address = ip_address(name).packed
    except ValueError:
        return None
    lines = content.split()  # sandbox, and since host-local 0.8 the interface
    return Lease(name, address, lines[0] if lines else "", taken)


class LeakWatch:
    """Which leases were dead when last looked at, and since when."""

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self._grace_s = grace_s
        self._dead_since: dict[Lease, float] = {}

    def look(
        self, leases: Iterable[Lease], containers: Collection[str], addresses: Collection[bytes], now: float
    ) -> list[Lease]:
        """Return the leases that are to be freed, given the sandboxes that are named and the addresses led to."""
        dead = [each for each in leases if each.container not in containers and each.address not in addresses]
        self._dead_since = {each: self._dead_since.get(each, now) for each in dead}
        return [each for each in dead if now - self._dead_since[each] >= self._grace_s]
