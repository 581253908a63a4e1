"""The table as it should be, and the kernel made to have it.

`sync` takes everything the table should hold, looks what the kernel has, and writes the difference: nothing after a
restart with the same content, everything after `nft flush ruleset`, one chain after somebody edited one. `change`
takes what turns one content into the next, and looks at nothing.

Both write in the order that neither loses nor leaks a packet. A packet on its way meets new elements with old rules:
so what is new comes in first and unused (structure, then the elements of new sets), then one transaction swaps the
elements that lead to it and removes what they led to before. What is refused leaves the kernel with the old rules,
perhaps beside unused new ones, until `sync` is asked again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain as concatenated
from itertools import islice
from typing import Final, NamedTuple

from felix.nft.elements import ElementChange, Elements
from felix.nft.table import Batch, ChainShape, Definition, Refusal, RuleTable, SetShape, SetText, Structure

_NOTHING: Final = Structure({}, {})
_READINGS: Final = 3
_ELEMENTS_AT_A_TIME: Final = 4096  # of a set that nothing uses yet: 5 ms for the kernel


class SetContent(NamedTuple):
    """A set or map with its elements."""

    definition: SetText
    elements: Elements


@dataclass(frozen=True, slots=True)
class Content:
    """Everything that the table should hold. A chain's text is what stands between its braces.

    Where there is no table, the skeleton comes first: those chains and sets that are enough to let pods have nothing,
    and are there in a moment, while the rest may take a good part of a second.
    """

    chains: Mapping[str, str]
    sets: Mapping[str, SetContent]
    skeleton: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """What turns one content into the next."""

    chains: Mapping[str, str] = field(default_factory=dict)  # new
    sets: Mapping[str, SetContent] = field(default_factory=dict)  # new
    elements: Sequence[ElementChange] = ()  # of sets that were there before
    chains_removed: Sequence[str] = ()
    sets_removed: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.chains or self.sets or self.elements or self.chains_removed or self.sets_removed)


class Difference(NamedTuple):
    """How the kernel's table was not as it should be, for people. Subject: a chain, a set or the table."""

    subject: str
    finding: str

    def __str__(self) -> str:
        return f"{self.subject} {self.finding}"


class Report(NamedTuple):
    """What `sync` found, and what of its mending was refused, if anything."""

    differences: tuple[Difference, ...]
    refusals: tuple[Refusal, ...] = ()


class _Plan(NamedTuple):
    """How to get from one structure to another."""

    differences: list[Difference]
    first: Sequence[Definition]  # what is new; or everything
    unfilled: frozenset[str]  # sets that have no elements after that
    second: Definition | None = None  # what is in use and has other rules
    removal: Batch = Batch()  # what is too much


