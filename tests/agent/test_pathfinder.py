"""What one node knows of a packet, on a kernel with pods; what is made of it is `test_path.py`'s."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address
from socket import if_nametoindex

import pytest

from agent.datastore.fake import FakeDatastore
from agent.drops import DropWatch
from agent.objects.kinds import Keyed
from agent.pathfinder import PathFinder, PathQuestion
from agent.pathreport import NodeFacts
from agent.policy_cluster import QuestionError
from agent.report import DropReport, timestamp
from agent.view import View
from felix.route import NextHop
from inet.prefix import Family, Prefix
from tests.agent.idle_network import idle_network
from tests.agent.objects_of_nodes import batch, node_object
from tests.agent.policy_world import manifest
from tests.agent.real_node import RealNode, enforcing
from tests.agent.routing_world import World
from tests.agent.tunnel_world import ALWAYS, device, way
from tests.felix.nft.pods import OUTSIDE as OUTSIDE_ADDRESS
from tests.felix.nft.pods import PodNode, pod_node

pytestmark = pytest.mark.kernel

OUTSIDE = 2
VNI = 4096


@pytest.fixture
def pods() -> Iterator[PodNode]:
    """Pods x/p0 and x/p1, and a router outside; the test runs inside the node's namespace."""
    with pod_node(3) as node:
        node.put_outside(OUTSIDE)
        yield node


class Finder:
    """What is asked, of node n1."""

    def __init__(self, world: World, pods: PodNode, node: RealNode) -> None:
        self.world = world
        self.pods = pods
        self.family = world.family
        self.network = idle_network(world.routing, node.policy)
        self.drops = DropWatch("n1", node.policy.engine, None)
        self.view = View("n1", world.routing, node.policy, self.drops, FakeDatastore(), network=self.network)
        self.find = PathFinder(self.view, world.routing, self.network)

    async def facts(self, source: str, destination: str, port: str = "80/TCP", source_port: int = 0) -> NodeFacts:
        return await self.find.facts(PathQuestion(source, destination, port, source_port, self.family))

    def route(self, destination: Prefix | str, words: str) -> None:
        self.pods.ip(None, f"route add {destination} {words} proto 97")


@pytest.fixture
async def finder(world: World, pods: PodNode) -> AsyncIterator[Finder]:
    async with enforcing(pods) as node:
        await node.tell(*node.objects(0, 1), node_object(2), away(9))
        await world.configure()
        yield Finder(world, pods, node)


def away(number: int) -> Keyed:
    """Return pod x/away on node n2, in the pod CIDRs that the world gives that node."""
    status = {"podIPs": [{"ip": f"10.42.2.{number}"}, {"ip": f"fd42:0:0:2::{number:x}"}]}
    return manifest("Pod", "away", "x", labels={"app": "away"}, spec={"nodeName": "n2"}, status=status)


async def test_of_its_own_pods_it_knows_both_links_and_the_way_between_them(finder: Finder) -> None:
    facts = await finder.facts("x/p0", "x/p1")
    source, destination = facts.source_link, facts.destination_link
    assert source is not None
    assert destination is not None
    assert [(each.name, each.kind, each.inner, each.is_up) for each in (source, destination)] == [
        ("h0", "veth", "eth0", True),
        ("h1", "veth", "eth0", True),
    ]
    assert (source.mtu, source.inner_mtu) == (1500, 1500)
    assert [way.interface for way in facts.route.ways] == ["h1"]
    assert [way.interface for way in facts.back.ways] == ["h0"]
    assert (facts.route.taken, facts.route.error) == (0, "")
    assert facts.policy is not None
    assert (facts.policy.protocol, facts.policy.port, facts.policy.verdict) == ("TCP", 80, "allow")


async def test_without_a_port_it_is_a_ping(finder: Finder) -> None:
    facts = await finder.facts("x/p0", "x/p1", "")
    assert facts.policy is not None
    assert facts.policy.protocol == ("ICMP" if finder.family is Family.IPV4 else "ICMPv6")


async def test_an_end_that_nobody_knows_is_said(finder: Finder) -> None:
    with pytest.raises(QuestionError, match="x/nobody"):
        await finder.facts("x/p0", "x/nobody")


async def test_a_route_of_ours_leads_to_another_node(finder: Finder) -> None:
    router = OUTSIDE_ADDRESS[finder.family]
    finder.route(finder.world.cidr(2), f"via {router} metric 77")
    facts = await finder.facts("x/p0", "x/away")
    assert (facts.source.node, facts.destination.node) == ("n1", "n2")
    assert facts.destination_link is None
    route = facts.route
    assert (route.prefix, route.owner, route.metric, route.kind) == (str(finder.world.cidr(2)), "tortie", 77, "unicast")
    assert route.origin == "from before the restart"
    (way,) = route.ways
    assert (way.interface, way.gateway, way.mtu, way.tunnel) == ("h2", router, 1500, "")


async def test_a_gateway_that_is_a_node_is_called_by_its_name(finder: Finder) -> None:
    far = finder.world.host(2)
    finder.pods.ip(None, f"route add {far} dev h2")
    finder.route(finder.world.cidr(2), f"via {far}")
    facts = await finder.facts("x/p0", "x/away")
    assert [way.node for way in facts.route.ways] == ["n2"]


