"""The Fib on the real kernel: what packets would meet."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from felix.fib import Fib
from felix.inlinetable import InlineRouteTable
from felix.installed import State
from felix.netlinktable import open_route_table
from felix.objecttable import ObjectRouteTable
from felix.route import METRIC, Kind, NextHop, Route, blackhole, unicast
from inet.prefix import Family, Prefix
from tests.felix.netns import Node

pytestmark = pytest.mark.kernel

VERSION = {Family.IPV4: "-4", Family.IPV6: "-6"}


def prefix(family: Family, i: int) -> Prefix:
    if family is Family.IPV4:
        return Prefix((0x0A400000 + (i << 8)).to_bytes(4), 24)
    return Prefix((0xFD42 << 112 | i << 64).to_bytes(16), 64)


@pytest.fixture(params=["objects", "inline"])
def table(request: pytest.FixtureRequest, node: Node) -> Iterator[ObjectRouteTable | InlineRouteTable]:  # noqa: ARG001 - inside
    table = InlineRouteTable() if request.param == "inline" else ObjectRouteTable()
    yield table
    table.close()


@pytest.fixture
def fib(table: ObjectRouteTable | InlineRouteTable) -> Fib:
    return Fib(table)


@pytest.fixture
def objects(node: Node) -> Iterator[Fib]:  # noqa: ARG001 - inside its namespace
    table = ObjectRouteTable()
    yield Fib(table)
    table.close()


def hops(node: Node, family: Family, *links: int) -> tuple[NextHop, ...]:
    return tuple(node.hop(family, i) for i in links)


async def set_all(fib: Fib, *routes: Route) -> None:
    for route in routes:
        fib.set(route)
    assert await fib.apply() == []
    assert fib.pending == 0


async def until(condition: Callable[[], bool], fib: Fib) -> None:
    """Apply as the agent would on news of links and addresses, until a condition holds."""
    deadline = time.monotonic() + 30
    while True:
        for link in (10, 11):
            fib.link_changed(link)
        await fib.apply()
        if condition():
            return
        assert time.monotonic() < deadline, fib.errors


async def test_routes_of_every_kind(fib: Fib, node: Node, family: Family) -> None:
    await set_all(
        fib,
        unicast(prefix(family, 1), hops(node, family, 0, 1)),
        unicast(prefix(family, 2), hops(node, family, 1)),
        blackhole(prefix(family, 3)),
    )
    assert node.leads(prefix(family, 1)) == {"a0", "a1"}
    assert node.leads(prefix(family, 2)) == {"a1"}
    assert node.ip(f"{VERSION[family]} route show type blackhole proto 97").startswith(f"blackhole {prefix(family, 3)}")
    fib.remove(prefix(family, 1))
    fib.remove(prefix(family, 3))
    await set_all(fib, blackhole(prefix(family, 2)))
    assert node.routes().splitlines()[0].startswith(f"blackhole {prefix(family, 2)}")
    fib.remove(prefix(family, 2))
    await set_all(fib)
    assert node.routes() == ""
    assert node.ip("nexthop show proto 97") == ""


async def test_ipv4_through_an_ipv6_gateway(fib: Fib, node: Node) -> None:
    await set_all(fib, unicast(prefix(Family.IPV4, 1), hops(node, Family.IPV6, 0, 1)))
    assert node.leads(prefix(Family.IPV4, 1)) == {"a0", "a1"}
    assert "via inet6 fd00:" in node.ip("route get 10.64.1.1")


async def test_a_restart_is_silent(table: ObjectRouteTable | InlineRouteTable, fib: Fib, node: Node) -> None:
    routes = [
        route
        for family in Family
        for route in (
            unicast(prefix(family, 1), hops(node, family, 0, 1)),
            unicast(prefix(family, 2), hops(node, family, 0)),
            blackhole(prefix(family, 3)),
        )
    ]
    await set_all(fib, *routes)
    again = type(table)()
    with node.monitored() as lines:
        fib = Fib(again)
        await fib.adopt()
        await fib.apply()
        await set_all(fib, *routes)
        await fib.release()
        assert await fib.apply() == []
        await fib.resync()
        assert await fib.apply() == []
    again.close()
    assert lines == []
    assert (fib.count, fib.pending) == (6, 0)


async def test_moving_a_thousand_routes_is_one_message(objects: Fib, node: Node, family: Family) -> None:
    await set_all(objects, *(unicast(prefix(family, i), hops(node, family, 0, 1)) for i in range(1000)))
    with node.monitored() as lines:
        await objects.move(hops(node, family, 0, 1), hops(node, family, 1))
    assert len(lines) == 1
    assert " group " in lines[0]
    assert node.leads(prefix(family, 0)) == node.leads(prefix(family, 999)) == {"a1"}
    assert len(node.routes().splitlines()) == 1000
    assert await objects.apply() == []
    assert objects.pending == 0


async def test_a_group_moves_to_hops_that_were_not_known(fib: Fib, node: Node, family: Family) -> None:
    await set_all(fib, unicast(prefix(family, 1), hops(node, family, 0)))
    await fib.move(hops(node, family, 0), hops(node, family, 1))
    assert node.leads(prefix(family, 1)) == {"a1"}


def admin_down(node: Node) -> None:
    node.ip("link set a0 down")


def admin_up(node: Node) -> None:
    node.ip("link set a0 up")


def carrier_lost(node: Node) -> None:
    node.peer_ip("link set b0 down")


def carrier_back(node: Node) -> None:
    node.peer_ip("link set b0 up")


@pytest.mark.parametrize(
    ("down", "up"), [(admin_down, admin_up), (carrier_lost, carrier_back)], ids=["admin", "carrier"]
)
async def test_a_link_goes_and_comes(
    fib: Fib, node: Node, family: Family, down: Callable[[Node], None], up: Callable[[Node], None]
) -> None:
    await set_all(
        fib,
        unicast(prefix(family, 1), hops(node, family, 0, 1)),
        unicast(prefix(family, 2), hops(node, family, 0)),
    )
    down(node)
    await until(lambda: fib.count == 1 and prefix(family, 2) in fib.errors, fib)
    assert node.leads(prefix(family, 1)) == {"a1"}
    assert node.leads(prefix(family, 2)) == set()
    up(node)
    await until(lambda: fib.pending == 0, fib)
    assert node.leads(prefix(family, 1)) == {"a0", "a1"}
    assert node.leads(prefix(family, 2)) == {"a0"}
    assert (fib.count, fib.errors) == (2, {})


async def test_what_hands_did_is_undone(fib: Fib, node: Node, family: Family) -> None:
    routes = [
        unicast(prefix(family, 1), hops(node, family, 0, 1)),
        unicast(prefix(family, 2), hops(node, family, 0)),
        blackhole(prefix(family, 3)),
    ]
    await set_all(fib, *routes)
    version = VERSION[family]
    for deed, news in (
        (f"{version} route del {prefix(family, 1)} metric {METRIC}", [1]),
        (f"{version} route replace blackhole {prefix(family, 2)} proto 97 metric {METRIC}", [2]),
        (f"{version} route flush proto 97", [1, 2, 3]),
    ):
        node.ip(deed)
        for i in news:
            fib.route_changed(prefix(family, i))
        assert await fib.apply() == []
        assert (node.leads(prefix(family, 1)), node.leads(prefix(family, 2))) == ({"a0", "a1"}, {"a0"})
        assert "blackhole" in node.ip(f"{version} route show {prefix(family, 3)}")
    assert fib.repaired == 5
    assert fib.pending == 0


async def test_next_hops_deleted_by_hand_are_put_back(objects: Fib, node: Node, family: Family) -> None:
    await set_all(
        objects,
        unicast(prefix(family, 1), hops(node, family, 0, 1)),
        unicast(prefix(family, 2), hops(node, family, 0)),
    )
    single = next(line.split()[1] for line in node.ip("nexthop show").splitlines() if "dev a0" in line)
    for deed in (f"nexthop del id {single}", "nexthop flush proto 97"):
        node.ip(deed)
        objects.next_hops_changed()
        assert await objects.apply() == []
        assert (node.leads(prefix(family, 1)), node.leads(prefix(family, 2))) == ({"a0", "a1"}, {"a0"})
        assert objects.pending == 0


async def test_a_foreign_route_with_a_lower_metric_shadows_ours_and_is_left_alone(
    fib: Fib, node: Node, family: Family
) -> None:
    node.ip(f"route add blackhole {prefix(family, 1)} proto static metric 100")
    await set_all(fib, unicast(prefix(family, 1), hops(node, family, 0)))
    (line,) = await fib.installed()
    assert line.state is State.SHADOWED
    assert line.rival is not None
    assert (line.rival.metric, line.rival.protocol) == (100, 4)
    fib.remove(prefix(family, 1))
    await fib.apply()
    assert "proto static metric 100" in node.ip(f"{VERSION[family]} route show {prefix(family, 1)}")


async def test_a_foreign_route_with_our_metric_is_a_conflict_and_is_left_alone(
    fib: Fib, node: Node, family: Family
) -> None:
    node.ip(f"route add blackhole {prefix(family, 1)} proto static metric {METRIC}")
    fib.set(unicast(prefix(family, 1), hops(node, family, 0)))
    (error,) = await fib.apply()
    assert "someone else has a route" in error.message
    (line,) = await fib.installed()
    assert (line.state, line.kind, line.reason) == (State.REFUSED, Kind.UNICAST, error.message)
    fib.remove(prefix(family, 1))
    await fib.apply()
    assert "proto static" in node.ip(f"{VERSION[family]} route show {prefix(family, 1)}")


async def test_leftovers_go_after_the_release(table: ObjectRouteTable | InlineRouteTable, fib: Fib, node: Node) -> None:
    for family in Family:
        await set_all(fib, unicast(prefix(family, 1), hops(node, family, 0, 1)), blackhole(prefix(family, 2)))
    again = type(table)()
    fib = Fib(again)
    await fib.adopt()
    for family in Family:
        fib.set(blackhole(prefix(family, 2)))
    await fib.apply()
    assert len(node.routes().splitlines()) >= 4
    await fib.release()
    await fib.apply()
    again.close()
    assert [line.split()[:2] for line in node.routes().splitlines()] == [
        ["blackhole", str(prefix(family, 2))] for family in Family
    ]
    assert node.ip("nexthop show proto 97") == ""


async def test_an_unusable_next_hop_says_why(fib: Fib, node: Node, family: Family) -> None:
    elsewhere = NextHop(bytes([9] * (4 if family is Family.IPV4 else 16)), node.interface(0))
    fib.set(unicast(prefix(family, 1), [elsewhere]))
    await fib.apply()
    assert fib.errors[prefix(family, 1)].message
    assert node.routes() == ""
    onlink = unicast(prefix(family, 1), [elsewhere._replace(onlink=True)])
    await set_all(fib, onlink)
    assert node.leads(prefix(family, 1)) == {"a0"}


async def test_the_table_of_this_kernel(node: Node) -> None:
    table = open_route_table()
    fib = Fib(table)
    assert fib.has_nexthop_objects is isinstance(table, ObjectRouteTable)
    await set_all(fib, unicast(prefix(Family.IPV4, 1), hops(node, Family.IPV4, 0)))
    table.close()


async def test_a_node_sends_no_packet_larger_than_its_route_says(fib: Fib, node: Node, family: Family) -> None:
    """The link takes 1500; who sends is told at once, by the byte."""
    where = prefix(family, 1)
    far = str(ip_address(where.packed) + 1)
    nodad = "nodad" if family is Family.IPV6 else ""
    gateway = ip_address(hops(node, family, 0)[0].gateway)
    node.peer_ip("link set lo up")
    node.peer_ip(f"addr add {far}/{family.bits} dev lo {nodad}")
    node.peer_ip(f"addr add {gateway}/{24 if family is Family.IPV4 else 64} dev b0 {nodad}")
    await set_all(fib, unicast(where, hops(node, family, 0)))
    for mtu, largest in ((1400, 1400), (0, 1500), (1300, 1300)):
        await fib.choose_mtu(lambda _, mtu=mtu: mtu)
        assert await fib.apply() == []
        assert ping(far, largest, family) == ""
        assert f"{largest}" in ping(far, largest + 1, family)


def ping(far: str, size: int, family: Family) -> str:
    """Send a packet of this size that nobody may fragment; return why that was refused, "" where it was answered."""
    headers = 28 if family is Family.IPV4 else 48
    done = subprocess.run(
        ["ping", "-c1", "-W5", "-M", "do", "-s", str(size - headers), far], capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr
