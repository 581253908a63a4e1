"""A rule table in memory that refuses what the kernel refuses, and fails on demand."""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Final

from felix.nft.elements import Elements, Key, Value
from felix.nft.table import Batch, ChainShape, Definition, Refusal, SetShape, SetText, Structure

_REFERENCE: Final = re.compile(r"(?:jump|goto) (\w+)|@(\w+)")
_BASE: Final = re.compile(r"\s*type .*")

_ABSENT: Final = os.strerror(errno.ENOENT)
_BUSY: Final = os.strerror(errno.EBUSY)
_EXISTS: Final = os.strerror(errno.EEXIST)


class FakeRuleTable:
    """See `felix.nft.table.RuleTable`. What it has is open to tests, and `written` is a log."""

    def __init__(self) -> None:
        self.exists = False
        self.chains: dict[str, str] = {}
        self.sets: dict[str, SetText] = {}
        self.elements: dict[str, dict[Key, Value]] = {}
        self.written: list[Definition | Batch] = []
        self._faults: list[str] = []

    def fail_next(self, message: str, times: int = 1) -> None:
        """Let the next transactions be refused in these words."""
        self._faults += [message] * times

    def flush(self) -> None:
        """Do what `nft flush ruleset` does."""
        self.exists = False
        self.chains.clear()
        self.sets.clear()
        self.elements.clear()

    async def read(self) -> Structure | None:
        """Return what there is, None if there is no table."""
        await asyncio.sleep(0)
        return self._structure() if self.exists else None

    async def read_elements(self, name: str, shape: SetShape) -> Elements:  # noqa: ARG002 - elements are values already
        """Return the elements of a set."""
        await asyncio.sleep(0)
        if name not in self.elements:
            raise OSError(errno.ENOENT, _ABSENT)
        return dict(self.elements[name])

    async def rehearse(self, definition: Definition) -> Structure | list[Refusal]:
        """Return what an empty table would be after `define`."""
        await asyncio.sleep(0)
        stage = FakeRuleTable()
        return list(stage._apply_definition(definition)) or stage._structure()

    async def define(self, definition: Definition) -> list[Refusal]:
        """Write structure, all of it or nothing."""
        return await self._transaction(definition)

    async def write(self, batch: Batch) -> list[Refusal]:
        """Write elements and remove what is unused, all of it or nothing."""
        return await self._transaction(batch) if batch else []

    def close(self) -> None:
        """Do nothing."""

    async def _transaction(self, change: Definition | Batch) -> list[Refusal]:
        await asyncio.sleep(0)
        self.written.append(change)
        if self._faults:
            return [Refusal("", self._faults.pop(0))]
        before = deepcopy((self.exists, self.chains, self.sets, self.elements))
        apply = self._apply_definition(change) if isinstance(change, Definition) else self._apply_batch(change)
        refusals = list(apply)
        if refusals:
            self.exists, self.chains, self.sets, self.elements = before
        await asyncio.sleep(0)
        return refusals

    def _structure(self) -> Structure:
        return Structure(
            {name: _shape(text) for name, text in self.chains.items()},
            {name: SetShape(8 if each.is_map else 0, each.text) for name, each in self.sets.items()},
        )

    def _apply_definition(self, definition: Definition) -> Iterator[Refusal]:
        self.exists = True
        for name in definition.maps_emptied:
            self.elements[name].clear()
        for name in (*definition.chains_emptied, *definition.chains_removed):
            if name in self.chains:
                self.chains[name] = "".join(_BASE.findall(self.chains[name]))
        for name in definition.chains_removed:
            yield from self._remove_chain(name)
        for name in definition.sets_removed:
            yield from self._remove_set(name)
        for name, each in definition.sets.items():
            if self.sets.setdefault(name, each) != each:
                yield Refusal(name, _EXISTS)
            self.elements.setdefault(name, {})
        yield from self._define_chains(definition)

    def _define_chains(self, definition: Definition) -> Iterator[Refusal]:
        for name, text in definition.chains.items():
            present = self.chains.get(name, "")
            self.chains[name] = "\n".join((present, _BASE.sub("", text) if present else text))
        for name, text in definition.chains.items():
            for line in text.splitlines():
                if not _references(line) <= self.chains.keys() | self.sets.keys():
                    yield Refusal(name, _ABSENT, line.strip())

    def _apply_batch(self, batch: Batch) -> Iterator[Refusal]:
        for change in sorted(batch.elements, key=lambda change: change.is_added):
            present = self.elements.get(change.set)
            if present is None or not {change.value.chain} <= {"", *self.chains}:
                yield Refusal(change.set, _ABSENT, str(change), change)
            elif not change.is_added:
                if present.pop(change.key, None) is None:
                    yield Refusal(change.set, _ABSENT, str(change), change)
            elif present.setdefault(change.key, change.value) != change.value:
                yield Refusal(change.set, _EXISTS, str(change), change)
        for name in batch.chains_removed:
            if name in self.chains:
                self.chains[name] = ""
        for name in batch.sets_removed:
            yield from self._remove_set(name)
        for name in batch.chains_removed:
            yield from self._remove_chain(name)

    def _remove_chain(self, name: str) -> Iterator[Refusal]:
        users = {reference for text in self.chains.values() for reference in _references(text)}
        users |= {value.chain for elements in self.elements.values() for value in elements.values()}
        if name in users:
            yield Refusal(name, _BUSY)
        elif self.chains.pop(name, None) is None:
            yield Refusal(name, _ABSENT)

    def _remove_set(self, name: str) -> Iterator[Refusal]:
        if any(name in _references(text) for text in self.chains.values()):
            yield Refusal(name, _BUSY)
        elif self.sets.pop(name, None) is None:
            yield Refusal(name, _ABSENT)
        self.elements.pop(name, None)


def _references(text: str) -> set[str]:
    return {chain or name for chain, name in _REFERENCE.findall(text)}


def _shape(text: str) -> ChainShape:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    header = [line for line in lines if _BASE.match(line)]
    return ChainShape("".join(header), "\n".join(line for line in lines if line not in header).encode())
