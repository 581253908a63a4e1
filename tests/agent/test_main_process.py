"""The process that `tortie agent` becomes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent import __main__ as process
from agent import termination
from agent.cni.node import CniOptions
from agent.daemon import Options

OPTIONS = Options(
    Path("/etc/tortie"), "n1", Path("/run/tortie"), ("::1", 9797), CniOptions(Path("/cni"), Path("/leases"))
)


def told(monkeypatch: pytest.MonkeyPatch, options: Options) -> dict[str, Any]:
    """Return how the process would be replaced: program, arguments, environment."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(termination, "hold", lambda: None)
    monkeypatch.setattr(os, "execve", lambda path, argv, env: calls.append({"path": path, "argv": argv, "env": env}))
    monkeypatch.setattr(sys, "argv", ["/usr/bin/tortie", "agent", "--node", "n1"])
    process.become_agent(options, "warning")
    return calls[0]


def run(code: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the agent's main with another `daemon.run`."""
    program = f"import agent.__main__ as process\n{textwrap.dedent(code)}\nprocess.main()"
    return subprocess.run(
        [sys.executable, "-c", program], env=os.environ | env, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_process_list_shows_what_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, OPTIONS)["argv"] == [sys.executable, "-P", "-m", "agent", "--node", "n1"]


def test_options_arrive_as_they_were_given_and_no_part_of_the_command_line_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = {process.OPTIONS: told(monkeypatch, OPTIONS)["env"][process.OPTIONS]}
    code = """
        import sys, types
        def run(options):
            print(options)
            print(*(name for name in ("rich", "typer", "click", "pygments") if sys.modules.get(name)))
        sys.modules["rich"] = None
        from agent import daemon
        daemon.run = run
    """
    done = run(code, env)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [repr(OPTIONS), ""]


def test_what_goes_wrong_at_the_start_is_one_line_and_status_2() -> None:
    code = """
        from agent import daemon
        def run(options):
            raise PermissionError("Operation not permitted")
        daemon.run = run
    """
    start = process.Start(OPTIONS, "info")
    done = run(code, {process.OPTIONS: msgspec.json.encode(start, enc_hook=str).decode()})
    assert done.returncode == 2
    needs = "the agent needs CAP_NET_ADMIN and its run directory /run/tortie"
    assert done.stderr == f"tortie: not permitted: Operation not permitted; {needs}\n"


def test_our_choice_of_memory_yields_to_the_administrators(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, OPTIONS)["env"].items() >= process.LEAN.items()
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    assert told(monkeypatch, OPTIONS)["env"]["MALLOC_ARENA_MAX"] == "4"
