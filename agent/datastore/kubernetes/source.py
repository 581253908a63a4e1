"""What one reflector has found, and what of it is news.

An object that makes no sense leaves its last good version in force. One that a list does not have any more is gone,
unless that is most of all: then it is gone when the next list does not have it either.
"""

from __future__ import annotations

from typing import Final, Protocol

from agent.datastore.absences import CONFIRM_AFTER_S, Absences
from agent.datastore.kubernetes.wire import Item
from agent.objects.kinds import Keyed
from agent.objects.model import Key
from agent.objects.problem import Problem

LAST_GOOD: Final = "The last good version stays in force."
IGNORED: Final = "It is ignored."


class Listener(Protocol):
    """Who is told what is new. Problems replace those of the same origin."""

    def changed(self, item: Keyed) -> None:
        """An object is new or different."""

    def deleted(self, key: Key) -> None:
        """An object is gone."""

    def set_problems(self, origin: str, *problems: Problem) -> None:
        """These are what is wrong with something."""

    def progressed(self) -> None:
        """A list is complete, or the server refuses to give one."""


class Source:
    """The objects of one reflector; it is that one's sink."""

    def __init__(self, name: str, listener: Listener, *, confirm_after_s: float = CONFIRM_AFTER_S) -> None:
        self.name: Final = name  # of the kind; of a Secret with its own
        self.objects: Final[dict[Key, Keyed]] = {}  # in force
        self.uids: Final[dict[Key, str]] = {}
        self.is_listed = False  # all there is has been told since `begin_round`
        self.has_listed = False  # ... ever
        self._listener = listener
        self._bad: set[Key] = set()
        self._confirm_after_s = confirm_after_s
        self._absences = Absences(confirm_after_s=confirm_after_s)

    def begin_round(self) -> None:
        """Count lists from here."""
        self.is_listed = False

    def put(self, item: Item) -> None:
        """Take over an object."""
        key = item.key
        if item.uid:
            self.uids[key] = item.uid
        if item.object is None:
            self._complain(item)
            return
        if key in self._bad:
            self._bad.remove(key)
            self._listener.set_problems(str(key))
        if self.objects.get(key) != item.object:
            self.objects[key] = item.object
            self._listener.changed(item.object)

    def delete(self, key: Key) -> None:
        """Forget an object."""
        self.uids.pop(key, None)
        if key in self._bad:
            self._bad.remove(key)
            self._listener.set_problems(str(key))
        if self.objects.pop(key, None) is not None:
            self._listener.deleted(key)

    def clear(self) -> None:
        """Forget every object: nobody asks for them any more."""
        for key in [*self.objects, *self._bad]:
            self.delete(key)

    def listed(self, keys: set[Key]) -> float | None:
        """Forget what is gone."""
        known = self.objects.keys() | self._bad
        for key in self._absences.judge(frozenset(known - keys), len(known)):
            self.delete(key)
        doubt = self._absences.problem
        self._listener.set_problems(f"list of {self.name}", *([doubt] if doubt else []))
        self.is_listed = self.has_listed = True
        self._listener.progressed()
        return self._confirm_after_s if doubt else None

    def refused(self) -> None:
        """Note that the server does not give the list."""
        self._listener.progressed()

    def _complain(self, item: Item) -> None:
        self._bad.add(item.key)
        kind, namespace, name = item.key
        problems = [
            Problem(
                kind=kind,
                namespace=namespace,
                name=name,
                field=finding.field,
                message=finding.message,
                found=finding.found,
                consequence=LAST_GOOD if item.key in self.objects else IGNORED,
            )
            for finding in item.findings
        ]
        self._listener.set_problems(str(item.key), *problems)
