"""Say which links of the documents lead nowhere: to no file of the repository, or to no heading of one.

Addresses elsewhere are not asked for: a check must not depend on other people's servers.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\[[^]\[]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


def documents() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [ROOT / name for name in listed.stdout.splitlines()]


def anchors(document: Path) -> set[str]:
    """Return what may stand behind # in a link to a document, as GitHub makes it of headings."""
    text = FENCED.sub("", document.read_text(encoding="utf-8"))
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text))
    return {word.strip().replace(" ", "-") for word in words}


def dead_links(document: Path) -> Iterator[str]:
    text = FENCED.sub(lambda code: "\n" * code[0].count("\n"), document.read_text(encoding="utf-8"))
    for found in LINK.finditer(text):
        target, _, anchor = found[1].partition("#")
        if ":" in target:
            continue
        there = (document.parent / target).resolve() if target else document
        line = text.count("\n", 0, found.start()) + 1
        if not there.exists():
            yield f"{document.relative_to(ROOT)}:{line}: {target} is not there"
        elif anchor and anchor not in anchors(there):
            yield f"{document.relative_to(ROOT)}:{line}: {there.relative_to(ROOT)} has no heading #{anchor}"


def main() -> int:
    dead = [each for document in documents() for each in dead_links(document)]
    sys.stdout.writelines(f"{each}\n" for each in dead)
    return 1 if dead else 0


if __name__ == "__main__":
    raise SystemExit(main())
