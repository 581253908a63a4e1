"""The reference pages of what is not an object: every command, and the lab file."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agent.cli.main import app
from agent.lab.topology import Announcement, Link, Node, Router, Topology


def commands_page() -> str:
    sections = "\n".join(_command(path, command) for path, command in _leaves(typer.main.get_command(app), "tortie"))
    return f"""# Commands

Exit status everywhere: 0 fine, 1 found something wrong, 2 could not look. Commands that show something take `-o json`.

{sections}"""


def lab_page() -> str:
    models = {"The file": Topology, "A router": Router, "A node": Node, "A link": Link, "An announcement": Announcement}
    parts = "\n".join(_model(title, model) for title, model in models.items())
    return f"""# Lab file

What `tortie lab up` builds; see [the lab](../lab.md) for an example.

{parts}"""


def _leaves(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name in inner:
        yield from _leaves(inner[name], f"{path} {name}")


def _command(path: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    usage = " ".join([path, *(_placeholder(argument) for argument in arguments)])
    rows = [f"| `{_placeholder(each)}` | {_text(each.help)} |" for each in arguments]
    rows += [f"| `{', '.join(each.opts)}` | {_text(each.help)}{_default(each)} |" for each in options]
    table = "\n".join(["| | |", "|---|---|", *rows, ""]) if rows else ""
    return f"## `{usage}`\n\n{inspect.cleandoc(command.help or '')}\n\n{table}"


def _placeholder(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _text(help_text: str | None) -> str:
    return (help_text or "").replace("|", "\\|")


def _default(option: Any) -> str:
    default = option.default
    if default in (None, "", False) or callable(default):
        return ""
    return f" Default: `{getattr(default, 'value', default)}`."


def _model(title: str, model: type[BaseModel]) -> str:
    rows = [
        f"| `{field.alias or name}` | {_field_default(field)} | {_text(field.description)} |"
        for name, field in model.model_fields.items()
    ]
    summary = inspect.cleandoc(model.__doc__ or "").splitlines()[0]
    return "\n".join([f"## {title}", "", summary, "", "| Field | Default | Meaning |", "|---|---|---|", *rows, ""])


def _field_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    match field.default:
        case None | "" | () | {}:
            return ""
        case bool() as switch:
            return f"`{str(switch).lower()}`"
        case tuple() as several:
            return f"`[{', '.join(map(str, several))}]`"
        case value:
            return f"`{value}`"