class Enforcement:
    """Keeps the table of a RuleTable. One `sync` or `change` at a time works on it, in the order of the calls."""

    def __init__(self, table: RuleTable) -> None:
        self._table = table
        self._lock = asyncio.Lock()
        # What the kernel makes of the texts of the last content.
        self._chain_shapes: dict[tuple[str, str], ChainShape] = {}
        self._set_shapes: dict[tuple[str, SetText], SetShape] = {}

    async def sync(self, content: Content) -> Report:
        """Make the kernel have exactly this content. Raises OSError if it cannot be read."""
        async with self._lock:
            actual = await self._table.read()
            if actual is None:
                plan = _plan_from_nothing(content)
            else:
                wanted = await self._rehearse(_definition(content))
                if isinstance(wanted, list):
                    return Report((), tuple(wanted))
                plan = _plan(content, wanted, actual)
            return await self._follow(plan, content, actual or _NOTHING)

    async def change(self, change: Change) -> list[Refusal]:
        """Make the change; return why it was refused. Then `sync` is what tries again, with what can be done."""
        async with self._lock:
            refusals = []
            rest, hooked = _hooked_last(_definition(change))
            if rest.chains or rest.sets:
                refusals = await self._table.define(rest)
            additions = (_additions(name, each.elements) for name, each in change.sets.items())
            refusals = refusals or await self._fill(concatenated.from_iterable(additions))
            if hooked.chains:
                refusals = refusals or await self._table.define(hooked)
            batch = Batch(change.elements, change.chains_removed, change.sets_removed)
            return refusals or await self._table.write(batch)

    async def _rehearse(self, definition: Definition) -> Structure | list[Refusal]:
        """Return what the kernel makes of texts, asking it about those that were not there the last time."""
        unknown = [name for name, text in definition.chains.items() if (name, text) not in self._chain_shapes]
        if unknown or not definition.sets.items() <= self._set_shapes.keys():
            # What is known is needed too, for others to refer to, but not what it says.
            chains = {**dict.fromkeys(definition.chains, ""), **{name: definition.chains[name] for name in unknown}}
            found = await self._table.rehearse(replace(definition, chains=chains))
            if isinstance(found, list):
                return found
            self._chain_shapes |= {(name, definition.chains[name]): found.chains[name] for name in unknown}
            self._set_shapes = {(name, text): found.sets[name] for name, text in definition.sets.items()}
        self._chain_shapes = {item: self._chain_shapes[item] for item in definition.chains.items()}
        return Structure(
            {name: self._chain_shapes[name, text] for name, text in definition.chains.items()},
            {name: self._set_shapes[name, text] for name, text in definition.sets.items()},
        )

    async def _follow(self, plan: _Plan, content: Content, actual: Structure) -> Report:
        unused = (name for name in plan.unfilled if not content.sets[name].definition.is_map)
        additions = (_additions(name, content.sets[name].elements) for name in unused)
        refusals: list[Refusal] = []
        for definition in plan.first:
            refusals = refusals or await self._table.define(definition)
        refusals = refusals or await self._fill(concatenated.from_iterable(additions))
        if plan.second:
            refusals = refusals or await self._table.define(plan.second)
        if refusals:
            return Report(tuple(plan.differences), tuple(refusals))
        differences = list(plan.differences)
        elements: list[ElementChange] = []
        for name, (text, wanted) in content.sets.items():
            if name not in plan.unfilled and not actual.sets[name].is_dynamic:
                present = await self._read_elements(name, actual.sets[name], wanted)
                if present != wanted:
                    elements += (found := list(compare_elements(name, wanted, present)))
                    differences.append(_difference(name, found))
            elif name in plan.unfilled and text.is_map:
                elements += _additions(name, wanted)
        refusals = await self._table.write(replace(plan.removal, elements=elements))
        return Report(tuple(differences), tuple(refusals))

    async def _read_elements(self, name: str, shape: SetShape, wanted: Elements) -> Elements:
        """Return the elements of a set, read more than once if it seems to lack some.

        The kernel makes a large set's hash table larger behind everybody's back, and a list taken meanwhile leaves
        elements out.
        """
        present = dict(await self._table.read_elements(name, shape))
        for _ in range(_READINGS - 1):
            if wanted.keys() <= present.keys():
                break
            present |= await self._table.read_elements(name, shape)
        return present

    async def _fill(self, additions: Iterator[ElementChange]) -> list[Refusal]:
        """Write elements of sets that nothing uses yet, a piece at a time."""
        while piece := list(islice(additions, _ELEMENTS_AT_A_TIME)):
            if refusals := await self._table.write(Batch(piece)):
                return refusals
        return []


def _definition(content: Content | Change) -> Definition:
    """Return the structure of what is new."""
    return Definition(sets={name: each.definition for name, each in content.sets.items()}, chains=content.chains)


def _hooked_last(definition: Definition, closed: Collection[str] = ()) -> tuple[Definition, Definition]:
    """Part what packets meet at once from the rest, which is to come first, and its sets be filled.

    Those `closed` may drop what they know nothing of.
    """
    hooked = {
        name: text
        for name, text in definition.chains.items()
        if text.lstrip().startswith("type ") and name not in closed
    }
    rest = {name: text for name, text in definition.chains.items() if name not in hooked}
    return replace(definition, chains=rest), Definition(chains=hooked)


