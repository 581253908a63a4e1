"""What pods have sent and received, by the counters of real links."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from agent.datastore.fake import FakeDatastore
from agent.drops import DropWatch
from agent.podtraffic import pod_traffic
from agent.report import DropReport, PodTraffic
from agent.view import View
from tests.agent.idle_network import idle_network
from tests.agent.real_node import RealNode, enforcing
from tests.agent.routing_world import World
from tests.felix.nft.pods import PodNode, pod_node

pytestmark = pytest.mark.kernel


@pytest.fixture
def pods() -> Iterator[PodNode]:
    """Pods x/p0 and x/p1; the test runs inside the node's namespace."""
    with pod_node(2) as node:
        yield node


def view_of(world: World, node: RealNode) -> View:
    drops = DropWatch("n1", node.policy.engine, None)
    network = idle_network(world.routing, node.policy)
    return View("n1", world.routing, node.policy, drops, FakeDatastore(), network=network)


async def counts(view: View) -> dict[str, PodTraffic]:
    return {each.pod: each for each in await pod_traffic(view)}


async def test_what_a_pod_sends_is_counted_as_sent(world: World, pods: PodNode) -> None:
    async with enforcing(pods) as node:
        await node.tell(*node.objects(0, 1))
        view = view_of(world, node)
        before = await counts(view)
        assert before.keys() == {"x/p0", "x/p1"}
        with (
            pods.socket(world.family, 0, socket.SOCK_DGRAM) as sender,
            pods.socket(world.family, 1, socket.SOCK_DGRAM) as receiver,  # or else the pod answers that nobody is there
        ):
            receiver.bind((pods.address(world.family, 1), 9))
            for _ in range(5):
                sender.sendto(bytes(1000), (pods.address(world.family, 1), 9))
        after = await counts(view)
        assert after["x/p0"].sent_bytes - before["x/p0"].sent_bytes >= 5000
        assert after["x/p1"].received_bytes - before["x/p1"].received_bytes >= 5000
        assert after["x/p1"].sent_bytes - before["x/p1"].sent_bytes < 5000


async def test_drops_are_counted_at_both_ends(world: World, pods: PodNode) -> None:
    async with enforcing(pods) as node:
        await node.tell(*node.objects(0, 1))
        view = view_of(world, node)
        words = ("", "n1", "x/p0", "", "x/p1", "", "TCP", 80, "policy", "ingress", "", "", "h0")
        view.drops.recent += [DropReport(*words, count=3), DropReport(*words, count=4)]
        assert {name: each.dropped for name, each in (await counts(view)).items()} == {"x/p0": 7, "x/p1": 7}


async def test_a_pod_without_a_link_is_left_out(world: World, pods: PodNode) -> None:
    async with enforcing(pods) as node:
        await node.tell(*node.objects(0, 1))
        pods.ip(None, "link del h1")
        assert (await counts(view_of(world, node))).keys() == {"x/p0"}


async def test_a_node_without_pods_has_nothing_to_tell(world: World, pods: PodNode) -> None:
    async with enforcing(pods) as node:
        assert await pod_traffic(view_of(world, node)) == []
