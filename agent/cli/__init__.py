"""The command line: `tortie`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run `tortie`. An agent can be stopped before all that the command line takes has been imported."""
    if sys.argv[1:2] == ["agent"]:
        from agent import termination

        termination.end_at_once()
    from agent.cli.main import main as run

    run()
