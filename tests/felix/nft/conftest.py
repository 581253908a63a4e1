from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from felix.nft.kerneltable import KernelRuleTable
from felix.nft.library import Library
from tests.felix.netns import Node


@pytest.fixture
def nft(node: Node) -> Callable[..., str]:  # noqa: ARG001 - inside its namespace
    """Run `nft` on what stands in its arguments, or on a text."""
    if shutil.which("nft") is None:
        pytest.skip("needs nft (nftables)")

    def run(*arguments: str, text: str = "") -> str:
        command = ["nft", *(arguments or ("-f", "-"))]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def kernel_table(library: Library, node: Node) -> Iterator[KernelRuleTable]:  # noqa: ARG001 - inside its namespace
    table = KernelRuleTable(library)
    yield table
    table.close()
