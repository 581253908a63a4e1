"""Manifests in, objects or messages out: what most tests of objects are made of."""

from __future__ import annotations

from typing import TypeVar

from agent.datastore.manifest_file import read_manifests
from agent.objects import Object

T = TypeVar("T", bound=Object)


def accepted(kind: type[T], text: str) -> T:
    """Read one manifest that is good."""
    file = read_manifests("test.yaml", text.encode())
    assert [str(problem) for found in file.found for problem in found.problems] == []
    assert file.problems == ()
    (found,) = file.found
    assert isinstance(found.item, kind)
    return found.item


def refusals(text: str) -> list[str]:
    """Read one manifest that is bad; return `field: message` of each problem."""
    file = read_manifests("test.yaml", text.encode())
    assert all(found.item is None for found in file.found)
    problems = [*file.problems, *(problem for found in file.found for problem in found.problems)]
    return [f"{problem.field}: {problem.message}" for problem in problems]
