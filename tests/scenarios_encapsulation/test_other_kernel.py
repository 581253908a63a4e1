"""What this machine's kernel lacks, in a User Mode Linux kernel (CONTRIBUTING.md says which program runs one)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.scenarios_encapsulation.kernel import has_ip_in_ip

pytestmark = [pytest.mark.other_kernel, pytest.mark.timeout(1800)]

UMLRUN: Final = os.environ.get("TORTIE_UMLRUN") or shutil.which("umlrun")
ROOT: Final = Path(__file__).parents[2]
TESTS: Final = {
    "devices": ("tests/felix/test_tunnels.py",),
    "packets": ("tests/scenarios_encapsulation/test_encapsulation.py", "-k", "IPIP"),
    "late nodes": ("tests/scenarios_encapsulation/test_skew.py", "-k", "IPIP"),
}


@pytest.mark.parametrize("words", TESTS.values(), ids=TESTS.keys())
def test_ip_in_ip_works_where_the_kernel_has_it(words: tuple[str, ...]) -> None:
    if has_ip_in_ip():
        pytest.skip("this kernel has IP in IP itself")
    if UMLRUN is None or os.geteuid() != 0:
        pytest.skip("needs umlrun, a User Mode Linux kernel, on the PATH or in TORTIE_UMLRUN, and root")
    pytest_in_it = [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", "-p", "no:randomly"]
    argv = [UMLRUN, "-m", "2500", "-t", "1500", *pytest_in_it, *words]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", done.stdout)
