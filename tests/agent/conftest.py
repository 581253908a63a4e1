from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """A test that sets logging up must not leave its captured stream to the next one."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
