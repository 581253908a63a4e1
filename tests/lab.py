"""Fixtures for tests that need a lab: built by topology, taken down whatever happens, logs shown on a failure.

A conftest imports what it wants from here; `pytest_runtest_makereport` has to be among it.

    @pytest.mark.interop
    async def test_a_pod_reaches_another(lab: BuildLab) -> None:
        net = await lab({"routers": {...}, "nodes": {...}, "links": [...]}, {"peers.yaml": [BGP_PEER]})
        await eventually(lambda: net.sessions("n1"), lambda them: all(it.is_established for it in them.values()))

`eventually`, `traffic` and `route_events` are imported from `agent.lab`.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import pytest
import yaml

from agent.lab.lab import Lab, tear_down
from agent.lab.state import State, default_root
from agent.lab.topology import parse

LOG_TAIL = 40
_FAILED: Final = pytest.StashKey[bool]()
_numbers = itertools.count(1)


class BuildLab(Protocol):
    """Builds a lab that lasts as long as the test."""

    async def __call__(
        self, topology: Mapping[str, Any], manifests: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
    ) -> Lab:
        """Return the lab, everything in it started. A name is given; `manifests` are files of objects."""


class Apply(Protocol):
    """Writes manifests of a running lab, as an editor does: in full or not at all."""

    def __call__(self, lab: Lab, file: str, *objects: Mapping[str, Any]) -> None:
        """Let a file hold these objects; with none it is removed."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


def has_failed(item: pytest.Item) -> bool:
    """Whether a test, or its setup, has failed by now."""
    return item.stash.get(_FAILED, False)


@pytest.fixture
def apply() -> Apply:
    """Change manifests of a running lab."""

    def write(lab: Lab, file: str, *objects: Mapping[str, Any]) -> None:
        path = lab.manifests / file
        if not objects:
            path.unlink()
            return
        temporary = path.with_suffix(".new")
        temporary.write_text(yaml.safe_dump_all(objects))
        temporary.replace(path)

    return write


@pytest.fixture
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BuildLab]:
    """Build labs; they are taken down after the test, and their logs shown if it failed."""
    built: list[State] = []

    async def build(
        topology: Mapping[str, Any], manifests: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
    ) -> Lab:
        lacking = missing(topology)
        if lacking:
            pytest.skip(lacking)
        name = f"t{os.getpid()}-{next(_numbers)}"
        directory = tmp_path / name
        directory.mkdir()
        for file, objects in (manifests or {}).items():
            (directory / file).write_text(yaml.safe_dump_all(objects))
        wanted = parse({"manifests": str(directory), **topology, "name": name})
        built.append(State(default_root() / name))
        return await Lab.up(wanted)

    yield build
    for state in built:
        if state.path.exists():
            if has_failed(request.node):
                show_logs(state)
            await tear_down(state)


def missing(topology: Mapping[str, Any]) -> str:
    """Return why a lab cannot be built here; empty when it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    programs = {"bird": "bird", "frr": "/usr/lib/frr/bgpd", "gobgp": "gobgpd"}
    machines = [*topology.get("routers", {}).values(), *topology.get("nodes", {}).values()]
    for daemon in {machine.get("daemon", "agent") for machine in machines}:
        if daemon in programs and shutil.which(programs[daemon]) is None:
            return f"{daemon} is not installed"
    return ""


def show_logs(state: State) -> None:
    """Show the end of every log with the test that failed."""
    for log in sorted(state.path.glob("machines/*/*.log")):
        lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL:]
        print(f"--- {log}", *lines, sep="\n")  # noqa: T201 - pytest shows it with the failure
