"""The real nft in a network namespace of its own, for texts that a kernel must take."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from policy.nftskeleton import TABLE

WHY_NOT = (
    "" if os.geteuid() == 0 and shutil.which("nft") and shutil.which("ip") else "needs root, nft and ip (iproute2)"
)

_NUMBERS = itertools.count()


class Kernel:
    """A namespace's nftables."""

    def __init__(self, name: str) -> None:
        self._name = name

    def check(self, text: str) -> str:
        """Return what nft complains about, without loading."""
        return self._nft("-c", "-f", "-", text=text).stderr

    def load(self, text: str) -> str:
        """Load one transaction; return what nft complains about."""
        return self._nft("-f", "-", text=text).stderr

    def table(self) -> dict[str, Any]:
        """Return our table as a value: chains with their rules in order, sets with their elements in none."""
        listed = json.loads(self._nft("-j", "-s", "list", "table", "inet", TABLE).stdout)["nftables"]
        found: dict[str, Any] = {}
        for each in listed:
            ((kind, value),) = each.items()
            if kind in {"set", "map"}:
                value["elem"] = sorted(json.dumps(element, sort_keys=True) for element in value.get("elem", ()))
            if kind == "rule":
                chain = value.pop("chain")
                del value["handle"]
                found.setdefault(f"rules of {chain}", []).append(value)
            elif "name" in value:
                value.pop("handle", None)
                found[f"{kind} {value['name']}"] = value
        return found

    def names(self) -> tuple[list[str], list[str], list[str]]:
        """Return the names of chains, sets and maps."""
        table = self.table()
        return tuple(
            [key.removeprefix(f"{kind} ") for key in table if key.startswith(f"{kind} ")]
            for kind in ("chain", "set", "map")
        )

    def _nft(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        command = ["ip", "netns", "exec", self._name, "nft", *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


@contextmanager
def kernel() -> Iterator[Kernel]:
    """Make a namespace, and take it away again."""
    name = f"tpolicy{os.getpid()}n{next(_NUMBERS)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield Kernel(name)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
