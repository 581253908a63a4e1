"""The reference page of what `-o json` prints: field names, types, and the comments beside the fields in the code."""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Iterator
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

import msgspec

from agent import doctor, pathreport, report
from agent.cli import everywhere
from policy.explain import Explanation

ANSWERS: Final[dict[str, Any]] = {
    "tortie status": report.StatusReport,
    "tortie status --all-nodes": list[everywhere.NodeAnswer],
    "tortie peers": list[report.PeerReport],
    "tortie routes available": list[report.AvailableRoute],
    "tortie routes advertised": list[report.AdvertisedRoute],
    "tortie routes installed": list[report.InstalledRoute],
    "tortie routes explain": report.RouteExplanation,
    "tortie policy explain": Explanation,
    "tortie policy explain --only-here": pathreport.PolicyFacts,
    "tortie path": pathreport.Journey,
    "tortie path --only-here": pathreport.NodeFacts,
    "tortie top": list[report.PodRate],
    "tortie drops": list[report.DropReport],
    "tortie doctor": list[doctor.Finding],
    "tortie drain, undrain": report.DrainReport,
}


def answers_page() -> str:
    shown: dict[str, type] = {}
    rows = []
    for command, answer in ANSWERS.items():
        rows.append(f"| `{command}` | {_type(answer, shown)} |")
    shown["NodeSummary"] = report.NodeSummary
    sections, done = [], set[str]()
    while todo := [name for name in shown if name not in done]:
        for name in todo:
            done.add(name)
            sections.append(_section(shown[name], shown))
    return f"""# Answers

What commands print with `-o json`. Names stay; fields may be added.

| Command | Prints |
|---|---|
{chr(10).join(rows)}

With `--all-nodes` a command prints a list of NodeAnswer, in which `answer` is what it prints of one node; of `tortie
status` that is a NodeSummary.

{chr(10).join(sections)}"""


def _section(struct: type, shown: dict[str, type]) -> str:
    hints = get_type_hints(struct)
    comments = _comments(struct)
    lines = [
        f"| `{field.encode_name}` | {_type(hints[field.name], shown)} | {comments.get(field.name, '')} |"
        for field in msgspec.structs.fields(struct)
    ]
    table = "\n".join(["| Field | Type | Meaning |", "|---|---|---|", *lines])
    return f"## {struct.__name__}\n\n{inspect.cleandoc(struct.__doc__ or '')}\n\n{table}\n"


def _type(hint: Any, shown: dict[str, type]) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in {list, tuple}:
        return f"list of {_type(inner[0], shown)}"
    if origin is dict:
        return f"mapping to {_type(inner[1], shown)}"
    if origin in {Union, types.UnionType}:
        return " or ".join("null" if each is type(None) else _type(each, shown) for each in inner)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        shown.setdefault(hint.__name__, hint)
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    names = {str: "string", int: "integer", float: "number", bool: "boolean", Any: "anything"}
    return names.get(hint, "string")


def _comments(struct: type) -> dict[str, str]:
    """Return the comment at the end of each field's line."""
    lines = inspect.getsource(struct).splitlines()
    tree = ast.parse("\n".join(lines)).body[0]
    return dict(_fields(tree, lines)) if isinstance(tree, ast.ClassDef) else {}


def _fields(tree: ast.ClassDef, lines: list[str]) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.end_lineno:
            _, mark, comment = lines[node.end_lineno - 1].partition("  # ")
            if mark:
                yield node.target.id, comment.replace("|", "\\|")
