from __future__ import annotations

from collections.abc import Iterator

import pytest

from felix.netlink import NetlinkSocket
from tests.felix.netns import WHY_NOT, Node, entered


@pytest.fixture
def node() -> Iterator[Node]:
    """The test runs inside this node's namespace."""
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    node = Node()
    try:
        node.build()
        with entered(node.name):
            yield node
    finally:
        node.destroy()


@pytest.fixture
def wire(node: Node) -> Iterator[NetlinkSocket]:  # noqa: ARG001 - inside its namespace
    """A request socket of this node's kernel."""
    wire = NetlinkSocket()
    yield wire
    wire.close()
