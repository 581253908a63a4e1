"""Selectors against label sets, without looking at every pair.

`SelectorIndex` answers which selectors match a label set, `Postings` which label sets a selector matches. Both rest
on one thing: a selector that requires a label can only match label sets that have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, Protocol, TypeVar

from policy.selector import Operator, Selector

T = TypeVar("T")


class SelectorIndex(Generic[T]):
    """Selectors with a value each; finds those that match a label set without looking at all of them."""

    __slots__ = ("_by_key", "_by_label", "_rest")

    def __init__(self) -> None:
        self._by_label: dict[tuple[str, str], dict[T, Selector]] = {}
        self._by_key: dict[str, dict[T, Selector]] = {}
        self._rest: dict[T, Selector] = {}

    def add(self, selector: Selector, value: T) -> None:
        """File a selector. A value is filed once."""
        wanted = _cheapest_in(selector)
        if wanted is not None:
            key, values = wanted
            for each in values:
                self._by_label.setdefault((key, each), {})[value] = selector
        elif (required_key := _required_key(selector)) is not None:
            self._by_key.setdefault(required_key, {})[value] = selector
        else:
            self._rest[value] = selector

    def remove(self, selector: Selector, value: T) -> None:
        """Take out what was filed."""
        wanted = _cheapest_in(selector)
        if wanted is not None:
            key, values = wanted
            for each in values:
                _discard(self._by_label, (key, each), value)
        elif (required_key := _required_key(selector)) is not None:
            _discard(self._by_key, required_key, value)
        else:
            del self._rest[value]

    def matching(self, labels: Mapping[str, str]) -> list[T]:
        """Return the values of the selectors that match."""
        found = [value for value, selector in self._rest.items() if selector.matches(labels)]
        for label in labels.items():
            for bucket in (self._by_label.get(label), self._by_key.get(label[0])):
                if bucket:
                    found += [value for value, selector in bucket.items() if selector.matches(labels)]
        return found

    def __bool__(self) -> bool:
        return bool(self._by_label or self._by_key or self._rest)


def _cheapest_in(selector: Selector) -> tuple[str, tuple[str, ...]] | None:
    """Return key and values of the In requirement with the fewest values."""
    wanted = [(key, values) for key, operator, values in selector.requirements if operator is Operator.IN]
    return min(wanted, key=lambda each: (len(each[1]), each), default=None)


def _required_key(selector: Selector) -> str | None:
    return next((key for key, operator, _values in selector.requirements if operator is Operator.EXISTS), None)


Key = TypeVar("Key")


def _discard(buckets: dict[Key, dict[T, Selector]], key: Key, value: T) -> None:
    bucket = buckets[key]
    del bucket[value]
    if not bucket:
        del buckets[key]


def _listed_key(selector: Selector) -> str | None:
    wanted = _cheapest_in(selector)
    return _required_key(selector) if wanted is None else wanted[0]


class _Labelled(Protocol):
    @property
    def labels(self) -> Mapping[str, str]: ...


Holder = TypeVar("Holder", bound=_Labelled)


class Postings(Generic[Holder]):
    """Holders of labels by key and value, for the keys that selectors in use require."""

    __slots__ = ("_by_key", "_holders", "_users")

    def __init__(self) -> None:
        self._holders: dict[Holder, None] = {}
        self._by_key: dict[str, dict[str, dict[Holder, None]]] = {}
        self._users: dict[str, int] = {}  # how many selectors a key is listed for

    def add(self, holder: Holder) -> None:
        """List a holder. Its labels stay as they are while it is listed."""
        self._holders[holder] = None
        for key, by_value in self._by_key.items():
            value = holder.labels.get(key)
            if value is not None:
                by_value.setdefault(value, {})[holder] = None

    def discard(self, holder: Holder) -> None:
        """Take out what was listed."""
        del self._holders[holder]
        for key, by_value in self._by_key.items():
            value = holder.labels.get(key)
            if value is not None:
                del by_value[value][holder]
                if not by_value[value]:
                    del by_value[value]

    def use(self, selector: Selector) -> list[Holder]:
        """Return the holders that a selector matches, and keep the key it requires listed."""
        return [holder for holder in self._candidates(selector) if selector.matches(holder.labels)]

    def release(self, selector: Selector) -> None:
        """Let go of a selector in use."""
        key = _listed_key(selector)
        if key is not None:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._by_key[key]

    def _candidates(self, selector: Selector) -> Iterable[Holder]:
        wanted = _cheapest_in(selector)
        if wanted is not None:
            key, values = wanted
            by_value = self._of_key(key)
            return (holder for value in values for holder in by_value.get(value, ()))
        key_wanted = _required_key(selector)
        if key_wanted is not None:
            return (holder for holders in self._of_key(key_wanted).values() for holder in holders)
        return self._holders

    def _of_key(self, key: str) -> dict[str, dict[Holder, None]]:
        self._users[key] = self._users.get(key, 0) + 1
        by_value = self._by_key.get(key)
        if by_value is None:
            by_value = self._by_key[key] = {}
            for holder in self._holders:
                value = holder.labels.get(key)
                if value is not None:
                    by_value.setdefault(value, {})[holder] = None
        return by_value
