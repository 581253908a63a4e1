"""Choose the best path of one prefix (RFC 4271 section 9.1.2.2).

Takes every eligible path of a prefix (accepted by the import rules, loop free, next hop reachable); gives the
winner, the paths that may share the load with it, and for each loser the step that ruled it out, which is what
`tortie routes explain` prints.

Each step splits the rivals into those that stay and those that go. The steps down to the interior cost decide
what is *equal*: all that is left after them forwards together (multipath, whatever AS the paths lead through,
as data-centre fabrics need). The last steps only choose which one of the equals is passed on to other peers.
RFC 5004 (prefer the path that was first) is left out on purpose: the choice depends on the paths alone, never
on the order they came in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from bgp.path import NextHopKey, Path

Costs: TypeAlias = Mapping[NextHopKey, int]
"""Interior cost of each reachable next hop: 0 on the link, more behind a router (RFC 4271 section 9.1.2.1)."""

TUNNEL_COST: Final = 1 << 16
"""From here on a cost means: through a tunnel, for want of another way. Below 0: through a tunnel, as is required."""

Score: TypeAlias = Callable[[Path, Costs], Any]
"""What a step ranks a path by; scores of one step compare with each other."""


@dataclass(frozen=True, slots=True)
class Step:
    """One rung: of the rivals, those with the lowest `score` stay."""

    reason: str
    clause: str
    score: Score

    def survivors(self, rivals: list[Path], costs: Costs) -> list[Path]:
        """Return the rivals that stay, in the order given."""
        scores = [self.score(path, costs) for path in rivals]
        best = min(scores)
        return [path for path, score in zip(rivals, scores, strict=True) if score == best]


@dataclass(frozen=True, slots=True)
class MedStep:
    """The rung that compares MED, and only between paths through the same neighbouring AS."""

    reason: str
    clause: str

    def survivors(self, rivals: list[Path], costs: Costs) -> list[Path]:  # noqa: ARG002 - a Step's signature
        """Return the rivals that no rival of the same neighbouring AS undercuts. A missing MED counts as 0."""
        lowest: dict[int | None, int] = {}
        for path in rivals:
            neighbour = path.attributes.as_path.neighbour
            lowest[neighbour] = min(path.attributes.med or 0, lowest.get(neighbour, 1 << 32))
        return [path for path in rivals if (path.attributes.med or 0) == lowest[path.attributes.as_path.neighbour]]


def _tunnel_rank(path: Path, costs: Costs) -> int:
    """Put a tunnel that is required before everything, and one that is a last resort after everything."""
    cost = costs[path.next_hop]
    return -1 if cost < 0 else 1 if cost >= TUNNEL_COST else 0


ENCAPSULATION: Final = Step("encapsulation", "before all of RFC 4271 9.1: how a path travels", _tunnel_rank)
"""A path that needs no tunnel beats whatever else is said for one that does; where tunnels must be, the other way."""

EQUALITY: Final[tuple[Step | MedStep, ...]] = (
    Step("higher local preference", "RFC 4271 9.1.1", lambda path, _: -path.local_pref),
    Step("shorter AS path", "RFC 4271 9.1.2.2 a", lambda path, _: path.attributes.as_path.length),
    Step("lower origin", "RFC 4271 9.1.2.2 b", lambda path, _: path.attributes.origin),
    MedStep("lower MED", "RFC 4271 9.1.2.2 c"),
    Step("external over internal", "RFC 4271 9.1.2.2 d", lambda path, _: path.source.is_internal),
    Step("nearer next hop", "RFC 4271 9.1.2.2 e", lambda path, costs: costs[path.next_hop]),
)
TIE_BREAK: Final[tuple[Step, ...]] = (
    Step(
        "lower router id",
        "RFC 4271 9.1.2.2 f, RFC 4456 9",
        lambda path, _: int(path.attributes.originator_id or path.source.router_id),
    ),
    Step("shorter cluster list", "RFC 4456 9", lambda path, _: len(path.attributes.cluster_list)),
    Step("lower peer address", "RFC 4271 9.1.2.2 g", lambda path, _: path.source.order),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for a prefix. `multipath` includes `best` and is in peer order.

    `lost_to` says for each path that is not used why: the reason of the step, or that it is one too many.
    """

    best: Path
    multipath: tuple[Path, ...]
    reason: str = field(compare=False)  # why `best` is best
    lost_to: Mapping[Path, str] = field(compare=False)


def choose(paths: Sequence[Path], *, costs: Costs, max_paths: int) -> Choice:
    """Return the winner and its equals, at most `max_paths` (at least 1) together.

    `paths` must not be empty, and every next hop must have a cost.
    """
    equals, lost_to = list(paths), dict[Path, str]()
    reason = "only path"
    for step in (ENCAPSULATION, *EQUALITY):
        if len(equals) == 1:
            break
        survivors = step.survivors(equals, costs)
        if len(survivors) != len(equals):
            lost_to.update((path, step.reason) for path in equals if path not in survivors)
            equals, reason = survivors, step.reason

    ranking = sorted(equals, key=lambda path: [step.score(path, costs) for step in TIE_BREAK])
    if len(ranking) > 1 and not lost_to:
        reason = f"equal: {_what_tells_apart(ranking[0], ranking[1], costs)}"
    lost_to.update((path, f"equal, but maxPaths is {max_paths}") for path in ranking[max_paths:])
    multipath = sorted(ranking[:max_paths], key=lambda path: path.source.order)
    return Choice(ranking[0], tuple(multipath), reason, lost_to)


def _what_tells_apart(winner: Path, second: Path, costs: Costs) -> str:
    return next(step.reason for step in TIE_BREAK if step.score(winner, costs) != step.score(second, costs))
