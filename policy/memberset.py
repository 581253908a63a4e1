"""The members of one set, counted, with what changed since somebody last asked.

Updates come in any number and order; the difference that is left between two drains is what the kernel has to hear.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from policy.objects import NamedPort

Element: TypeAlias = bytes | tuple[bytes, int, int]
"""A packed address, or for a named port: address, protocol, port."""


class MemberSet:
    """The elements of one set: addresses of one family, or their ports of one name.

    Elements are counted, because two pods may carry one address for a moment (an old one's object lives on a little).
    """

    __slots__ = ("_dirty", "_journal", "_port_name", "_protocol", "_width", "counts")

    def __init__(
        self, width: int, dirty: set[MemberSet], port_name: str | None = None, protocol: int | None = None
    ) -> None:
        """Build an empty set; `width` is an address's length in bytes, `dirty` is told of changes."""
        self.counts: dict[Element, int] = {}
        self._width = width
        self._port_name = port_name
        self._protocol = protocol
        self._dirty = dirty
        self._journal: dict[Element, bool] = {}  # changed since the last drain: was it in before?

    def _elements(self, addresses: Iterable[bytes], ports: Iterable[NamedPort]) -> Iterator[Element]:
        for address in addresses:
            if len(address) != self._width:
                continue
            if self._port_name is None:
                yield address
                continue
            for name, protocol, port in ports:
                if name == self._port_name and self._protocol in {None, protocol}:
                    yield address, protocol, port

    def add(self, addresses: Iterable[bytes], ports: Iterable[NamedPort] = ()) -> None:
        """Count one pod in."""
        for element in self._elements(addresses, ports):
            count = self.counts.get(element, 0)
            self.counts[element] = count + 1
            if not count:
                self._changed(element, was_in=False)

    def remove(self, addresses: Iterable[bytes], ports: Iterable[NamedPort] = ()) -> None:
        """Count one pod out."""
        for element in self._elements(addresses, ports):
            count = self.counts[element]
            if count > 1:
                self.counts[element] = count - 1
            else:
                del self.counts[element]
                self._changed(element, was_in=True)

    def fill(self, pods: Iterable[Iterable[bytes]], ports: Iterable[NamedPort]) -> None:
        """Count in many pods with the same ports, into a set that nobody has been told of yet: nothing is noted."""
        counts = self.counts
        for addresses in pods:
            # Spelt out for the plain case: thousands of pods join a new set while somebody waits.
            for element in addresses if self._port_name is None else self._elements(addresses, ports):
                if isinstance(element, tuple) or len(element) == self._width:
                    counts[element] = counts.get(element, 0) + 1

    def _changed(self, element: Element, *, was_in: bool) -> None:
        if not self._journal:
            self._dirty.add(self)
        self._journal.setdefault(element, was_in)

    def drain(self) -> tuple[frozenset[Element], frozenset[Element]]:
        """Return what was added and what was removed since the last time; there and back again is neither."""
        added = frozenset(each for each, was_in in self._journal.items() if not was_in and each in self.counts)
        removed = frozenset(each for each, was_in in self._journal.items() if was_in and each not in self.counts)
        self._journal.clear()
        self._dirty.discard(self)
        return added, removed
