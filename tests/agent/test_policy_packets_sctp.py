"""SCTP with real packets, where this machine's kernel has none: in a User Mode Linux kernel (see CONTRIBUTING.md)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.other_kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
    pytest.mark.timeout(1200),
]

CASES = Path(__file__).parents[1] / "policy" / "cases"
NO_KERNEL = 125


def sctp_cases() -> list[dict[str, Any]]:
    """Return every case with a probe of SCTP, without its other probes."""
    found = []
    for file in ("k8s-e2e-netpol.json", "recipes.json", "cnp-conformance-admin.json"):
        for case in json.loads((CASES / file).read_text(encoding="utf-8"))["cases"]:
            asked = {
                key: [each for each in case.get(key) or () if each["protocol"] == "SCTP"]
                for key in ("probes", "matrices")
            }
            if any(asked.values()):
                found.append(case | asked)
    return found


@pytest.fixture
def umlrun() -> str:
    """Return the command that runs another in a kernel with SCTP."""
    found = os.environ.get("TORTIE_UMLRUN") or shutil.which("umlrun")
    if found is None or shutil.which(found) is None:
        pytest.skip("needs umlrun, in PATH or named by TORTIE_UMLRUN")
    return found


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_the_cases_of_sctp_come_out_as_expected(umlrun: str, tmp_path: Path, family: str) -> None:
    cases = sctp_cases()
    assert len(cases) > 20
    file = tmp_path / "sctp.json"
    file.write_text(json.dumps({"cases": cases}), encoding="utf-8")
    tortie = Path(sys.executable).parent / "tortie"
    command = [umlrun, "-m", "700", "-t", "1100", str(tortie), "policy", "verdicts", str(file)]
    done = subprocess.run(
        [*command, "--engine", "kernel", "--family", family], capture_output=True, text=True, check=False
    )
    if done.returncode == NO_KERNEL and "no kernel" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.stdout.splitlines()[-1:] == [f"{len(cases)} passed, 0 failed"], (
        done.stdout[-2000:] + done.stderr[-2000:]
    )
    assert "skipped" not in done.stdout + done.stderr
