"""Which prefix of many another one lies in: the longest-match table of a router, as a mapping.

Both families share one map. A look-up takes as many steps as there are lengths in use, which is one or two
where every node has a CIDR of the same size, however many nodes there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, ItemsView, Iterator, Mapping
from typing import TypeAlias, TypeVar
from weakref import ReferenceType, ref

from inet.prefix import Prefix

V = TypeVar("V")

_Shape: TypeAlias = tuple[int, int]
"""The size of an address in bytes, and the length of a prefix."""


class PrefixMap(Mapping[Prefix, V]):
    """An unchanging mapping from prefixes; `covering` finds the longest one around another."""

    __slots__ = ("__weakref__", "_items", "_lengths", "_origin", "_shapes")

    def __init__(self, items: Mapping[Prefix, V]) -> None:
        self._take(dict(items), Counter(map(_shape, items)))
        self._origin: tuple[ReferenceType[PrefixMap[V]], PrefixMap[V]] | None = None  # made of what, and what differs

    def _take(self, items: dict[Prefix, V], shapes: Counter[_Shape]) -> None:
        self._items, self._shapes = items, shapes  # how many prefixes there are by size and length
        self._lengths: dict[int, list[int]] = {}  # in use, by the size of an address in bytes; the longest first
        for size, length in sorted(self._shapes, reverse=True):
            if self._shapes[size, length]:
                self._lengths.setdefault(size, []).append(length)

    def replaced(self, gone: Collection[Prefix], new: Mapping[Prefix, V]) -> PrefixMap[V]:
        """Return another map, without some of the prefixes and with new ones. Costs what these are, and a copy."""
        items, shapes = dict(self._items), Counter(self._shapes)
        for prefix in gone:
            del items[prefix]
            shapes[_shape(prefix)] -= 1
        shapes.update(_shape(prefix) for prefix in new if prefix not in items)
        items |= new
        made: PrefixMap[V] = PrefixMap({})
        made._take(items, shapes)
        made._origin = (ref(self), PrefixMap({**{each: self._items[each] for each in gone}, **new}))
        return made

    def covering(self, prefix: Prefix) -> V | None:
        """Return the value of the longest prefix that is or contains this one, None where there is none."""
        for length in self._lengths.get(len(prefix.packed), ()):
            if length <= prefix.length and (value := self._items.get(prefix.shortened(length))) is not None:
                return value
        return None

    def lying_in(self, prefixes: Collection[Prefix]) -> list[Prefix]:
        """Return those of many prefixes that are, or lie in, one of this map's. Their first bytes tell most apart."""
        heads: dict[int, set[bytes]] = {}
        for prefix in self._items:
            heads.setdefault(prefix.length // 8, set()).add(prefix.packed[: prefix.length // 8])
        near = {prefix: None for length, some in heads.items() for prefix in prefixes if prefix.packed[:length] in some}
        return [prefix for prefix in near if self.covering(prefix) is not None]

    def differing(self, other: PrefixMap[V]) -> PrefixMap[V]:
        """Return the prefixes that have another value in another map, or are in one of the two alone.

        Of a map that was made by `replaced`, all that was replaced.
        """
        if other._origin is not None and other._origin[0]() is self:
            return other._origin[1]
        ours, theirs = self._items, other._items
        found = {prefix: value for prefix, value in theirs.items() if prefix not in ours}
        found |= {
            prefix: value
            for prefix, value in ours.items()
            if (its := theirs.get(prefix)) is not value and its != value  # nearly all are one object
        }
        return PrefixMap(found)

    def items(self) -> ItemsView[Prefix, V]:
        """Return all of it; as fast as a dictionary's."""
        return self._items.items()

    def __contains__(self, prefix: object) -> bool:
        return prefix in self._items

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


def _shape(prefix: Prefix) -> _Shape:
    return len(prefix.packed), prefix.length
