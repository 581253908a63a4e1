"""Pods through a real containerd: see `tests.containerd.machine`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.containerd.machine import Machine, missing


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if reason := missing():
        pytest.skip(reason)
    name = f"tcni{os.getpid()}"
    with Machine.started(tmp_path_factory.mktemp("machine"), name, ("10.42.0.0/24", "fd42::/64")) as started:
        yield started


@pytest.fixture
def machine(shared: Machine) -> Iterator[Machine]:
    """A machine whose agent runs, without pods; what a test starts is taken away after it."""
    yield shared
    if not shared.agent_runs:
        shared.start_agent()
    for sandbox in shared.runtime.list():
        shared.runtime.remove(sandbox.id)
    shared.take_all()
