"""The parts of the table that are not policy: each owner's chains and sets, laid beside policy's.

Outgoing NAT, guards of tunnels and their like say with `put` what they want in the table, all of it each time; who
writes the table asks for the content of all, or for what changed since it last was written. Owners that are expected
must have spoken once before anything is written: or a restart would take away what they had there, for a moment.

A part that the kernel refuses is left out and said, and the others stay in force: no NAT is better than no policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from felix.nft.enforcement import Change, Content, SetContent, compare_elements
from felix.nft.table import Refusal

NOTHING = Content({}, {})


class Parts:
    """Collects what owners want. Their names of chains and sets are their own: no two use the same."""

    def __init__(self) -> None:
        self.refused: dict[str, str] = {}
        """Owners whose part is left out, each with the kernel's words."""
        self._awaited: set[str] = set()
        self._wanted: dict[str, Content] = {}
        self._content = NOTHING
        self._written = self._content

    def expect(self, owner: str) -> None:
        """Have everybody wait until an owner has spoken."""
        self._awaited.add(owner)

    def put(self, owner: str, content: Content) -> bool:
        """Say what an owner wants, in place of what it wanted before; whether there is something to do now."""
        was_awaited = owner in self._awaited
        self._awaited.discard(owner)
        if self._wanted.get(owner, NOTHING) == content:
            return was_awaited
        self._wanted[owner] = content
        self.refused.pop(owner, None)
        self._lay()
        return True

    @property
    def is_complete(self) -> bool:
        """Whether everybody who is expected has spoken."""
        return not self._awaited

    @property
    def content(self) -> Content:
        """What everybody wants, but for what is refused."""
        return self._content

    def change(self) -> Change | None:
        """Return what turns that which was written into what is wanted; None if it takes a `sync`."""
        return Change() if self._written is self._content else difference(self._written, self._content)

    def written(self, content: Content) -> None:
        """Note that the kernel has this, which `content` was when the writing began."""
        self._written = content

    def isolate(self, refusals: Iterable[Refusal]) -> bool:
        """Leave out the parts that refusals are about; whether there was any."""
        found = False
        for refusal in refusals:
            for owner, content in self._wanted.items():
                is_its = refusal.subject in content.chains or refusal.subject in content.sets
                if is_its and owner not in self.refused:
                    self.refused[owner] = str(refusal)
                    found = True
        self._lay()
        return found

    def retry(self) -> bool:
        """Have what was refused tried again by the next `sync`; whether there is any."""
        had_some = bool(self.refused)
        self.refused.clear()
        self._lay()
        return had_some

    def _lay(self) -> None:
        self._content = merged(content for owner, content in self._wanted.items() if owner not in self.refused)


def merged(contents: Iterable[Content]) -> Content:
    """Lay contents beside each other."""
    chains: dict[str, str] = {}
    sets: dict[str, SetContent] = {}
    skeleton: list[str] = []
    for content in contents:
        chains |= content.chains
        sets |= content.sets
        skeleton += content.skeleton
    return Content(chains, sets, skeleton)


def difference(before: Content, after: Content) -> Change | None:
    """Return what turns one content into another; None where a chain or set is in both and not the same."""
    if _differs(before.chains, after.chains) or _differs(_texts(before), _texts(after)):
        return None
    return Change(
        chains={name: text for name, text in after.chains.items() if name not in before.chains},
        sets={name: each for name, each in after.sets.items() if name not in before.sets},
        elements=tuple(
            change
            for name, each in after.sets.items()
            if name in before.sets
            for change in compare_elements(name, each.elements, before.sets[name].elements)
        ),
        chains_removed=tuple(name for name in before.chains if name not in after.chains),
        sets_removed=tuple(name for name in before.sets if name not in after.sets),
    )


def _differs(before: Mapping[str, object], after: Mapping[str, object]) -> bool:
    return any(before[name] != after[name] for name in before.keys() & after.keys())


def _texts(content: Content) -> dict[str, object]:
    return {name: each.definition for name, each in content.sets.items()}
