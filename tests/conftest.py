"""What tests anywhere may ask for: both address families, libnftables, a Kubernetes control plane of real programs."""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

from felix.nft.library import Library, LibraryError
from inet.prefix import Family
from tests.kubernetes import assets
from tests.kubernetes.cluster import Cluster

FRAMES_NOTED: Final = 3
"""asyncio's debug mode notes with every task, future and call the whole stack that it was made on, pytest's below it:
up to two thirds of a test's time. The last frames say who it was."""

_walk_stack = traceback.walk_stack


def _walk_up_to_who_it_was(frame: FrameType | None) -> Iterator[tuple[FrameType, int]]:
    is_noted = frame is not None and frame.f_code.co_filename.startswith(asyncio.__path__[0])
    return islice(_walk_stack(frame), FRAMES_NOTED if is_noted else None)


traceback.walk_stack = _walk_up_to_who_it_was

# How long an example takes is the machine's affair, too.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files first that say that they may take long, by a timeout of their own, then those of many tests.

    A worker takes a file at a time: a long one that begins late is waited for by all others.
    """
    timeouts: dict[Path, float] = {}
    for item in items:
        timeout = item.get_closest_marker("timeout")
        timeouts[item.path] = max(timeouts.get(item.path, 0), timeout.args[0] if timeout else 0)
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (-timeouts[item.path], -tests[item.path]))


@pytest.fixture(params=list(Family), ids=lambda family: family.label)
def family(request: pytest.FixtureRequest) -> Family:
    """Both families, one after the other."""
    return Family(request.param)


@pytest.fixture
def library() -> Library:
    """libnftables."""
    try:
        return Library()
    except LibraryError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An API server with the project's kinds, shared by all tests that ask for it: leave it as you found it."""
    if reason := assets.missing(*assets.SERVER):
        pytest.skip(reason)
    with Cluster.started(tmp_path_factory.mktemp("kubernetes")) as running:
        running.install_crds()
        yield running
