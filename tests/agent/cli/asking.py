"""`tortie` where the agent here says one thing, and those of the cluster another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import pytest
from typer.testing import CliRunner

from agent.cli import ends
from agent.cli.main import app
from agent.fleet import FleetError, Located, Outcome
from agent.fleet.fake import FakeFleet

Run: TypeAlias = Callable[..., tuple[int, str]]
World: TypeAlias = Callable[..., tuple[Run, FakeFleet]]


def said(facts: object) -> Outcome:
    return Outcome(0, msgspec.json.encode(facts))


def in_pod(name: str, node: str, *addresses: str) -> list[Located]:
    return [Located("Pod", name, node, addresses)]


def world_of(monkeypatch: pytest.MonkeyPatch) -> World:
    def build(
        here: object, there: Mapping[str, Outcome | str | list[Outcome]] | None = None, **more: Any
    ) -> tuple[Run, FakeFleet]:
        """`here`: what the agent says, or raises, or makes of what it is asked; without `there` there is no cluster."""
        fleet = FakeFleet(there or {}, **more)

        def ask(_socket: Path, what: str, _answer: object, **question: str) -> object:
            if isinstance(here, Exception):
                raise here
            return here(what, question) if callable(here) else here

        async def open_fleet(_: object) -> FakeFleet:
            if there is None:
                raise FleetError("there is no cluster to ask")
            return fleet

        monkeypatch.setattr(ends, "ask", ask)
        monkeypatch.setattr(ends, "open_fleet", open_fleet)

        def run(*words: str) -> tuple[int, str]:
            result = CliRunner().invoke(app, words, env={"COLUMNS": "300"})
            return result.exit_code, result.output

        return run, fleet

    return build
