"""The agent's process: `python -m agent OPTIONS`, what `tortie agent` becomes.

The command line has read and checked its options with typer and rich, of which a process that runs for months has no
need: 5 MB on every node. So it hands the options over, as JSON, and is replaced.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final, NoReturn

import msgspec

from agent import termination

OPTIONS: Final = "TORTIE_AGENT"
"""The variable of the environment in which the options are: the process list shows what people typed."""

LEAN: Final = {
    "MALLOC_ARENA_MAX": "1",  # an arena for each thread is for programs whose threads run at once: 3 MB
    "MALLOC_MMAP_THRESHOLD_": "262144",  # left alone it grows with what is freed, and holes in the heap with it: 4 MB
}
"""What glibc is told, unless the environment tells it something else."""

_FAILED: Final = 2  # as agent.cli.output has it


class Start(msgspec.Struct, frozen=True):
    """How an agent is started: what it is told, and how much it says."""

    options: Any  # agent.daemon.Options
    log_level: str


def become_agent(options: object, log_level: str) -> NoReturn:
    """Replace this process by an agent with these `agent.daemon.Options`."""
    told = msgspec.json.encode(Start(options, log_level), enc_hook=str).decode()
    # -P: modules are those that are installed, whatever lies in the directory we were called from.
    argv = [sys.executable, "-P", "-m", "agent", *sys.argv[2:]]
    termination.hold()
    os.execve(sys.executable, argv, LEAN | os.environ | {OPTIONS: told})  # noqa: S606 - that is what this is for


def main() -> None:
    """Run the agent that the environment tells of. What goes wrong at the start ends as one line."""
    termination.end_at_once()
    sys.modules["rich"] = None  # type: ignore[assignment]  # structlog loads it for traces in colour, if it is there
    from agent import daemon, exclusive, logs  # noqa: PLC0415 - after the line above

    start = msgspec.json.decode(os.environ.pop(OPTIONS), type=Start)
    options = msgspec.convert(start.options, daemon.Options, dec_hook=lambda kind, value: kind(value))
    logs.configure(start.log_level, node=options.node)
    try:
        daemon.run(options)
    except exclusive.AlreadyRunningError as error:
        _fail(str(error))
    except PermissionError as error:
        _fail(f"not permitted: {error}; the agent needs CAP_NET_ADMIN and its run directory {options.run_dir}")
    except OSError as error:
        _fail(f"cannot start: {error}")


def _fail(reason: str) -> NoReturn:
    sys.stderr.write(f"tortie: {reason}\n")
    raise SystemExit(_FAILED)


if __name__ == "__main__":
    main()
