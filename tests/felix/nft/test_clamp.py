"""TCP segments that fit the way out, whatever pods have."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from felix.nft.clamp import render
from felix.nft.enforcement import Content, Enforcement
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.library import Library
from inet.prefix import Family
from tests.felix.netns import built
from tests.felix.nft.outside import INTERNET, World, run

HEADERS = {Family.IPV4: 40 + 12, Family.IPV6: 60 + 12}
"""Of IP and TCP, with TCP's timestamps."""


def test_without_links_there_is_nothing_in_the_table() -> None:
    assert render(()) == Content({}, {})


@pytest.fixture
def world(library: Library) -> Iterator[World]:
    """The test runs inside the node's namespace; only the node's end of an uplink takes less than pods have."""
    with built(World()) as world, contextlib.closing(KernelRuleTable(library)) as table:
        run("ip", "-n", world.name, "link", "set", "u0", "mtu", "1400")
        world.table = table
        yield world


def segment(world: World, family: Family) -> int:
    """Return how large the segments may be that somebody outside sends to a pod, which connects to it."""
    ours, theirs = world.connected(family, 0, INTERNET[family])
    with ours, theirs:
        return theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)


@pytest.mark.kernel
async def test_a_connection_by_such_a_link_agrees_on_what_fits(world: World, family: Family) -> None:
    assert segment(world, family) == 1500 - HEADERS[family]
    keeper = Enforcement(world.table)
    assert not (await keeper.sync(render({"u0"}))).refusals
    assert segment(world, family) == 1400 - HEADERS[family]
    assert await keeper.sync(render({"u0"})) == ((), ()), "what is there is not written again"
    assert not (await keeper.sync(render({"u1", "tortie-vxlan"}))).refusals, "a link that is not there does no harm"
    assert segment(world, family) == 1500 - HEADERS[family]


@pytest.mark.kernel
async def test_it_is_never_raised(world: World, family: Family) -> None:
    run("ip", "-n", world.name, "link", "set", "u0", "mtu", "1500")
    run("ip", "-n", world.pods[0], "link", "set", "eth0", "mtu", "1300")
    assert not (await Enforcement(world.table).sync(render({"u0"}))).refusals
    assert segment(world, family) == 1300 - HEADERS[family]
