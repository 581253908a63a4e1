from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest

from felix.inlinetable import InlineRouteTable
from felix.netlink import NetlinkSocket, message
from felix.netlinktable import open_route_table
from felix.nexthops import HOP_IDS
from felix.objecttable import ObjectRouteTable
from tests.felix.netns import Node

pytestmark = pytest.mark.kernel


def test_a_kernel_that_knows_nexthop_objects_gets_the_table_of_objects(node: Node) -> None:
    for _ in range(2):
        with contextlib.closing(open_route_table()) as table:
            assert isinstance(table, ObjectRouteTable)
        node.ip(f"nexthop replace id {HOP_IDS.start} blackhole")  # the second time, the one that is asked for is there


@pytest.mark.usefixtures("node")
def test_a_kernel_that_does_not_know_them_gets_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown_to_kernel = message(200, 0, bytes(8))  # as RTM_GETNEXTHOP is before Linux 5.3
    monkeypatch.setattr("felix.nexthops.get", lambda _: unknown_to_kernel)
    with contextlib.closing(open_route_table()) as table:
        assert isinstance(table, InlineRouteTable)


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_any_other_refusal_means_that_it_has_none(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(_self: NetlinkSocket, _request: bytes) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(NetlinkSocket, "ask", refuse)
    with contextlib.closing(open_route_table()) as table:
        assert isinstance(table, InlineRouteTable)


@pytest.mark.usefixtures("node")
def test_the_question_leaves_no_socket_open() -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    with contextlib.closing(open_route_table()):
        assert open_files() == before + 1
