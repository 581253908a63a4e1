from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import structlog

from inet.prefix import Family
from tests.agent.routing_world import World, running


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """A test that sets logging up must not leave its captured stream to the next one."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
async def world(family: Family) -> AsyncIterator[World]:
    """Routing of node n1 that runs, in one family after the other."""
    async with running(World(family)) as built:
        yield built
