"""What the image leaves out is nothing that the program imports."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMPORT_EVERYTHING = """
import importlib, json, pkgutil, sys
for name in ("agent", "bgp", "felix", "inet", "policy"):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        if module.name != "bgp.speaker.exabgp.server":  # a program, not a module
            importlib.import_module(module.name)
import exabgp.application.main, exabgp.application.server, exabgp.application.validate
import kubernetes.aio.client.api_client, kubernetes.aio.client.rest, kubernetes.aio.config
import typer.rich_utils, rich.console, rich.table
print(json.dumps([module.__file__ for module in sys.modules.values() if getattr(module, "__file__", None)]))
"""
OPTIONAL = ("_bz2.", "_lzma.", "_uuid.")
"""Used by the standard library where they are there."""


def patterns() -> list[str]:
    places = {"python": sysconfig.get_path("stdlib"), "site": sysconfig.get_path("purelib")}
    found = []
    for line in (ROOT / "image" / "pruned").read_text().splitlines():
        if not line.startswith("#"):
            place, _, path = line.partition("/")
            found.append(f"{places[place]}/{path}")
    return found


def test_nothing_that_is_imported_is_left_out_of_the_image() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_EVERYTHING], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    imported = json.loads(done.stdout.splitlines()[-1])

    assert len(imported) > 500
    lost = [
        path
        for path in imported
        for pattern in patterns()
        if (fnmatch(path, pattern) or path.startswith(f"{pattern}/")) and not Path(path).name.startswith(OPTIONAL)
    ]
    assert lost == []
