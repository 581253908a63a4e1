from __future__ import annotations

import pytest

from tests.bgp.builders import V4, V6, Net


@pytest.fixture(params=[V4, V6], ids=lambda net: net.family.label)
def net(request: pytest.FixtureRequest) -> Net:
    """The test's network, once in each family."""
    value: Net = request.param
    return value
