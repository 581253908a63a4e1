from __future__ import annotations

from collections.abc import Iterator

import pytest

from felix.netlink import NetlinkSocket
from inet.prefix import Family
from tests.felix.netns import WHY_NOT, Node, entered


@pytest.fixture(params=[Family.IPV4, Family.IPV6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> Family:
    return Family(request.param)


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