def _plan_from_nothing(content: Content) -> _Plan:
    whole = _definition(content)
    skeleton, rest = (
        Definition(
            sets={name: text for name, text in whole.sets.items() if (name in content.skeleton) is is_first},
            chains={name: text for name, text in whole.chains.items() if (name in content.skeleton) is is_first},
        )
        for is_first in (True, False)
    )
    rest, hooked = _hooked_last(rest)
    differences = [Difference("table", "is missing")]
    return _Plan(differences, [skeleton, rest], frozenset(content.sets), hooked if hooked.chains else None)


def _plan(content: Content, wanted: Structure, actual: Structure) -> _Plan:
    """Compare structures: what the kernel makes of the content, and what it has."""
    everything = _definition(content)
    chains, sets = _Names.compare(wanted.chains, actual.chains), _Names.compare(wanted.sets, actual.sets)
    rehooked = [name for name in chains.other if wanted.chains[name].header != actual.chains[name].header]
    rewritten = [name for name in chains.other if name not in rehooked]
    differences = [
        *([Difference("table", "has other flags")] if wanted.flags != actual.flags else []),
        *_differences("chain", chains.missing, "is missing"),
        *_differences("chain", rehooked, "has another hook or comment"),
        *_differences("chain", rewritten, "has other rules"),
        *_differences("chain", chains.extra, "is too much"),
        *_differences("set", sets.missing, "is missing"),
        *_differences("set", sets.other, "has another type or comment"),
        *_differences("set", sets.extra, "is too much"),
    ]
    if sets.other:
        # A set in use cannot be changed, and rules that find it empty may allow what it denies. So pods get nothing,
        # and connections that are established live on, while all is made anew.
        maps = [name for name, shape in actual.sets.items() if shape.is_map]
        anew = replace(
            everything,
            maps_emptied=maps,
            chains_removed=list(actual.chains),
            sets_removed=[*sets.other, *sets.extra],
        )
        return _Plan(differences, [anew], frozenset((*sets.missing, *sets.other, *maps)) & content.sets.keys())
    missing = Definition(
        sets={name: everything.sets[name] for name in sets.missing},
        chains={name: content.chains[name] for name in chains.missing},
    )
    first, hooked = _hooked_last(missing, content.skeleton)
    second = Definition(
        chains_emptied=rewritten,
        chains_removed=rehooked,
        chains={**{name: content.chains[name] for name in chains.other}, **hooked.chains},
    )
    return _Plan(
        differences,
        [first] if first.chains or first.sets or wanted.flags != actual.flags else [],
        frozenset(sets.missing),
        second if second.chains else None,
        Batch(chains_removed=tuple(chains.extra), sets_removed=tuple(sets.extra)),
    )


class _Names(NamedTuple):
    missing: list[str]
    other: list[str]  # on both sides, and not the same
    extra: list[str]

    @classmethod
    def compare(cls, wanted: Mapping[str, object], actual: Mapping[str, object]) -> _Names:
        return cls(
            [name for name in wanted if name not in actual],
            [name for name, shape in actual.items() if name in wanted and wanted[name] != shape],
            [name for name in actual if name not in wanted],
        )


def _differences(kind: str, names: Iterable[str], finding: str) -> Iterator[Difference]:
    return (Difference(f"{kind} {name}", finding) for name in names)


def _additions(name: str, elements: Elements) -> Iterator[ElementChange]:
    return (ElementChange(name, key, is_added=True, value=value) for key, value in elements.items())


def compare_elements(name: str, wanted: Elements, actual: Elements) -> Iterator[ElementChange]:
    """Yield what makes a set that has `actual` have `wanted`: first what is deleted."""
    for key, value in actual.items():
        if wanted.get(key) != value:
            yield ElementChange(name, key, is_added=False)
    for key, value in wanted.items():
        if actual.get(key) != value:
            yield ElementChange(name, key, is_added=True, value=value)


def _difference(name: str, changes: Sequence[ElementChange]) -> Difference:
    missing = sum(change.is_added for change in changes)
    return Difference(
        f"set {name}", f"lacks {missing} elements and has {len(changes) - missing} that it should not have"
    )
