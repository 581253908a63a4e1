"""Container images without a registry or a builder: an archive as `docker save` writes it, made of files at hand."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

BUSYBOX: Final = Path("/bin/busybox")
ARCHITECTURE: Final = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
"""What images call the machine that their programs come from."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image of one layer. `files` are programs by their place in the image, `links` what else is there."""

    tag: str
    entrypoint: Sequence[str]
    files: Mapping[str, Path]
    links: Mapping[str, str] = field(default_factory=dict)
    path: str = "/bin"

    def layer(self) -> bytes:
        """Return its one layer."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, source in sorted(self.files.items()):
                _add(archive, name, source.read_bytes(), 0o755)
            for name, target in sorted(self.links.items()):
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = tarfile.SYMTYPE, target
                archive.addfile(entry)
        return buffer.getvalue()


def busybox(tag: str, *entrypoint: str) -> Image:
    """Return an image of busybox with all its applets."""
    listed = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
    links = {f"bin/{name}": "busybox" for name in listed if name != "busybox"}
    return Image(tag, entrypoint, {"bin/busybox": BUSYBOX}, links)


def write_archive(target: Path, images: Sequence[Image]) -> None:
    """Write images into one archive."""
    manifest = []
    with tarfile.open(target, mode="w") as archive:
        for number, image in enumerate(images):
            layer = image.layer()
            config = {
                "architecture": ARCHITECTURE,
                "os": "linux",
                "config": {"Entrypoint": list(image.entrypoint), "Env": [f"PATH={image.path}"]},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
            }
            _add(archive, f"{number}.tar", layer, 0o644)
            _add(archive, f"{number}.json", json.dumps(config).encode(), 0o644)
            manifest.append({"Config": f"{number}.json", "RepoTags": [image.tag], "Layers": [f"{number}.tar"]})
        _add(archive, "manifest.json", json.dumps(manifest).encode(), 0o644)


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
