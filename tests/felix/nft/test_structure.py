from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest

from felix.nfnetlink import Reader
from felix.nft.library import Library
from felix.nft.structure import read_structure
from felix.nft.table import Structure
from tests.felix.netns import Node

pytestmark = pytest.mark.kernel

RULES = """table inet tortie {
  set s { type ipv4_addr; comment "it"; }
  map m { type ipv4_addr : verdict; flags interval; }
  chain output {
    type filter hook output priority filter; policy accept;
    counter accept comment "first"
    ip daddr vmap @m
  }
  chain c {
    ip saddr @s drop
    ip saddr 10.0.0.1 accept
  }
}
"""


@pytest.fixture
def reader(node: Node) -> Iterator[Reader]:  # noqa: ARG001 - inside its namespace
    reader = Reader()
    yield reader
    reader.close()


async def loaded(reader: Reader, nft: Callable[..., str], text: str) -> Structure:
    with contextlib.suppress(AssertionError):
        nft("delete", "table", "inet", "tortie")
    nft(text=text)
    structure = await read_structure(reader, "tortie", Library().rule_words)
    assert structure is not None
    return structure


async def test_what_is_read_depends_on_the_text_alone(reader: Reader, nft: Callable[..., str]) -> None:
    before = await loaded(reader, nft, RULES)
    nft(text="table ip tortie {\n chain c { drop; }\n}\ntable inet o {\n chain c { drop; }\n set s { type mark; }\n}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram, contextlib.suppress(OSError):
        datagram.sendto(b"counted", ("127.0.0.1", 9))
    assert "packets 0" not in nft("list", "chain", "inet", "tortie", "output")
    assert await read_structure(reader, "tortie", Library().rule_words) == before
    assert await loaded(reader, nft, RULES) == before


@pytest.mark.parametrize(
    ("old", "new", "differing"),
    [
        ("ip saddr 10.0.0.1 accept", "ip saddr 10.0.0.2 accept", {"c"}),
        ("ip saddr 10.0.0.1 accept", "ip saddr 10.0.0.1 counter accept", {"c"}),
        ("ip saddr 10.0.0.1 accept", "", {"c"}),
        ('"first"', '"second"', {"output"}),
        ("policy accept", "policy drop", {"output"}),
        ("priority filter", "priority 1", {"output"}),
        ("hook output", "hook input", {"output"}),
        (
            "    ip saddr @s drop\n    ip saddr 10.0.0.1 accept",
            "    ip saddr 10.0.0.1 accept\n    ip saddr @s drop",
            {"c"},
        ),
        ('comment "it"', 'comment "that"', {"s"}),
        ("flags interval", "size 100", {"m"}),
        ("type ipv4_addr; comment", "type ipv4_addr; flags interval; comment", {"s"}),
        ("ip saddr @s drop", "jump d\n  }\n  chain d {\n    drop", {"c", "d"}),
    ],
)
async def test_what_is_changed_in_the_text_differs_and_nothing_else(
    reader: Reader, nft: Callable[..., str], old: str, new: str, differing: set[str]
) -> None:
    before, after = await loaded(reader, nft, RULES), await loaded(reader, nft, RULES.replace(old, new))
    one, other = ({**each.chains, **each.sets} for each in (before, after))
    assert {name for name in {*one, *other} if one.get(name) != other.get(name)} == differing


async def test_sets_without_a_name_are_their_rules_affair(reader: Reader, nft: Callable[..., str]) -> None:
    structure = await loaded(reader, nft, RULES.replace("drop", "tcp dport { 80, 443 } drop"))
    assert set(structure.sets) == {"s", "m"}


async def test_there_may_be_no_table(reader: Reader, nft: Callable[..., str]) -> None:
    nft(text="table ip tortie {\n}")
    assert await read_structure(reader, "tortie", Library().rule_words) is None
