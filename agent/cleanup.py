"""Every trace of Tortie on a node, and its end: what the kernel has of ours, our files, settings put back.

`survey` finds it and `clean` removes what was found; nobody else's is touched. What cannot be removed is said, and the
rest is done. It takes no running agent, and none that ever ran.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from agent.cni import conflist, hostlocal, install
from felix import podinterfaces, sysctl, traces
from felix.sysctl import Sysctls
from felix.traces import Trace, Traces
from policy.nftskeleton import POD_INTERFACE_GROUP

_RUN_FILES: Final = (
    "agent.sock",
    "cni.sock",
    conflist.VERSIONS_FILE,
    "drain.json",
    "exabgp.conf",
    "exabgp.sock",
    sysctl.FILE_NAME,
)
"""What an agent makes in its run directory. The settings' record is the last to go: the others need no order."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where files of ours are."""

    run_dir: Path = Path("/run/tortie")
    cni_conf_dir: Path = Path("/etc/cni/net.d")
    cni_state_dir: Path = Path("/var/lib/cni/networks")
    cni_bin_dir: Path = Path("/opt/cni/bin")


class Item(msgspec.Struct, rename="camel", frozen=True):
    """One thing of ours. `reason` says why it is still there, where it is."""

    kind: str
    name: str
    reason: str = ""


class Cleaned(msgspec.Struct, rename="camel", frozen=True):
    """What `clean` did, or would do."""

    removed: list[Item]
    left: list[Item]


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything of ours on this node."""

    kernel: Traces
    settings: dict[str, str]  # name -> the value it gets back
    files: tuple[Path, ...]

    def items(self) -> list[Item]:
        """Return it for people, in the order it goes in."""
        return [
            *(Item("file", str(path)) for path in self.files),
            *map(_item, self.kernel.list()),
            *(Item("setting", f"{name} back to {value}") for name, value in self.settings.items()),
        ]


async def survey(places: Places) -> Survey:
    """Look for it. Changes nothing. Raises OSError."""
    changed = Sysctls(places.run_dir / sysctl.FILE_NAME).changed()
    reached = await podinterfaces.host_route_addresses()
    return Survey(
        await traces.find(POD_INTERFACE_GROUP),
        {name: change.before for name, change in changed.items()},
        tuple(await asyncio.to_thread(lambda: list(_files(places, reached)))),
    )


async def clean(places: Places) -> Cleaned:
    """Remove it. The configuration of the container runtime goes first: no pod is to be wired meanwhile.

    Raises OSError where the kernel cannot be looked at.
    """
    found = await survey(places)
    sysctls = Sysctls(places.run_dir / sysctl.FILE_NAME)
    removed, left = await asyncio.to_thread(_remove_files, [path for path in found.files if path != _record(places)])
    remainders = await traces.remove(found.kernel)
    stuck = {remainder.trace for remainder in remainders}
    removed += [_item(trace) for trace in found.kernel.list() if trace not in stuck]
    left += [Item(trace.kind, trace.name, reason) for trace, reason in remainders]
    restored, unrestored = sysctls.restore()
    removed += [Item("setting", f"{name} back to {value}") for name, value in restored.items()]
    left += [Item("setting", name, reason) for name, reason in unrestored.items()]
    if _record(places) in found.files:
        more, failed = await asyncio.to_thread(_remove_files, [_record(places)])
        removed, left = removed + more, left + failed
    await asyncio.to_thread(_remove_empty, places.run_dir)
    return Cleaned(removed, left)


def _record(places: Places) -> Path:
    return places.run_dir / sysctl.FILE_NAME


def _item(trace: Trace) -> Item:
    return Item(trace.kind, trace.name)


def _files(places: Places, reached: Collection[bytes]) -> Iterator[Path]:
    paths = [
        places.cni_conf_dir / conflist.FILE_NAME,
        *_plugins(places.cni_bin_dir),
        *_book(places.cni_state_dir / conflist.NETWORK, reached),
        *(places.run_dir / name for name in _RUN_FILES),
    ]
    return (path for path in paths if path.exists() or path.is_symlink())


def _book(directory: Path, reached: Collection[bytes]) -> Iterator[Path]:
    """Yield host-local's book whole, or, while pods have addresses of it, what is written there of others.

    Such pods live on, and keep their addresses if Tortie comes back: without the book a new pod would be given one too.
    """
    leases = hostlocal.read(directory)
    free = [lease for lease in leases if lease.address not in reached]
    if len(free) == len(leases):
        yield directory
    else:
        yield from (directory / lease.name for lease in free)


def _plugins(directory: Path) -> Iterator[Path]:
    """Yield the plugins that we installed and that are still as we installed them, and the record of that."""
    for name, digest in install.read_record(directory).items():
        path = directory / name
        if "/" not in name and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest:
            yield path
    yield directory / install.RECORD_NAME


def _remove_files(paths: list[Path]) -> tuple[list[Item], list[Item]]:
    removed, left = [], []
    for path in paths:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            removed.append(Item("file", str(path)))
        except OSError as error:
            left.append(Item("file", str(path), error.strerror or str(error)))
    return removed, left


def _remove_empty(directory: Path) -> None:
    """Remove a directory unless something of others is in it."""
    try:
        directory.rmdir()
    except OSError:
        return
