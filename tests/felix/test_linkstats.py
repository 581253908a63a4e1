from __future__ import annotations

import socket
import time

import pytest

from felix.linkstats import traffic
from tests.felix.netns import Node


@pytest.mark.kernel
async def test_what_a_link_carries_is_counted(node: Node) -> None:
    node.ip("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:02 dev a0 nud permanent")
    before = (await traffic())[node.interface(0)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(10):
            sender.sendto(bytes(1000), ("10.0.0.2", 9))
    deadline = time.monotonic() + 30
    while (now := (await traffic())[node.interface(0)]).sent_packets < before.sent_packets + 10:
        assert time.monotonic() < deadline
    assert now.sent_bytes >= before.sent_bytes + 10 * 1000
