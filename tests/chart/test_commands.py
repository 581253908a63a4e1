"""What the chart has containers run, the program has: every command and option."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from agent.cli.main import app
from tests.chart.rendering import VALUE_SETS, hooks, the

KINDS = ("initContainers", "containers")


@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS.keys())
def test_every_command_and_option_is_one_of_the_programs(values: dict[str, Any]) -> None:
    pods = [the("DaemonSet", values)["spec"]["template"], *(each for each in hooks(values) if each["kind"] == "Pod")]
    for container in (each for pod in pods for kind in KINDS for each in pod["spec"].get(kind, ())):
        words = list(container.get("args", ()))
        command: Any = typer.main.get_command(app)
        while words and not words[0].startswith("-"):
            command = command.commands[words.pop(0)]
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word.partition("=")[0] for word in words} <= options, container["name"]
