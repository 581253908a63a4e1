from __future__ import annotations

import subprocess
import sys

_CODE = """
import gc
from agent.garbage import collect_seldom

looks = []
gc.callbacks.append(lambda phase, about: looks.append(about["generation"]) if phase == "stop" else None)
collect_seldom()
looks.clear()
kept = [[number] for number in range(200_000)]
replaced = [[number] for number in range(1_000)]
for number in range(200_000):
    replaced[number % 1_000] = [number]
print(sorted(set(looks)), len(looks), gc.get_freeze_count() > 1_000)
"""


def test_only_the_youngest_are_looked_at_and_only_where_more_come_than_go() -> None:
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True)
    assert done.stdout == "[0] 40 True\n"
