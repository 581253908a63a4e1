"""The child processes: ExaBGP itself and its validator. Starting, ending, and reading what they say.

ExaBGP dies with the agent whatever kills the agent, and its bridge with ExaBGP, also one that is stopped or hangs:
`setpriv --pdeathsig` asks the kernel for it. Its log comes over a pipe that is always drained; the few lines that
matter are kept as state, and no password is in any text that leaves this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bgp.speaker import SpeakerError

_HERE: Final = Path(__file__).parent
_REACTOR_SPEED: Final = 20
"""Hundredths of a second between two rounds of ExaBGP's loop when nothing happens; whatever happens wakes it."""

_VALIDATE_S: Final = 30.0
_LAST_WORDS_S: Final = 1.0
"""How long the log of a dead ExaBGP is read yet: its bridge has it open, too."""

_TAIL_LINES: Final = 20
_RELOADED: Final = "loaded new configuration successfully"
_NOT_RELOADED: Final = "could not load/reload configuration"
_LISTEN_FAILED: Final = re.compile(r"can not bind to (\S+) \((.*)\)")
_SECRET: Final = re.compile(r"(md5-password\W+)[A-Za-z0-9+/=]+")


def bridge_command(socket_path: Path) -> list[str]:
    """Return the command line of the helper that ExaBGP runs. SpeakerError when a program is missing."""
    return [*_dying_with_parent(), sys.executable, "-I", "-S", str(_HERE / "bridge.py"), str(socket_path)]


def without_secrets(text: str) -> str:
    """Return the text with every password in it blotted out."""
    return _SECRET.sub(r"\1***", text)


class Child:
    """A running ExaBGP."""

    def __init__(
        self, process: asyncio.subprocess.Process, log: asyncio.StreamReader, pipe: asyncio.ReadTransport
    ) -> None:
        self._process = process
        self._log = log
        self._pipe = pipe
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._listen_failures: dict[str, str] = {}
        self._reloaded: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read_log())

    @classmethod
    async def start(cls, configuration: Path) -> Child:
        """Start ExaBGP on a configuration file. SpeakerError when a program is missing."""
        # A pipe of our own: asyncio takes no process for ended while anybody has the other end of one of its pipes.
        read_end, write_end = os.pipe()
        log = asyncio.StreamReader()
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(log), os.fdopen(read_end, "rb", buffering=0)
        )
        try:
            process = await asyncio.create_subprocess_exec(
                *_dying_with_parent(),
                *(sys.executable, "-I", str(_HERE / "server.py"), str(os.getpid()), str(configuration)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=write_end,
                env=_environment(),
                start_new_session=True,  # what a terminal sends to the agent's group is not meant for ExaBGP
            )
        except BaseException:
            pipe.close()
            raise
        finally:
            os.close(write_end)
        return cls(process, log, pipe)

    @property
    def pid(self) -> int:
        """The process id of ExaBGP."""
        return self._process.pid

    @property
    def listen_failures(self) -> str:
        """Where ExaBGP cannot listen, and why; "" where all is well."""
        return "; ".join(f"cannot listen on {where}: {why}" for where, why in self._listen_failures.items())

    @property
    def last_words(self) -> str:
        """The last line of the log, for when the process has ended."""
        return self._tail[-1] if self._tail else ""

    def expect_reload(self) -> asyncio.Future[bool]:
        """Return what will be True when the log says that the configuration was read, False when it was not."""
        self._listen_failures.clear()
        self._reloaded = asyncio.get_running_loop().create_future()
        return self._reloaded

    @property
    def has_ended(self) -> bool:
        """Whether ExaBGP is no more. `wait` may take longer, for its last words."""
        with contextlib.suppress(ChildProcessError):  # it has been waited for
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        return True

    async def wait(self) -> str:
        """Wait for the end; return what is known of it. Not for its bridge, which may be stopped."""
        code = await self._process.wait()
        await asyncio.wait((self._reader,), timeout=_LAST_WORDS_S)
        self._pipe.close()
        ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        return f"ExaBGP {ended}: {self.last_words}" if self.last_words else f"ExaBGP {ended}"

    async def kill(self, after_s: float = 0.0) -> None:
        """End the process: at once, or when it has not ended by itself after a while."""
        if after_s:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), after_s)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self.wait()

    async def _read_log(self) -> None:
        while True:
            try:
                raw = await self._log.readline()
            except ValueError:  # longer than the stream's limit: what was read is dropped, the rest goes on
                continue
            if not raw:
                return
            self._take(without_secrets(raw.decode("utf-8", "replace").strip()))

    def _take(self, line: str) -> None:
        if not line:
            return
        self._tail.append(line)
        if (_RELOADED in line or _NOT_RELOADED in line) and not self._reloaded.done():
            self._reloaded.set_result(_RELOADED in line)
        match = _LISTEN_FAILED.search(line)
        if match is not None:
            why = match[2].rpartition(", ")[2] if "could not listen" in match[2] else match[2]
            self._listen_failures[match[1]] = why


async def validate(configuration: Path) -> str:
    """Have `exabgp validate` (validator.py) read a file. Return "" if it is good, else what is wrong with it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", str(_HERE / "validator.py"), str(configuration)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=_environment() | {"exabgp_log_level": "CRITICAL"},
    )
    try:
        async with asyncio.timeout(_VALIDATE_S):
            _, said = await process.communicate()
    except TimeoutError:
        return f"exabgp validate did not end within {_VALIDATE_S:.0f} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return ""
    return without_secrets(_first_words(said.decode("utf-8", "replace").splitlines())) or "exabgp validate refused it"


def _dying_with_parent() -> tuple[str, ...]:
    """Return what has a program killed when its parent ends, when put before it. SpeakerError when it is missing."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise SpeakerError("setpriv is not installed (Debian package util-linux): ExaBGP is not started without it")
    return setpriv, "--pdeathsig", "KILL", "--"


def _first_words(lines: Iterable[str]) -> str:
    return " ".join(line.strip() for line in lines if line.strip())[:500]


def _environment() -> dict[str, str]:
    """Return ExaBGP's settings. It reads nothing else: no user's file, nothing of our own environment."""
    return {
        "PATH": os.defpath,
        "EXABGP_ENVFILE": os.devnull,
        "exabgp_daemon_user": "root",  # only has to exist: server.py changes nothing
        "exabgp_api_ack": "true",
        "exabgp_api_cli": "false",
        "exabgp_api_compact": "true",
        "exabgp_api_respawn": "false",
        "exabgp_log_destination": "stderr",
        "exabgp_log_level": "INFO",
        "exabgp_log_processes": "false",
        "exabgp_log_statistics": "false",
        "exabgp_reactor_speed": str(_REACTOR_SPEED),
        "MALLOC_ARENA_MAX": "1",
    }
