"""The same commit gives the same image: built again from nothing, as on another machine, it has the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.podman import IMAGE, PODMAN, podman

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]

ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
BASE = f"localhost/tortie-base:bookworm-{ARCH}"
AGAIN = f"localhost/tortie-again:{os.getpid()}"
LONG_AGO = 1_000_000_000
BUILT_FROM = (
    *("Dockerfile", ".dockerignore", "LICENSE", "README.md", "pyproject.toml", "requirements", "image", "scripts"),
    *("agent", "bgp", "cni", "felix", "inet", "policy"),
)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A checkout at another place, by somebody with another umask, at another time."""
    for name in BUILT_FROM:
        source, copy = ROOT / name, tmp_path / name
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    for path in tmp_path.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
        os.utime(path, (LONG_AGO, LONG_AGO))
    return tmp_path


@pytest.fixture
def _image_again(elsewhere: Path) -> Iterator[None]:
    """The image, built once more without anything that is left of the first time but the base."""
    if not (shutil.which(PODMAN[0]) and shutil.which("go")):
        pytest.skip(f"needs {PODMAN[0]} and Go")
    if len(PODMAN) > 1:
        pytest.skip(f"scripts/image knows no options of podman: {' '.join(PODMAN)}")
    if subprocess.run([*PODMAN, "image", "exists", BASE], check=False).returncode:
        pytest.skip(f"no {BASE}: scripts/image --without-registry makes it")
    moment = str(json.loads(podman("image", "inspect", IMAGE, "--format", "{{json .Created.Unix}}")))
    said = {"SOURCE_DATE_EPOCH": moment, "IMAGE": AGAIN, "BUILDER": PODMAN[0]}
    command = ["scripts/image", "--without-registry", "--no-cache"]
    try:
        done = subprocess.run(
            command, cwd=elsewhere, env=os.environ | said, umask=0o077, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        yield
    finally:
        subprocess.run([*PODMAN, "rmi", AGAIN], check=False, capture_output=True)


def id_of(image: str) -> str:
    return podman("image", "inspect", image, "--format", "{{.Id}}").strip()


def contents(image: str, directory: Path) -> dict[str, tuple[object, ...]]:
    """Return everything a layer says of each file."""
    archive = directory / "exported.tar"
    made = podman("create", image).strip()
    try:
        podman("export", "--output", str(archive), made)
    finally:
        podman("rm", made)
    with tarfile.open(archive) as tar:
        return {
            member.name: (
                *(oct(member.mode), member.uid, member.gid, member.mtime, member.size, member.linkname),
                hashlib.sha256(file.read()).hexdigest()
                if member.isfile() and (file := tar.extractfile(member))
                else "",
            )
            for member in tar
        }


@pytest.mark.usefixtures("_image_again")
def test_the_image_that_is_built_again_elsewhere_has_the_same_bytes(tmp_path: Path) -> None:
    if id_of(IMAGE) == id_of(AGAIN):
        return
    first, second = contents(IMAGE, tmp_path), contents(AGAIN, tmp_path)
    differing = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    told = [f"{name}: {first.get(name)} then {second.get(name)}" for name in differing[:20]]
    pytest.fail("\n".join(told) or "all files are the same, and what is said of the image is not")
