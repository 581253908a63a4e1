"""Tests that take a kernel of their own: a test of the file runs the whole file again in one, where the others run.

    @in_own_kernel
    async def test_what_takes_it() -> None: ...

    @starts_own_kernel
    def test_in_a_kernel_of_its_own() -> None:
        run_in_own_kernel(__file__)

The kernel is a User Mode Linux one (see CONTRIBUTING.md).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

_IS_OWN: Final = os.environ.get("TORTIE_IN_OWN_KERNEL") == "1"
_NO_KERNEL: Final = 125
_OPTIONS: Final = ("no:cacheprovider", "no:randomly")
_TIMEOUT_S: Final = 1100

in_own_kernel = pytest.mark.skipif(not _IS_OWN, reason="runs in a kernel of its own, by the first test of this file")


def starts_own_kernel(test: Callable[[], None]) -> Callable[[], None]:
    """Mark the test of a file that starts the kernel for the others."""
    return pytest.mark.other_kernel(pytest.mark.skipif(_IS_OWN, reason="this is the kernel of its own")(test))


def run_in_own_kernel(file: str) -> None:
    """Run the tests of a file in another kernel; skips where there is none."""
    umlrun = os.environ.get("TORTIE_UMLRUN") or shutil.which("umlrun")
    if umlrun is None or shutil.which(umlrun) is None:
        pytest.skip("needs umlrun, in PATH or named by TORTIE_UMLRUN")
    plugins = [word for name in _OPTIONS for word in ("-p", name)]
    options = [*plugins, "-q", "--tb=short", "--color=no", "-o", "asyncio_debug=false"]
    command = [umlrun, "-m", "700", "-t", str(_TIMEOUT_S), sys.executable, "-m", "pytest", *options, file]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment |= {"TORTIE_IN_OWN_KERNEL": "1", "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=Path(__file__).parents[1]
    )
    if done.returncode == _NO_KERNEL and "no kernel" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
