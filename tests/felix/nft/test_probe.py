from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from felix.nft import probe
from felix.nft.probe import Missing, missing

pytestmark = pytest.mark.kernel


@pytest.mark.usefixtures("library")
async def test_nothing_is_missing_where_the_tests_run_and_nothing_is_written(nft: Callable[..., str]) -> None:
    assert await missing() == []
    assert nft("list", "ruleset") == ""


@pytest.mark.usefixtures("node")
async def test_a_missing_library_is_told() -> None:
    [it] = await missing("libnftables-absent.so.1")
    assert str(it).startswith("libnftables: libnftables-absent.so.1 cannot be loaded")


@pytest.mark.usefixtures("library", "node")
async def test_each_missing_feature_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = ("magic", 'chain c {\n ct helper set "absent"\n}')
    monkeypatch.setattr(probe, "_FEATURES", (absent, *probe._FEATURES, ("more magic", absent[1])))
    found = await missing()
    assert found == [Missing("magic", "No such file or directory"), Missing("more magic", "No such file or directory")]


@pytest.mark.usefixtures("library", "node")
@pytest.mark.parametrize(
    ("capabilities", "told"),
    [
        ("-all", ["nf_tables (CONFIG_NF_TABLES): Operation not permitted: needs CAP_NET_ADMIN"]),
        ("-all,+net_admin", []),
    ],
    ids=["no privileges", "CAP_NET_ADMIN alone"],
)
def test_missing_privileges_are_told(capabilities: str, told: list[str]) -> None:
    program = "import asyncio; from felix.nft.probe import missing; print(*asyncio.run(missing()), sep='\\n')"
    command = ["setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line] == told
