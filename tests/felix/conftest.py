from __future__ import annotations

from collections.abc import Iterator

import pytest

from felix.netlink import NetlinkSocket
from tests.felix.netns import Node, built


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
