"""What benchmarks return: measured values with unit and place, and what went wrong on the way."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

Figures: TypeAlias = Mapping[tuple[str, str], float]
"""What one round found: (quantity, unit) → value."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One quantity of one subject in one case: a value for each round."""

    case: str  # "10,000 prefixes, equal attributes, IPv4"
    subject: str  # "Tortie", "BIRD", "GoBGP"
    quantity: str  # "last route in the kernel"
    unit: str  # "ms", "CPU s", "MB", "% of a core", "packets"
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The value to talk about."""
        return statistics.median(self.values)


class BenchError(Exception):
    """A round that came to no result; the text says what was waited for, and what there was instead."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How much effort to spend: `quick` asks for small sizes that show only whether everything runs."""

    rounds: int
    quick: bool


@dataclass(slots=True)
class Results:
    """What one benchmark found, in the order of its doing."""

    measurements: list[Measurement] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def measure(self, case: str, subject: str, rounds: int, once: Callable[[], Figures]) -> None:
        """Do something so many times and take its figures; a round that comes to nothing ends it, and is told."""
        found: list[Figures] = []
        try:
            for _ in range(rounds):
                found.append(once())  # noqa: PERF401 - what was found before a failure counts
        except (BenchError, RuntimeError, OSError) as error:
            self.failures.append(f"{subject}, {case}: {error}")
        self.take(case, subject, found)

    def take(self, case: str, subject: str, rounds: Iterable[Figures]) -> None:
        """Take the figures of each round."""
        found: dict[tuple[str, str], list[float]] = {}
        for each in rounds:
            for what, value in each.items():
                found.setdefault(what, []).append(value)
        self.measurements += [
            Measurement(case, subject, quantity, unit, tuple(values)) for (quantity, unit), values in found.items()
        ]

    def add(self, other: Results) -> None:
        """Take what another part found."""
        self.measurements += other.measurements
        self.failures += other.failures
        self.notes += other.notes
