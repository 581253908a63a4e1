"""Policy on real nodes: two agents, four pods, real connections between them.

async def test_...(net: Lab, apply: Apply) -> None:
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.lab.lab import Lab
from agent.lab.status import look
from agent.lab.wait import eventually
from tests.lab import BuildLab, apply, lab, pytest_runtest_makereport
from tests.scenarios_policy.connections import connects, listening

__all__ = ["apply", "lab", "net", "net_by_rights", "pytest_runtest_makereport"]

TOPOLOGY: dict[str, Any] = {
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


CHART = Path(__file__).parents[2] / "charts/tortie/templates/daemonset.yaml"


@pytest.fixture
async def net(lab: BuildLab) -> Lab:
    """The lab, with every session established and every pod in reach of every other."""
    return await built(lab, TOPOLOGY)


@pytest.fixture(params=["root", "capabilities of the chart"])
async def net_by_rights(lab: BuildLab, request: pytest.FixtureRequest) -> Lab:
    """The same, with agents that may do everything, and with agents that may do what the chart lets them."""
    topology = deepcopy(TOPOLOGY)
    if request.param != "root":
        names = re.findall(r"^ +- ([A-Z_]+) #", CHART.read_text(encoding="utf-8"), re.MULTILINE)
        assert "NET_ADMIN" in names
        rights = ",".join(("-all", *(f"+{name.lower()}" for name in names)))
        agent = [str(Path(sys.executable).with_name("tortie")), "agent", "--config", "{config}", "--node", "{node}"]
        for node in topology["nodes"].values():
            node["command"] = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", *agent]
            node["command"] += ["--run-dir", "{run_dir}"]
    return await built(lab, topology)


async def built(lab: BuildLab, topology: dict[str, Any]) -> Lab:
    """Build the lab and wait until all is well."""
    if shutil.which("nft") is None:
        pytest.skip("needs nft (nftables)")
    built = await lab(topology, {})
    await eventually(partial(look, built), lambda report: report.is_healthy, within_s=30, what="a healthy lab")
    for node in topology["nodes"]:
        # A connection that begins before that is one that nobody keeps track of.
        await eventually(partial(_enforces, built, node), within_s=30, what=f"{node}'s policy in the kernel")
    with listening(built, "db"):
        await eventually(lambda: connects(built, "front", "db"), within_s=20, what="pods that reach each other")
    return built


async def _enforces(lab: Lab, node: str) -> bool:
    said = json.loads(await lab.run(node, "tortie", "status", "-o", "json"))
    return bool(said["policy"]["inKernel"])
