"""The MTU of pods: from uplinks, tunnels and settings; told, given to pods, and clamped where less fits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from agent.lab.wait import eventually
from agent.mtu import PodMtu, RealMtuKernel, whose
from agent.surroundings import Surroundings
from felix.devices import Device
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.library import Library
from felix.podmtu import Correction, Uncorrected
from felix.uplinks import Uplink
from inet.prefix import Family
from tests.agent.policy_world import FakePolicyKernel, PolicyWorld, enforcing
from tests.agent.test_outgoing_nat import batch, network, node
from tests.felix.netns import built
from tests.felix.nft.outside import INTERNET, World, run


def device(number: int, name: str, mtu: int = 1500, group: int = 0, **more: Any) -> Device:
    plain = Device(number, name, "", mtu, True, True, False, 0, group, 0, None, "", b"")  # noqa: FBT003 - a tuple
    return plain._replace(**more)


class FakeMtuKernel:
    """See `agent.mtu.MtuKernel`."""

    def __init__(self) -> None:
        self.links = [device(1, "lo", 65536, is_loopback=True), device(2, "eth0"), device(3, "veth1", group=97)]
        self.ways = {"eth0"}
        self.asked: list[bytes] = []
        self.given: list[tuple[list[str], int]] = []
        self.failed: tuple[Uncorrected, ...] = ()
        self.error: OSError | None = None

    def set_mtu(self, name: str, mtu: int) -> None:
        self.links = [each._replace(mtu=mtu) if each.name == name else each for each in self.links]

    async def devices(self) -> Sequence[Device]:
        if self.error:
            raise self.error
        return self.links

    async def routed(self, candidates: Sequence[Device], destinations: Sequence[bytes]) -> list[Uplink]:
        self.asked = list(destinations)
        return [Uplink(each.interface, each.name, each.mtu) for each in candidates if each.name in self.ways]

    async def correct(self, pod_links: Sequence[Device], mtu: int) -> Correction:
        self.given.append(([each.name for each in pod_links], mtu))
        return Correction(len(pod_links), self.failed)


class MtuWorld:
    def __init__(self, *items: Any) -> None:
        self.kernel = FakeMtuKernel()
        self.policy = PolicyWorld(Family.IPV4, FakePolicyKernel())
        self.around = Surroundings("n1")
        self.mtu = PodMtu(self.around, self.policy.policy, self.kernel)
        self.heard = 0
        self.mtu.on_change(self._hear)
        self.items = [node("n1", 11), node("n2", 12), *items]

    def _hear(self) -> None:
        self.heard += 1

    async def look(self) -> None:
        self.around.take(batch(*self.items))
        await self.mtu.look()

    async def clamped(self) -> set[str]:
        await self.policy.tell(node("n1", 11))
        elements = self.policy.kernel.table.elements.get("clamp_links", {})
        return {key.rstrip(b"\0").decode() for key in elements if isinstance(key, bytes)}


@pytest.fixture
async def world() -> AsyncIterator[MtuWorld]:
    world = MtuWorld()
    async with enforcing(world.policy):
        yield world


async def test_it_is_not_known_before_the_objects_are(world: MtuWorld) -> None:
    await world.mtu.look()
    assert (world.mtu.mtu(), world.mtu.uplink) == (None, None)
    assert not world.kernel.given


async def test_it_is_what_the_ways_to_the_other_nodes_take(world: MtuWorld) -> None:
    await world.look()
    assert (world.mtu.mtu(), world.mtu.uplink, world.heard) == (1500, 1500, 1)
    assert len(world.kernel.asked) == 2, "both addresses of the other node"
    assert world.kernel.given == [(["veth1"], 1500)]
    await world.look()
    assert world.heard == 1, "nothing is news"


async def test_the_smallest_uplink_counts_and_a_tunnel_takes_its_part(world: MtuWorld) -> None:
    world.kernel.links += [device(4, "eth1", 9000), device(5, "tortie-vxlan", 1450)]
    world.kernel.ways |= {"eth1", "tortie-vxlan"}
    world.mtu.set_tunnels(frozenset({"tortie-vxlan"}))
    for overhead in (50, 70, 20, 0):
        world.mtu.set_overhead(overhead)
        await world.look()
        assert world.mtu.mtu() == 1500 - overhead
    assert world.mtu.uplink == 1500


async def test_nothing_is_found_before_it_is_known_what_tunnels_take(world: MtuWorld) -> None:
    world.mtu.expect_overhead()
    await world.look()
    assert (world.mtu.mtu(), world.kernel.given) == (None, [])
    world.mtu.set_overhead(0)
    await world.look()
    assert (world.mtu.mtu(), world.kernel.given) == (1500, [(["veth1"], 1500)])


async def test_uplinks_may_be_named(world: MtuWorld) -> None:
    world.kernel.links += [device(4, "bond0", 9000), device(5, "bond0.7", 8000), device(6, "bond1", 1400, is_up=False)]
    world.items.append(network(uplinks=["bond*"]))
    await world.look()
    assert world.mtu.mtu() == 8000
    assert [each.name for each in world.mtu.uplinks] == ["bond0", "bond0.7"]


async def test_a_number_is_taken_as_it_is_and_said_to_be_too_large(world: MtuWorld) -> None:
    world.items.append(network(mtu=1400))
    await world.look()
    assert (world.mtu.mtu(), world.mtu.problems) == (1400, [])
    world.items[-1] = network(mtu=9000)
    await world.look()
    assert world.mtu.mtu() == 9000
    assert world.mtu.problems == [
        "NetworkConfiguration default: spec.mtu: 9000 is more than the uplinks take (1500): larger packets are lost"
    ]
    assert await world.clamped() == {"eth0"}


async def test_ipv6_keeps_what_it_needs_and_that_is_said(world: MtuWorld) -> None:
    world.kernel.set_mtu("eth0", 1300)
    world.mtu.set_overhead(70)
    await world.look()
    assert world.mtu.mtu() == 1280
    assert world.mtu.problems == [
        "pods' MTU stays at 1280, which IPv6 needs; the uplinks take 1300 less 70 for the tunnel"
    ]


async def test_an_uplink_that_is_down_for_a_moment_changes_no_pod(world: MtuWorld) -> None:
    world.kernel.set_mtu("eth0", 9000)
    await world.look()
    world.kernel.ways = set()
    await world.look()
    assert world.mtu.mtu() == 9000


async def test_a_node_that_knows_no_way_takes_any_link_for_one(world: MtuWorld) -> None:
    world.kernel.ways = set()
    world.kernel.links += [device(4, "eth1", 1400)]
    await world.look()
    assert world.mtu.mtu() == 1400


async def test_segments_are_clamped_in_tunnels_and_where_pods_are_too_large(world: MtuWorld) -> None:
    await world.look()
    assert await world.clamped() == set()
    world.mtu.set_tunnels(frozenset({"tortie-vxlan"}))
    assert await world.clamped() == {"tortie-vxlan"}, "at once"
    world.kernel.failed = (Uncorrected("veth1", 9000, "no such namespace"),)
    await world.look()
    assert await world.clamped() == {"tortie-vxlan", "eth0"}
    assert world.mtu.problems == ["link veth1: MTU 9000 instead of 1500: no such namespace; restart the pod"]


async def test_pods_whose_mtu_stays_wrong_are_named(world: MtuWorld) -> None:
    alias = "tortie shop/web-1 0f3c sandbox/eth0"
    world.kernel.failed = (Uncorrected("veth1", 9000, "not allowed", alias), Uncorrected("veth2", 9000, "not allowed"))
    await world.look()
    assert world.mtu.problems == ["Pod shop/web-1 and 1 others: MTU 9000 instead of 1500: not allowed; restart the pod"]
    assert [whose(each) for each in world.mtu.uncorrected] == ["Pod shop/web-1", "link veth2"]


async def test_policy_does_not_wait_for_links_that_cannot_be_read(world: MtuWorld) -> None:
    world.kernel.error = OSError(1, "Operation not permitted")
    world.around.take(batch(*world.items))
    running = asyncio.create_task(world.mtu.run())
    try:
        await world.policy.tell(*world.policy.base(), world.policy.pod("a", 2))
        async with asyncio.timeout(20):
            while not world.policy.policy.is_in_kernel:
                await world.policy.settle()
    finally:
        running.cancel()


async def test_looks_rest_after_the_first_that_has_objects_not_before(
    world: MtuWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.mtu.GATHERING_S", 3600)
    running = asyncio.create_task(world.mtu.run())
    try:
        await asyncio.sleep(0)  # there is nothing to be seen yet
        world.around.take(batch(*world.items))
        world.mtu.wake()
        await eventually(lambda: world.mtu.mtu() == 1500, what="the first MTU")
        world.kernel.set_mtu("eth0", 1400)
        world.mtu.wake()
        await asyncio.sleep(0.05)
        assert world.mtu.mtu() == 1500
    finally:
        running.cancel()


# On a real kernel


@pytest.mark.kernel
async def test_when_the_underlay_takes_less_pods_follow_and_a_stream_goes_on(library: Library, family: Family) -> None:
    with built(World()) as world:
        set_underlay(world, 9000)
        with contextlib.closing(KernelRuleTable(library)):
            fake = PolicyWorld(Family.IPV4, FakePolicyKernel())
            around = Surroundings("n1")
            mtu = PodMtu(around, fake.policy, RealMtuKernel())
            around.take(batch(node("n1", 11)))
            await mtu.look()
            assert [pod_mtu(world, i) for i in range(3)] == [9000] * 3
            ours, theirs = world.connected(family, 0, INTERNET[family])
            received: list[int] = []
            reader = threading.Thread(target=lambda: received.append(read_all(theirs)))
            with ours, theirs:
                reader.start()
                ours.sendall(bytes(4_000_000))
                set_underlay(world, 1500)
                await mtu.look()
                assert [pod_mtu(world, i) for i in range(3)] == [1500] * 3
                ours.sendall(bytes(4_000_000))
                ours.shutdown(1)
                await asyncio.to_thread(reader.join, 30)
            assert received == [8_000_000]
            set_underlay(world, 9000)
            await mtu.look()
            assert [pod_mtu(world, i) for i in range(3)] == [9000] * 3


def read_all(server: Any) -> int:
    total = 0
    while data := server.recv(1 << 20):
        total += len(data)
    return total


def set_underlay(world: World, mtu: int) -> None:
    for i in range(2):
        run("ip", "-n", world.outside, "link", "set", f"o{i}", "mtu", str(mtu))
        run("ip", "-n", world.name, "link", "set", f"u{i}", "mtu", str(mtu))


def pod_mtu(world: World, i: int) -> int:
    (row,) = json.loads(run("ip", "-n", world.pods[i], "-j", "link", "show", "eth0"))
    (host,) = json.loads(run("ip", "-n", world.name, "-j", "link", "show", f"h{i}"))
    assert row["mtu"] == host["mtu"]
    found: int = row["mtu"]
    return found


async def test_routes_say_what_pods_take_where_an_uplink_takes_more(world: MtuWorld) -> None:
    await world.look()
    assert world.mtu.route_mtu == 0
    world.mtu.set_overhead(50)
    await world.look()
    assert world.mtu.route_mtu == 1450
    world.items.append(network(mtu=1400))
    await world.look()
    assert world.mtu.route_mtu == 1400
    world.items[-1] = network(mtu=9000)
    await world.look()
    assert world.mtu.route_mtu == 1450, "never more than gets through"
