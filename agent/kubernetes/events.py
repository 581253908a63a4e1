"""Events for objects that are not in force as written: what `kubectl describe` shows beside the object. Pure.

Every agent sees the same bad object, so three nodes of the cluster tell of it, chosen by its name: one Event for one
object whatever number of findings, with a name that follows from its content, so that the second and third find it
there already. The server forgets Events after an hour; one that still holds is told again then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple

from agent.objects.kinds import KINDS
from agent.objects.model import Key
from agent.objects.problem import Problem

TELLERS: Final = 3
AGAIN_S: Final = 3600.0
BURST: Final = 20
PER_S: Final = 0.1
MAX_NOTE: Final = 1024
CONTROLLER: Final = "tortie.dev/agent"


class Complaint(NamedTuple):
    """All that is wrong with one object."""

    about: Key
    note: str

    @property
    def name(self) -> str:
        """The Event's name: equal complaints of two agents have one."""
        return f"{self.about.name[:200]}.{sha256(repr(self).encode()).hexdigest()[:16]}"


def complaints(problems: Iterable[Problem]) -> list[Complaint]:
    """Return one complaint for each object that is in the API; what else is wrong no Event can be about."""
    notes: dict[Key, list[str]] = {}
    for problem in problems:
        if problem.kind in KINDS and problem.name:
            text = ": ".join(filter(None, (problem.field, problem.message)))
            notes.setdefault(Key(problem.kind, problem.namespace, problem.name), []).append(
                f"{text}. {problem.consequence}".rstrip()
            )
    return [Complaint(key, _limited("\n".join(lines))) for key, lines in notes.items()]


def tells(node: str, complaint: Complaint, nodes: Iterable[str]) -> bool:
    """Whether a node is one of those that tell of it (rendezvous hashing: others take over when nodes come and go)."""
    ranked = sorted(nodes, key=lambda name: sha256(f"{name} {complaint.about}".encode()).digest())
    return node in ranked[:TELLERS]


def event(complaint: Complaint, uid: str, node: str, now: str) -> dict[str, Any]:
    """Return the Event (events.k8s.io/v1). `now` is RFC 3339 with microseconds."""
    kind, namespace, name = complaint.about
    regarding = {
        "apiVersion": KINDS[kind].group_version,
        "kind": kind,
        "name": name,
        "namespace": namespace,
        "uid": uid,
    }
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": complaint.name, "namespace": namespace or "default"},
        "eventTime": now,
        "type": "Warning",
        "reason": "NotInForce",
        "action": "Read",
        "note": complaint.note,
        "regarding": {field: value for field, value in regarding.items() if value},
        "reportingController": CONTROLLER,
        "reportingInstance": node[:128],
    }


class Pace:
    """Lets through `BURST` at once and then one every ten seconds, each complaint once an hour. `now` is monotonic."""

    def __init__(self) -> None:
        self._left = float(BURST)
        self._at = 0.0
        self._told: dict[str, float] = {}

    def due(self, wanted: Mapping[str, Complaint], now: float) -> list[Complaint]:
        """Return which of those that stand are to be told now. Those that stand no more are forgotten."""
        self._told = {name: at for name, at in self._told.items() if name in wanted}
        self._left = min(BURST, self._left + (now - self._at) * PER_S)
        self._at = now
        late = [name for name in wanted if now - self._told.get(name, -AGAIN_S) >= AGAIN_S]
        chosen = late[: int(self._left)]
        self._left -= len(chosen)
        self._told |= dict.fromkeys(chosen, now)
        return [wanted[name] for name in chosen]


def _limited(text: str) -> str:
    return text if len(text) <= MAX_NOTE else text[: MAX_NOTE - 1] + "…"
