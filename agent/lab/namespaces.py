"""Run things: plainly, or inside a network namespace of the lab.

Inside, `ip netns exec` gives a process a private mount namespace; the lab's names are mounted over /etc/hosts
there, so that `ping b1` works and nothing outside is touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

NAMESPACE_DIRECTORY = Path("/run/netns")


class CommandError(Exception):
    """A command ended with an exit status other than 0."""

    def __init__(self, argv: Sequence[str], status: int, text: str) -> None:
        super().__init__(f"{' '.join(argv)}: exit status {status}: {text.strip() or 'no message'}")
        self.status = status
        self.text = text


async def run(argv: Sequence[str], *, stdin: str = "") -> str:
    """Run a command and return what it wrote. Raises CommandError with both its outputs' text."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate(stdin.encode())
    if process.returncode != 0:
        raise CommandError(argv, process.returncode or 0, (errors + output).decode(errors="replace"))
    return output.decode(errors="replace")


def inside(namespace: str, argv: Sequence[str], mounts: Mapping[Path, Path] | None = None) -> list[str]:
    """Return the command that runs `argv` in a namespace, with files or directories mounted over others.

    `mounts`: what is seen there → what it really is; both must exist. Every step replaces the process by the
    next one, so the process id of the command is that of `argv` in the end.
    """
    command = ["ip", "netns", "exec", namespace]
    if mounts:
        pairs = [str(path) for pair in mounts.items() for path in pair]
        steps = " && ".join(f'mount --bind "${{{2 * n + 2}}}" "${{{2 * n + 1}}}"' for n in range(len(mounts)))
        command += ["sh", "-c", f'{steps} && shift {len(pairs)} && exec "$@"', "sh", *pairs]
    return [*command, *argv]


def existing() -> set[str]:
    """Return the names of all network namespaces, anybody's."""
    try:
        return {entry.name for entry in NAMESPACE_DIRECTORY.iterdir()}
    except FileNotFoundError:
        return set()
