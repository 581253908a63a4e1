"""One lab for the tests of a module: built by the first, given up by one that fails.

async def test_...(net: Net) -> None:
    await net.configure(encapsulation={"mode": "Always"})
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator

import pytest

from agent.lab.lab import tear_down
from tests.lab import has_failed, missing, pytest_runtest_makereport, show_logs
from tests.scenarios_encapsulation.network import TOPOLOGY, Net, build

__all__ = ["net", "pytest_runtest_makereport"]


@pytest.fixture(scope="module")
def built() -> Iterator[list[Net]]:
    """The lab of the module, once a test has asked for it."""
    holder: list[Net] = []
    yield holder
    for net in holder:
        asyncio.run(tear_down(net.lab.state))


@pytest.fixture
async def net(
    request: pytest.FixtureRequest, built: list[Net], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Net]:
    """The lab with everything in it running. After a failure the next test gets a new one."""
    if lacking := missing(TOPOLOGY) or ("" if shutil.which("nft") else "needs nft (nftables)"):
        pytest.skip(lacking)
    if not built:
        built.append(Net(await build(tmp_path_factory.mktemp("encapsulation"))))
    (net,) = built
    yield net
    await net.stop_watching()
    if has_failed(request.node):
        show_logs(net.lab.state)
        await tear_down(net.lab.state)
        built.clear()
