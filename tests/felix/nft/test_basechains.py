"""Everybody's base chains, as a real kernel has them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from felix.nft.basechains import BaseChain, base_chains

pytestmark = pytest.mark.kernel

RULES = """
table inet a {
    chain in { type filter hook input priority -5; policy drop; }
    chain out { type filter hook output priority filter; }
    chain plain { }
}
table ip6 b {
    chain after { type nat hook postrouting priority srcnat; }
}
table netdev c {
}
"""


async def test_chains_with_a_hook_are_told_with_their_policy(nft: Callable[..., str]) -> None:
    assert await base_chains() == []
    nft(text=RULES)
    assert sorted(await base_chains()) == [
        BaseChain("inet", "a", "in", "input", -5, drops=True),
        BaseChain("inet", "a", "out", "output", 0, drops=False),
        BaseChain("ip6", "b", "after", "postrouting", 100, drops=False),
    ]
