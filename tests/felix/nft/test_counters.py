from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from felix.namespaces import entered
from felix.nft.counters import RuleCount, rule_counts
from tests.felix.netns import Node

pytestmark = pytest.mark.kernel


async def test_a_rule_s_count_is_found_by_its_comment(node: Node, nft: Callable[..., str]) -> None:
    rules = 'udp dport 9 counter drop comment "nine"; udp dport 10 drop; counter accept comment "rest";'
    chain = f"chain c {{ type filter hook output priority 0; {rules} }}"
    nft(text=f"table inet t {{ chain other {{ counter; }}; {chain}; }}")
    with entered(node.name), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(3):
            with pytest.raises(PermissionError):
                sender.sendto(b"four", ("10.0.0.1", 9))
        sender.sendto(b"four", ("10.0.0.1", 11))
    first, second = await rule_counts("t", "c")
    assert first == RuleCount("nine", 3, 3 * 32)
    assert (second.comment, second.packets >= 1) == ("rest", True)


async def test_a_chain_that_is_not_there_has_counted_nothing(node: Node) -> None:  # noqa: ARG001 - inside its namespace
    assert await rule_counts("t", "c") == []
