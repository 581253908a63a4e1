"""Case files run for `tortie policy verdicts`: read, asked of an engine, compared, told."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from agent.policy_packets import PacketError, run_packets
from inet.prefix import Family
from policy.fields import RefusedError
from policy.verdicts import Case, Result, run


class CaseError(Exception):
    """A case file that cannot be run; the text says why."""


class Difference(msgspec.Struct, frozen=True, rename={"source": "from", "destination": "to"}):
    """A probe that got something else than expected."""

    source: str
    destination: str
    port: int
    protocol: str
    expected: str
    got: str


class CaseReport(msgspec.Struct, frozen=True, rename="camel"):
    """One case: how many probes were made, which of them differ, and how many could not be made."""

    name: str
    probes: int
    differences: tuple[Difference, ...]
    skipped: int = 0

    @property
    def has_passed(self) -> bool:
        """Whether everything came out as expected."""
        return not self.differences


def read_cases(text: str, family: Family) -> list[Case]:
    """Read a file of cases, or a single case. Raises CaseError."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise CaseError(f"not JSON: {error}") from None
    raw = content["cases"] if isinstance(content, dict) and "cases" in content else [content]
    if not isinstance(raw, list):
        raise CaseError("cases is not a list")
    return [_read_case(each, position, family) for position, each in enumerate(raw)]


def _read_case(raw: Any, position: int, family: Family) -> Case:
    if not isinstance(raw, dict):
        raise CaseError(f"case {position} is not an object")
    name = raw.get("name") or f"case {position}"
    try:
        case = Case.read(raw, family)
        for probe in case.probes:
            case.place(probe.source), case.place(probe.destination)
    except RefusedError as error:
        raise CaseError(f"{name}: {error}") from None
    except KeyError as error:
        raise CaseError(f"{name}: {error.args[0]!r} is missing") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise CaseError(f"{name}: {error}") from None
    return case


def has_expectations(cases: Iterable[Case]) -> bool:
    """Whether anybody says what should come out."""
    return any(probe.expect for case in cases for probe in case.probes)


def results(cases: Iterable[Case], engine: str) -> Iterator[tuple[Case, list[Result], int]]:
    """Yield each case with what its probes got, and how many could not be made. Raises CaseError."""
    if engine != "kernel":
        yield from ((case, found, 0) for case, found in run(cases, engine))
        return
    try:
        for case, found, impossible in run_packets(cases):
            yield case, found, len(impossible)
    except PacketError as error:
        raise CaseError(str(error)) from None


def answers(cases: Iterable[Case], engine: str) -> list[str]:
    """Return allow or deny, one a probe, in order. Raises CaseError."""
    got = []
    for case, found, skipped in results(cases, engine):
        if skipped:
            raise CaseError(f"{case.name}: {skipped} probes cannot be sent: this kernel has no SCTP")
        got += [each.got for each in found]
    return got


def report(case: Case, found: Sequence[Result], skipped: int) -> CaseReport:
    """Compare what was got with what was expected."""
    differences = tuple(
        Difference(*each.probe[:4], each.probe.expect, each.got) for each in found if not each.is_expected
    )
    return CaseReport(case.name, len(found), differences, skipped)
