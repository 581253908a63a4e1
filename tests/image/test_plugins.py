"""The CNI plugins come out for the machine they are built for, whatever they are built on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.image.elf import MACHINES, read

pytestmark = pytest.mark.image

SCRIPT = Path(__file__).parents[2] / "scripts" / "cni"


@pytest.mark.parametrize("arch", MACHINES)
def test_plugins_are_built_for_another_kind_of_machine_and_need_nothing_of_it(arch: str, tmp_path: Path) -> None:
    if shutil.which("go") is None:
        pytest.skip("no go")

    subprocess.run([SCRIPT, "build", tmp_path], env={**os.environ, "GOARCH": arch}, check=True)

    built = {path.name: read(path.read_bytes()) for path in tmp_path.iterdir()}
    assert built.keys() == {"bandwidth", "host-local", "loopback", "portmap", "ptp", "tortie-cni"}
    for name, elf in built.items():
        assert elf is not None, name
        assert elf.machine == MACHINES[arch], name
        assert not elf.needs_loader, name
