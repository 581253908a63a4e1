"""The datastore that is a directory of manifests: no Kubernetes needed, changes seen as files change.

inotify only says that something changed; what, `ManifestDirectory` finds out by looking at every file again. So an
event that is lost, or a file system that has none, costs a few seconds and nothing else. Looking and reading happen
in a worker thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError  # awatch cannot say when it has begun

from agent.datastore import Batch, DatastoreHealth
from agent.datastore.absences import Absences
from agent.datastore.feed import Feed
from agent.datastore.manifest_directory import ManifestDirectory, View
from agent.objects.kinds import Keyed
from agent.objects.model import Key
from agent.objects.problem import Problem

RESCAN_S: Final = 10.0
RETRY_S: Final = 1.0

_QUIET_MS: Final = 100
"""A burst of changes is over after so long without one. The watching thread wakes up as often: 0.05 % of a core."""
_BURST_MS: Final = 300
"""A burst that does not end is looked at after so long."""


class DirectoryDatastore:
    """Objects from the *.yaml, *.yml and *.json files below a directory, which need not be there yet.

    All files are looked at every `rescan_s` seconds even if nothing seems to have changed. A look counts as
    another full list if the one before it that did is as long ago, so that an accident of a moment, such as a
    volume mounted late, does not confirm itself.
    """

    def __init__(self, path: Path | str, *, rescan_s: float = RESCAN_S, retry_s: float = RETRY_S) -> None:
        self._path = str(path)
        self._rescan_s = rescan_s
        self._retry_s = retry_s
        self._directory = ManifestDirectory(path)
        self._absences = Absences(confirm_after_s=rescan_s)
        self._told: Mapping[Key, Keyed] = {}
        self._listed_at: float | None = None
        self._feed = Feed()
        self._error = ""
        self._watch_error = ""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to read; a directory that is missing is waited for."""
        self._task = asyncio.create_task(self._run(), name="directory-datastore")

    def batches(self) -> AsyncIterator[Batch]:
        """Tell what there is, then what changes."""
        return self._feed.batches()

    def health(self) -> DatastoreHealth:
        """Return why the directory cannot be read or watched, if so."""
        return DatastoreHealth(f"directory {self._path}", self._feed.full_lists > 0, self._error or self._watch_error)

    async def stop(self) -> None:
        """Stop watching."""
        self._feed.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while True:
                await self._follow()
                await self._look()
                await asyncio.sleep(self._retry_s)
        except Exception as error:  # noqa: BLE001 - whoever takes the batches has to know
            self._feed.close(error)

    async def _follow(self) -> None:
        """Look once, then after each change, as long as the watched directory is the one at our path."""
        try:
            with await asyncio.to_thread(_Watch, self._path) as watch:
                self._watch_error = ""
                await self._look()
                while await asyncio.to_thread(watch.is_current):
                    await watch.wait(self._rescan_s)
                    await self._look()
        except (OSError, WatchfilesRustInternalError) as error:
            self._watch_error = f"cannot be watched, so looked at every {self._retry_s:g} s: {error}"

    async def _look(self) -> None:
        view = await asyncio.to_thread(self._directory.read)
        self._tell(view)
        now = asyncio.get_running_loop().time()
        if not view.error and (self._listed_at is None or now - self._listed_at >= self._rescan_s):
            self._listed_at = now
            self._feed.listed()

    def _tell(self, view: View) -> None:
        self._error = view.error
        for key, item in view.objects.items():
            if self._told.get(key) != item:
                self._feed.put(item)
        absent = frozenset(self._told.keys() - view.objects.keys())
        gone = self._absences.judge(absent, len(self._told))
        for key in gone:
            self._feed.delete(key)
        self._told = {**view.objects, **{key: self._told[key] for key in absent - gone}}
        doubt = self._absences.problem
        self._feed.set_problems(self._path, view.problems if doubt is None else (*view.problems, doubt))


def read_directory(path: Path | str) -> tuple[list[Keyed], list[Problem]]:
    """Read the manifests of a directory once: the objects, and everything wrong by file and line."""
    view = ManifestDirectory(path).read()
    return list(view.objects.values()), [replace(problem, consequence="") for problem in view.problems]


class _Watch:
    """Waits for a change below a directory. Raises OSError where it cannot."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._identity = _identity(path)
        self._is_over = threading.Event()
        self._notify = RustNotify(
            [path],
            debug=False,
            force_polling=False,
            poll_delay_ms=0,
            recursive=True,
            ignore_permission_denied=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._notify.close()

    def is_current(self) -> bool:
        """Whether the directory at our path is still the one that is watched."""
        try:
            return _identity(self._path) == self._identity
        except OSError:
            return False

    async def wait(self, timeout_s: float) -> None:
        """Return after a change and the quiet that follows it, or after the time."""
        timeout_ms = max(1, round(timeout_s * 1000))
        waiting = asyncio.ensure_future(
            asyncio.to_thread(self._notify.watch, _BURST_MS, _QUIET_MS, timeout_ms, self._is_over)
        )
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError:
            self._is_over.set()  # the thread looks at it every _QUIET_MS, and must be out before `close`
            await waiting
            raise


def _identity(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return (status.st_dev, status.st_ino)
