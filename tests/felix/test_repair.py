"""The Fib listening to the monitor, as the agent wires them: what is damaged comes back, without a word from above."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from felix.fib import Fib
from felix.inlinetable import InlineRouteTable
from felix.monitor import AddressChanged, LinkChanged, Monitor, Overflow, OwnNextHopsChanged, OwnRouteChanged
from felix.objecttable import ObjectRouteTable
from felix.route import METRIC, blackhole, unicast
from inet.prefix import Family, Prefix
from tests.felix.netns import Node

pytestmark = pytest.mark.kernel

PAIR = {Family.IPV4: Prefix.parse("10.42.1.0/24"), Family.IPV6: Prefix.parse("fd42:0:0:1::/64")}
SINGLE = {Family.IPV4: Prefix.parse("10.42.2.0/24"), Family.IPV6: Prefix.parse("fd42:0:0:2::/64")}
NOWHERE = {Family.IPV4: Prefix.parse("10.42.3.0/24"), Family.IPV6: Prefix.parse("fd42:0:0:3::/64")}


async def follow(fib: Fib, monitor: Monitor) -> None:
    async for batch in monitor.batches():
        for event in batch:
            match event:
                case LinkChanged(interface=interface) | AddressChanged(interface=interface):
                    fib.link_changed(interface)
                case OwnRouteChanged(destination=destination):
                    fib.route_changed(destination)
                case OwnNextHopsChanged():
                    fib.next_hops_changed()
                case Overflow():
                    await fib.resync()
                case _:
                    pass
        await fib.apply()


class Patient:
    """Routes of both families that are looked after, and how they are."""

    def __init__(self, node: Node, fib: Fib) -> None:
        self.node = node
        self.fib = fib

    def is_well(self) -> bool:
        return all(
            self.node.leads(PAIR[family]) == {"a0", "a1"}
            and self.node.leads(SINGLE[family]) == {"a0"}
            and "blackhole" in self.node.ip(f"{version} route show {NOWHERE[family]} proto 97")
            for family, version in ((Family.IPV4, "-4"), (Family.IPV6, "-6"))
        )

    def limps(self) -> bool:
        """Tell whether everything leads over a1 alone."""
        return all(self.node.leads(PAIR[f]) == {"a1"} and not self.node.leads(SINGLE[f]) for f in Family)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 - `ip` has to be asked, it tells nobody
                await asyncio.sleep(0.01)

    async def recovers(self) -> None:
        await self.until(lambda: self.fib.pending == 0 and self.is_well())


@pytest.fixture(params=["objects", "inline"])
async def patient(request: pytest.FixtureRequest, node: Node) -> AsyncIterator[Patient]:
    table = InlineRouteTable() if request.param == "inline" else ObjectRouteTable()
    monitor = Monitor(table.port, receive_buffer=getattr(request.node.function, "receive_buffer", 8 << 20))
    fib = Fib(table)
    follower = asyncio.create_task(follow(fib, monitor))
    for family in Family:
        fib.set(unicast(PAIR[family], [node.hop(family, 0), node.hop(family, 1)]))
        fib.set(unicast(SINGLE[family], [node.hop(family, 0)]))
        fib.set(blackhole(NOWHERE[family]))
    assert await fib.apply() == []
    patient = Patient(node, fib)
    assert patient.is_well()
    yield patient
    follower.cancel()
    await asyncio.gather(follower, return_exceptions=True)
    monitor.close()
    table.close()


def switch(node: Node, side: str, state: str) -> str:
    return node.ip(f"link set a0 {state}") if side == "admin" else node.peer_ip(f"link set b0 {state}")


@pytest.mark.parametrize("side", ["admin", "carrier"])
async def test_a_link_that_goes_and_comes(patient: Patient, node: Node, side: str) -> None:
    switch(node, side, "down")
    await patient.until(patient.limps)
    switch(node, side, "up")
    await patient.recovers()
    switch(node, side, "down")
    switch(node, side, "up")
    await patient.recovers()


@pytest.mark.parametrize(
    "deed",
    [
        f"-4 route del {PAIR[Family.IPV4]} metric {METRIC}",
        f"-6 route del {PAIR[Family.IPV6]} metric {METRIC}",
        f"-4 route replace unreachable {SINGLE[Family.IPV4]} proto 97 metric {METRIC}",
        f"-6 route replace unreachable {SINGLE[Family.IPV6]} proto 97 metric {METRIC}",
        "-4 route flush proto 97",
        "-6 route flush proto 97",
    ],
)
async def test_what_hands_do_to_routes(patient: Patient, node: Node, deed: str) -> None:
    node.ip(deed)
    await patient.recovers()


async def test_what_hands_do_to_next_hops(patient: Patient, node: Node) -> None:
    if not patient.fib.has_nexthop_objects:
        assert node.ip("nexthop show") == ""
        return
    node.ip("nexthop flush proto 97")
    await patient.recovers()


async def test_a_route_of_our_protocol_that_nobody_asked_for_goes(patient: Patient, node: Node, family: Family) -> None:
    stray = Prefix.parse("10.43.0.0/16" if family is Family.IPV4 else "fd43::/48")
    node.ip(f"route add blackhole {stray} proto 97 metric {METRIC}")
    await patient.until(lambda: str(stray) not in node.routes())
    await patient.recovers()


async def test_a_place_taken_by_someone_else_is_ours_again_once_it_is_free(
    patient: Patient, node: Node, family: Family
) -> None:
    version = "-4" if family is Family.IPV4 else "-6"
    node.ip(f"{version} route replace blackhole {SINGLE[family]} proto static metric {METRIC}")
    await patient.until(lambda: SINGLE[family] in patient.fib.errors)
    assert "proto static" in node.ip(f"{version} route show {SINGLE[family]}")
    node.ip(f"{version} route del blackhole {SINGLE[family]} metric {METRIC}")
    await patient.recovers()


async def test_a_loss_among_more_news_than_can_be_kept(patient: Patient, node: Node) -> None:
    for i in range(60):
        node.ip(f"route add blackhole 198.51.100.{i}")
    node.ip("-4 route flush proto 97")
    node.ip("-6 route flush proto 97")
    await patient.recovers()


test_a_loss_among_more_news_than_can_be_kept.receive_buffer = 4096