async def test_a_tunnel_is_told_with_the_room_it_leaves(finder: Finder) -> None:
    far, (hop, *_) = finder.world.host(2), await tunnel_hops(finder)
    finder.pods.ip(None, f"route add {far} dev h2")
    finder.route(finder.world.cidr(2), f"via {ip_address(hop.gateway)} dev tvx onlink")
    facts = await finder.facts("x/p0", "x/away")
    (told,) = facts.route.ways
    assert (told.tunnel, told.node) == (f"in VXLAN to {far} VNI {VNI}", "n2")
    assert told.mtu == (1450 if finder.family is Family.IPV4 else 1430)


async def tunnel_hops(finder: Finder) -> tuple[NextHop, ...]:
    """Return the next hops to node n2 where it is reached in a tunnel, whose device is tvx."""
    await finder.world.configure(encapsulation=ALWAYS, mesh_enabled=False)
    local = "10.9.9.9" if finder.family is Family.IPV4 else "fd09::9"
    finder.pods.ip(None, f"link add tvx type vxlan id {VNI} dstport 4789 local {local}")
    finder.pods.ip(None, "link set tvx up mtu 1500")
    finder.world.tunnels.interfaces[device(finder.world)] = if_nametoindex("tvx")
    return way(finder.world, 2) or ()


async def test_where_no_route_leads_the_kernels_word_is_told(finder: Finder) -> None:
    facts = await finder.facts("x/p0", "x/away")
    assert facts.route.ways == ()
    assert facts.route.error


async def test_packets_from_elsewhere_are_asked_about_as_they_would_arrive(finder: Finder) -> None:
    finder.route(finder.world.cidr(2), f"via {OUTSIDE_ADDRESS[finder.family]}")
    facts = await finder.facts("x/away", "x/p1")
    assert facts.source_link is None
    assert [way.interface for way in facts.route.ways] == ["h1"]
    assert [way.interface for way in facts.back.ways] == ["h2"]
    finder.pods.ip(None, f"{'-6 ' if finder.family is Family.IPV6 else ''}rule add iif h2 prohibit")
    assert (await finder.facts("x/away", "x/p1")).route.error


async def test_without_a_word_of_services_nobody_is_said_to_be_one(finder: Finder) -> None:
    facts = await finder.facts("x/p0", "10.43.0.10" if finder.family is Family.IPV4 else "fd43::a")
    assert (facts.service, facts.knows_services) == ("", False)


async def test_an_address_that_the_node_itself_has_is_local_as_those_of_services_are_with_ipvs(finder: Finder) -> None:
    address = "10.43.0.10" if finder.family is Family.IPV4 else "fd43::a"
    finder.pods.ip(None, "link add kube-ipvs0 type bridge")  # a dummy there, which not every kernel has
    finder.pods.ip(None, "link set kube-ipvs0 up")
    finder.pods.ip(None, f"addr add {address} dev kube-ipvs0" + (" nodad" if finder.family is Family.IPV6 else ""))
    facts = await finder.facts("x/p0", address)
    assert (facts.destination.node, facts.route.kind) == ("", "local")


async def test_of_policy_each_node_has_its_part(finder: Finder) -> None:
    question = PathQuestion("x/p0", "x/away", "80/TCP", family=finder.family)
    facts = await finder.find.policy_facts(question)
    assert (facts.node, facts.source.name, facts.destination.node) == ("n1", "x/p0", "n2")
    assert {node: [tier.node for each in some for tier in each.tiers] for node, some in facts.stories.items()} == {
        "n1": ["n1"],
        "n2": ["n2"],
    }


async def test_an_address_that_nobody_is_known_by_is_still_of_the_node_whose_pods_have_such(finder: Finder) -> None:
    nobody = f"10.42.2.{77}" if finder.family is Family.IPV4 else "fd42:0:0:2::77"
    facts = await finder.facts("x/p0", nobody)
    assert (facts.destination.kind, facts.destination.node) == ("", "n2")
    story = await finder.find.policy_facts(PathQuestion("x/p0", nobody, "80"))
    assert story.destination.node == "n2"
    assert story.stories.keys() == {"n1"}, "what n2 makes of it depends on pods that n1 may not know"


async def test_addresses_of_both_families_are_one_end(finder: Finder) -> None:
    v4, v6 = (finder.pods.address(family, 0) for family in Family)
    both = await finder.facts(f"{v4},{v6}", "x/p1")
    assert both.source.name == "x/p0"
    assert (await finder.facts(f"[{v6}]" if finder.family is Family.IPV6 else v4, "x/p1")).source == both.source


async def test_a_service_address_is_told_to_be_one(finder: Finder) -> None:
    services = "10.43.0.0/16" if finder.family is Family.IPV4 else "fd43::/112"
    settings = {"serviceCIDRs": [services]}
    finder.network.take(batch(manifest("NetworkConfiguration", "default", spec=settings)))
    address = "10.43.0.10" if finder.family is Family.IPV4 else "fd43::a"
    facts = await finder.facts("x/p0", address)
    assert (facts.service, facts.knows_services) == (services, True)
    assert (await finder.facts("x/p0", "x/p1")).service == ""


async def test_drops_of_this_kind_of_packet_within_the_last_minute_are_counted(finder: Finder) -> None:
    family = finder.family

    def drop(port: int, age_s: float) -> DropReport:
        ends = finder.pods.address(family, 0), finder.pods.address(family, 1)
        seen = timestamp(time.time() - age_s)
        return DropReport(
            seen, "n1", "x/p0", ends[0], "x/p1", ends[1], "TCP", port, "policy", "ingress", "", "", "h0", count=3
        )

    finder.drops.recent += [drop(80, 1), drop(80, 90), drop(81, 1)]
    assert (await finder.facts("x/p0", "x/p1")).drops == 3
