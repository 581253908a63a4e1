from __future__ import annotations

from collections.abc import Iterator

import pytest

from felix.faketable import FakeRouteTable
from felix.fib import Fib
from felix.netlink import NetlinkSocket
from tests.felix.netns import Node, built
from tests.felix.routes import Clock


@pytest.fixture
def node() -> Iterator[Node]:
    """The test runs inside this node's namespace."""
    with built(Node()) as node:
        yield node


@pytest.fixture
def wire(node: Node) -> Iterator[NetlinkSocket]:  # noqa: ARG001 - inside its namespace
    """A request socket of this node's kernel."""
    wire = NetlinkSocket()
    yield wire
    wire.close()


@pytest.fixture
def table() -> FakeRouteTable:
    """Routes and groups in memory."""
    return FakeRouteTable()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fib(table: FakeRouteTable, clock: Clock) -> Fib:
    """A FIB on them, with a clock that the test turns."""
    return Fib(table, clock=clock)
