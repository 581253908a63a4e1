from __future__ import annotations

from pathlib import Path

import agent
from agent.namespace import OWN_NAMESPACE


def test_the_namespace_is_written_down_once() -> None:
    modules = sorted(Path(agent.__file__).parent.rglob("*.py"))
    assert [each.stem for each in modules if f'"{OWN_NAMESPACE}"' in each.read_text(encoding="utf-8")] == ["namespace"]
