from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from felix.nft.library import Context, Library, LibraryError, TextError
from tests.felix.netns import Node


@pytest.fixture
def context(library: Library, node: Node) -> Iterator[Context]:  # noqa: ARG001 - inside its namespace
    context = library.open()
    yield context
    context.close()


TEXT = "table inet tortie {\n  chain a {\n    accept\n  }\n}\n"


def test_a_missing_library_is_named_with_what_to_install() -> None:
    with pytest.raises(LibraryError, match=r"libnftables-absent.so.1 cannot be loaded.*libnftables1"):
        Library("libnftables-absent.so.1")


def test_a_library_without_what_is_needed_is_too_old() -> None:
    with pytest.raises(LibraryError, match=r"libc.so.6 is too old: libnftables 1.0.2 or newer"):
        Library("libc.so.6")


@pytest.mark.kernel
def test_a_text_is_run_as_one_transaction(context: Context, nft: Callable[..., str]) -> None:
    assert context.run(TEXT) == []
    assert "chain a" in nft("list", "table", "inet", "tortie")
    assert context.run("add chain inet tortie b\ndelete chain inet tortie absent\n")
    assert "chain b" not in nft("list", "table", "inet", "tortie")


@pytest.mark.kernel
def test_a_dry_run_writes_nothing_but_asks_the_kernel(context: Context, nft: Callable[..., str]) -> None:
    assert context.run(TEXT, is_dry=True) == []
    assert nft("list", "ruleset") == ""
    assert context.run("delete table inet absent\n", is_dry=True) == [TextError(1, "No such file or directory")]


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("table inet tortie {\n chain a {\n  ip sadr 10.0.0.1\n }\n}\n", (3, "syntax error, unexpected string")),
        ("table inet tortie {\n chain a {\n  accept\n  ip saddr @no accept\n }\n}\n", (4, "No such file or directory")),
        ("table inet tortie {\n chain a {\n  accept\n  goto no\n }\n}\n", (4, "No such file or directory")),
        ("add table inet tortie\ndelete chain inet tortie no\n", (2, "No such file or directory")),
        (
            "table inet t {\n set s {\n  flags interval; type ipv4_addr\n  elements = { 10.0.0.1, 10.0.0.0/8 }\n}\n}",
            (4, "conflicting intervals specified"),
        ),
    ],
    ids=["syntax", "no such set", "no such chain", "refused by the kernel", "overlap"],
)
def test_what_is_refused_is_told_with_its_line(
    context: Context, nft: Callable[..., str], text: str, error: tuple[int, str]
) -> None:
    assert context.run(text) == [error]
    assert nft("list", "ruleset") == ""


@pytest.mark.kernel
def test_several_refused_lines_are_all_told(context: Context, nft: Callable[..., str]) -> None:
    assert nft("list", "ruleset") == ""
    errors = context.run("table inet tortie {\n chain a {\n  goto no\n }\n chain b {\n  goto neither\n }\n}\n")
    assert [error.line for error in errors] == [3, 6]


@pytest.mark.kernel
@pytest.mark.usefixtures("library", "node")
def test_a_process_without_descriptors_left_lives_on() -> None:
    """The library itself calls exit() there."""
    program = """
import os, resource
from felix.nft.library import Library
library = Library()
kept = library.open()
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
held = []
try:
    while True:
        held.append(os.dup(0))
except OSError:
    pass
for attempt in (library.open, lambda: kept.run("table inet tortie {}")):
    try:
        attempt()
    except OSError as error:
        print("refused", error.errno)
print(kept._is_spent)
for _ in range(2):
    os.close(held.pop())
print(kept.run("table inet tortie {}"))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["refused 24", "refused 24", "False", "[]"]


@pytest.mark.kernel
def test_what_was_refused_or_only_tried_is_forgotten(context: Context, nft: Callable[..., str]) -> None:
    """The library would go on believing in the set, and let the kernel find out."""
    for text, is_dry in (
        ("table inet tortie {\n set s { type ipv4_addr; }\n}\ndelete chain inet tortie absent", False),
        ("table inet tortie {\n set s { type ipv4_addr; }\n}", True),
    ):
        context.run(text, is_dry=is_dry)
        assert context.run("table inet tortie {\n set s { type ipv6_addr; flags interval; }\n}") == []
        assert "ipv6_addr" in nft("list", "ruleset")
        nft("flush", "ruleset")
        [error] = context.run("table inet tortie {\n chain c { ip saddr @s drop; }\n}")
        assert error == TextError(2, "No such file or directory")
