"""What may be wrong with a node or its surroundings, looked for one thing after the other, each with what to do.

A check is two halves: `gather` looks (at the kernel, at files, at the agent) and gives plain facts; `judge` makes
findings of the facts and is a pure function. What could not be looked at is a finding too: a check that was not made
is not passed. `agent.doctor.examination` lists them all.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from agent.clusterreport import ClusterReport
from agent.report import StatusReport

F = TypeVar("F")


class Level(enum.StrEnum):
    """How bad it is, as it is printed."""

    OK = "ok"
    WARN = "WARN"  # works, or may not work in some case
    FAIL = "FAIL"  # pods are harmed
    UNKNOWN = "?"  # could not be looked at
    OUTSIDE = "-"  # is for the host to see, and this is a container: no fault of anybody's


class Finding(msgspec.Struct, rename="camel", frozen=True):
    """One thing found. `advice` is what to do; empty where nothing is to be done."""

    check: str
    level: Level
    text: str
    advice: str = ""


class LookError(Exception):
    """Something cannot be looked at; the text says why and what would help."""


class OutsideError(LookError):
    """Something cannot be looked at from inside a container; the text says what."""


@dataclass(frozen=True, slots=True)
class Patient:
    """What checks look at. `root` is where the host's file system is; the kernel is that of this network namespace."""

    root: Path
    in_container: bool  # files of the host that are not there may be there on the host
    status: StatusReport | None  # the agent's own word; None: it does not answer
    no_agent: str  # why it does not
    cluster: ClusterReport | None  # nodes and settings, from the agent or from manifests
    no_cluster: str  # why they are not known


@dataclass(frozen=True, slots=True)
class Check(Generic[F]):
    """One check. `gather` may raise OSError or LookError."""

    name: str
    gather: Callable[[Patient], Awaitable[F]]
    judge: Callable[[F], Iterable[Finding]]

    async def run(self, patient: Patient) -> list[Finding]:
        """Look and judge."""
        try:
            facts = await self.gather(patient)
        except PermissionError as error:
            text = f"{self.name} was not looked at: {error.strerror or error}"
            level = Level.OUTSIDE if patient.in_container else Level.UNKNOWN
            return [Finding(self.name, level, text, "run tortie doctor as root on the host")]
        except (OSError, LookError) as error:
            level = Level.OUTSIDE if isinstance(error, OutsideError) else Level.UNKNOWN
            return [Finding(self.name, level, str(error))]
        return list(self.judge(facts))
