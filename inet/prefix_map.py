"""Which prefix of many another one lies in: the longest-match table of a router, as a mapping.

Both families share one map. A look-up takes as many steps as there are lengths in use, which is one or two
where every node has a CIDR of the same size, however many nodes there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from inet.prefix import Prefix

V = TypeVar("V")


class PrefixMap(Mapping[Prefix, V]):
    """An unchanging mapping from prefixes; `covering` finds the longest one around another."""

    __slots__ = ("_items", "_lengths")

    def __init__(self, items: Mapping[Prefix, V]) -> None:
        self._items = dict(items)
        lengths: dict[int, set[int]] = {}
        for prefix in self._items:
            lengths.setdefault(len(prefix.packed), set()).add(prefix.length)
        self._lengths = {size: sorted(each, reverse=True) for size, each in lengths.items()}

    def covering(self, prefix: Prefix) -> V | None:
        """Return the value of the longest prefix that is or contains this one, None where there is none."""
        for length in self._lengths.get(len(prefix.packed), ()):
            if length <= prefix.length and (value := self._items.get(prefix.shortened(length))) is not None:
                return value
        return None

    def __getitem__(self, prefix: Prefix) -> V:
        return self._items[prefix]

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PrefixMap):
            return self is other or self._items == other._items
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal by content, as every mapping

    def __repr__(self) -> str:
        return f"PrefixMap({self._items!r})"
