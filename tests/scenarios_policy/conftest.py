"""Policy on real nodes: two agents, four pods, real connections between them.

async def test_...(net: Lab, apply: Apply) -> None:
"""

from __future__ import annotations

import shutil
from functools import partial

import pytest

from agent.lab.lab import Lab
from agent.lab.status import look
from agent.lab.wait import eventually
from tests.lab import BuildLab, apply, lab, pytest_runtest_makereport
from tests.scenarios_policy.connections import connects, listening

__all__ = ["apply", "lab", "net", "pytest_runtest_makereport"]

TOPOLOGY = {
    "nodes": {
        "n1": {
            "podCIDRs": ["10.42.0.0/24", "fd42:0:0:0::/64"],
            "pods": [
                {"name": "front", "namespace": "shop", "labels": {"app": "front"}},
                {"name": "api", "namespace": "shop", "labels": {"app": "api"}},
            ],
        },
        "n2": {
            "podCIDRs": ["10.42.1.0/24", "fd42:0:0:1::/64"],
            "pods": [
                {"name": "db", "namespace": "shop", "labels": {"app": "db"}},
                {"name": "probe", "namespace": "ops", "labels": {"app": "probe"}},
            ],
        },
    },
    "links": [["n1", "n2"]],
}


@pytest.fixture
async def net(lab: BuildLab) -> Lab:
    """The lab, with every session established and every pod in reach of every other."""
    if shutil.which("nft") is None:
        pytest.skip("needs nft (nftables)")
    built = await lab(TOPOLOGY, {})
    await eventually(partial(look, built), lambda report: report.is_healthy, within_s=30, what="a healthy lab")
    with listening(built, "db"):
        await eventually(lambda: connects(built, "front", "db"), within_s=20, what="pods that reach each other")
    return built
