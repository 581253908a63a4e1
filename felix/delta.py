"""What should be, what is, and the keys where the two differ: the one place where that is compared.

Used for anything that is kept in the kernel: whoever decides calls `want` and `unwant`, whoever writes goes through
`pending` and says with `found` and `lost` what the kernel has now. Each of these costs the same however large the maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Delta(Generic[K, V]):
    """Maps of desired and actual values, which are compared with `==` and are never None.

    The dictionaries are there to be read; `pending` holds the keys to work on, in the order they came up.
    """

    __slots__ = ("actual", "desired", "pending")

    def __init__(self) -> None:
        self.desired: dict[K, V] = {}
        self.actual: dict[K, V] = {}
        self.pending: dict[K, None] = {}

    def want(self, key: K, value: V) -> None:
        """Say what should be."""
        self.desired[key] = value
        self._compare(key)

    def unwant(self, key: K) -> None:
        """Say that nothing should be."""
        self.desired.pop(key, None)
        self._compare(key)

    def found(self, key: K, value: V) -> None:
        """Say what is."""
        self.actual[key] = value
        self._compare(key)

    def lost(self, key: K) -> None:
        """Say that nothing is."""
        self.actual.pop(key, None)
        self._compare(key)

    def found_these(self, present: Mapping[K, V]) -> None:
        """Say all that is; looks at each of it."""
        for key in self.actual.keys() - present.keys():
            self.lost(key)
        known = self.actual
        for key in [key for key, value in present.items() if known.get(key) != value]:
            self.found(key, present[key])

    def _compare(self, key: K) -> None:
        if self.desired.get(key) == self.actual.get(key):
            self.pending.pop(key, None)
        else:
            self.pending[key] = None
