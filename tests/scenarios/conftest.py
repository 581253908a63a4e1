"""A scenario's module says which scenes it plays in, and its tests ask for `net`, the lab of the scene.

pytestmark = [pytest.mark.interop, on(ROUTERS)]

async def test_...(net: Lab, apply: Apply) -> None:
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from agent.lab.lab import Lab
from tests.lab import apply, has_failed, lab, pytest_runtest_makereport
from tests.scenarios.stage import Stage

__all__ = ["apply", "lab", "net", "pytest_runtest_makereport", "stage"]


@pytest.fixture(scope="module")
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The scene of these tests; `on` chooses it."""
    chosen = Stage(request.param, tmp_path_factory.mktemp("stage"))
    yield chosen
    asyncio.run(chosen.close())


@pytest.fixture
async def net(request: pytest.FixtureRequest, stage: Stage) -> AsyncIterator[Lab]:
    """The lab of the scene, everything in it working. After a failure the next test gets a new one."""
    try:
        entered = await stage.enter()
    except Exception:
        await stage.close(show=True)
        raise
    yield entered
    if has_failed(request.node):
        await stage.close(show=True)
    else:
        await stage.leave()
