"""The way of a packet, put together from what nodes say. What kernels say is tried in tests/scenarios/test_path.py."""

from __future__ import annotations

import msgspec
import pytest

from agent.path import assemble
from agent.pathreport import End, Journey, LinkFacts, NodeFacts, RouteFacts, WayFacts
from policy.explain import Explanation, TierStory
from policy.resident import Resident

A = End("10.42.0.7", "Pod", "shop/front", "n1")
B = End("10.42.1.9", "Pod", "shop/db-0", "n2")
C = End("10.42.0.8", "Pod", "shop/near", "n1")
N1 = End("172.16.1.11", "Node", "n1", "n1")
N2 = End("172.16.1.12", "Node", "n2", "n2")
OUTSIDE = End("192.0.2.1")
ETH0 = WayFacts("eth0", "172.16.1.1", mtu=1500, peer="BGPPeer/tor-1", neighbour="reachable")
ETH1 = WayFacts("eth1", "172.16.2.1", mtu=1500, peer="BGPPeer/tor-2", neighbour="stale")
AWAY = RouteFacts("10.42.1.0/24", "unicast", "tortie", 9700, "eBGP 65100 65002", (ETH0, ETH1), 0)
BACK = RouteFacts("10.42.0.0/24", "unicast", "tortie", 9700, "eBGP 65100 65001", (ETH0,), 0)
HERE = RouteFacts("10.42.1.9/32", "unicast", "boot", 0, "", (WayFacts("vethb"),), 0)
LOCAL = RouteFacts("172.16.1.12/32", "local", "kernel")
VETH_A = LinkFacts("vetha", "veth", 1500, inner="eth0", inner_mtu=1500)
VETH_B = LinkFacts("vethb", "veth", 1500, inner="eth0", inner_mtu=1500)
OUT = TierStory("egress", "Accept", "NetworkPolicy", policies=("NetworkPolicy shop/out",), decided_by="shop/out #1")
IN = TierStory("ingress", "Accept", "NetworkPolicy", policies=("NetworkPolicy shop/in",), decided_by="shop/in #2")
NO = TierStory("ingress", "Deny", "NetworkPolicy", policies=("NetworkPolicy shop/in",))
FREE = TierStory("egress", "Accept")


def story(*tiers: TierStory, verdict: str = "allow", reasons: tuple[str, ...] = ()) -> Explanation:
    return Explanation(verdict, Resident(A.address), Resident(B.address), "TCP", 5432, tiers, reasons)


def on_n1(**changes: object) -> NodeFacts:
    return msgspec.structs.replace(NodeFacts("n1", A, B, VETH_A, None, AWAY, BACK, story(OUT, IN)), **changes)


def on_n2(**changes: object) -> NodeFacts:
    return msgspec.structs.replace(NodeFacts("n2", A, B, None, VETH_B, HERE, BACK, story(IN)), **changes)


def lines(journey: Journey) -> list[str]:
    return [
        line
        for stage in journey.stages
        for line in (stage.place, *(f"  {fact.what}: {fact.text}{' ✗' if fact.drops else ''}" for fact in stage.facts))
    ]


def ends_with(journey: Journey, what: str) -> None:
    """The packet is dropped for this reason, and nothing is drawn beyond but the end."""
    assert (journey.verdict, journey.reason) == ("dropped", what)
    *_, last, end = journey.stages
    assert last.facts[-1].drops
    assert (end.place, end.facts) == (str(journey.destination), ())


def test_from_pod_to_pod_every_step_is_told_in_order() -> None:
    journey = assemble([on_n1(), on_n2()], {})
    assert (journey.verdict, journey.reason, journey.answers, journey.mtu) == ("arrives", "", "", 1500)
    assert (journey.protocol, journey.port) == ("TCP", 5432)
    assert lines(journey) == [
        "shop/front eth0 ── vetha n1",
        "  policy: egress allowed by shop/out #1",
        "  route: 10.42.1.0/24 from BGPPeer/tor-1 (eBGP 65100 65002), multipath 1 of 2",
        "  tunnel: direct",
        "  mtu: MTU 1500",
        "n1 eth0 ── 172.16.1.1 (BGPPeer/tor-1) ── n2",
        "  route: 10.42.1.9 dev vethb",
        "  policy: ingress allowed by shop/in #2",
        "shop/db-0 eth0",
    ]


def test_where_the_kernel_cannot_tell_all_ways_are_shown() -> None:
    journey = assemble([on_n1(route=msgspec.structs.replace(AWAY, taken=None)), on_n2()], {})
    assert "  route: 10.42.1.0/24 from BGPPeer/tor-1 and BGPPeer/tor-2 (eBGP 65100 65002), " in lines(journey)[2]
    assert lines(journey)[2].endswith("multipath by the flow's hash, 1 of 2")
    assert journey.stages[1].place == (
        "n1 eth0 or eth1 ── 172.16.1.1 (BGPPeer/tor-1) or 172.16.2.1 (BGPPeer/tor-2) ── n2"
    )


def test_nodes_on_one_link_have_nobody_in_between() -> None:
    way = WayFacts("eth0", "172.16.1.12", node="n2", mtu=1500, peer="mesh/n2")
    journey = assemble([on_n1(route=msgspec.structs.replace(AWAY, ways=(way,))), on_n2()], {})
    assert journey.stages[1].place == "n1 eth0 ── n2"


def test_a_neighbour_node_in_between_is_named() -> None:
    way = WayFacts("eth0", "172.16.1.13", node="n3", mtu=1500, peer="mesh/n3")
    journey = assemble([on_n1(route=msgspec.structs.replace(AWAY, ways=(way,))), on_n2()], {})
    assert journey.stages[1].place == "n1 eth0 ── 172.16.1.13 (n3) ── n2"


def test_on_one_node_it_goes_from_link_to_link() -> None:
    facts = NodeFacts("n1", A, C, VETH_A, VETH_B, HERE, HERE, story(FREE, IN))
    assert lines(assemble([facts], {})) == [
        "shop/front eth0 ── vetha n1",
        "  policy: egress allowed (no policy selects the pod)",
        "  route: 10.42.0.8 dev vethb",
        "  policy: ingress allowed by shop/in #2",
        "shop/near eth0",
    ]


def test_ingress_that_denies_ends_it_at_the_other_node() -> None:
    journey = assemble([on_n1(), on_n2(policy=story(NO, verdict="deny"))], {})
    ends_with(journey, "ingress DENIED by NetworkPolicy shop/in: no rule matches")


def test_egress_that_denies_ends_it_before_any_route() -> None:
    no = msgspec.structs.replace(NO, direction="egress")
    journey = assemble([on_n1(policy=story(no, verdict="deny")), on_n2()], {})
    ends_with(journey, "egress DENIED by NetworkPolicy shop/in: no rule matches")
    assert len(journey.stages) == 2


def test_what_no_policy_decided_is_said_too() -> None:
    gone = story(verdict="deny", reasons=("the destination is of this node's pod addresses, but no pod's here",))
    journey = assemble([on_n1(), on_n2(policy=gone)], {})
    ends_with(journey, "the destination is of this node's pod addresses, but no pod's here")


@pytest.mark.parametrize("verdict", ["allow", "deny"])
def test_who_was_not_asked_leaves_the_verdict_open(verdict: str) -> None:
    known = story(OUT, IN) if verdict == "allow" else story(OUT, NO, verdict="deny")
    journey = assemble([on_n1(policy=known)], {"n2": "no agent pod is there"})
    policy = next(fact for fact in journey.stages[1].facts if fact.what == "policy")
    assert policy.text.endswith("(as n1 knows it)")
    if verdict == "allow":
        assert (journey.verdict, journey.reason) == ("unknown", "n2 was not asked: no agent pod is there")
    else:
        assert journey.verdict == "dropped"


def test_a_source_whose_node_was_not_asked_is_open_too() -> None:
    journey = assemble([on_n2()], {"n1": "no answer within 60 s"})
    assert (journey.verdict, journey.reason) == ("unknown", "n1 was not asked: no answer within 60 s")
    assert lines(journey)[:2] == ["shop/front ── ? n1", "  unknown: n1 was not asked: no answer within 60 s"]
    assert lines(journey)[-1] == "shop/db-0 eth0"


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        (RouteFacts(error="there is no route"), "10.42.1.9: there is no route on n1"),
        (RouteFacts("10.42.0.0/16", "blackhole", "static"), "10.42.0.0/16 leads nowhere on n1 (blackhole)"),
        (
            msgspec.structs.replace(AWAY, ways=(), error="every way of the route is over a link that is down"),
            "10.42.1.9: every way of the route is over a link that is down on n1 (10.42.1.0/24)",
        ),
        (
            msgspec.structs.replace(AWAY, ways=(msgspec.structs.replace(ETH0, neighbour="failed"),)),
            "172.16.1.1 does not answer on eth0",
        ),
    ],
    ids=["no route", "blackhole", "links down", "deaf next hop"],
)
def test_a_route_that_leads_nowhere_ends_it(route: RouteFacts, reason: str) -> None:
    ends_with(assemble([on_n1(route=route), on_n2()], {}), reason)


def test_a_deaf_next_hop_beside_others_is_worth_a_note() -> None:
    ways = (ETH0, msgspec.structs.replace(ETH1, neighbour="failed"))
    journey = assemble([on_n1(route=msgspec.structs.replace(AWAY, ways=ways, taken=None)), on_n2()], {})
    assert journey.verdict == "arrives"
    assert journey.notes == ("172.16.2.1 on eth1 does not answer: flows that it takes are lost",)


def test_pods_without_a_link_are_found() -> None:
    ends_with(assemble([on_n1(source_link=None)], {}), "no link of n1 leads to shop/front (10.42.0.7)")
    nowhere = RouteFacts("10.42.1.0/24", "blackhole", "tortie")
    journey = assemble([on_n1(), on_n2(destination_link=None, route=nowhere)], {})
    ends_with(journey, "no link of n2 leads to 10.42.1.9 (10.42.1.0/24 blackhole)")


def test_a_link_that_is_down_ends_it() -> None:
    down = msgspec.structs.replace(VETH_B, is_up=False)
    ends_with(assemble([on_n1(), on_n2(destination_link=down)], {}), "vethb, the link of shop/db-0, is down")


def test_answers_that_do_not_find_back_are_told() -> None:
    journey = assemble([on_n1(), on_n2(back=RouteFacts(error="there is no route"))], {})
    assert (journey.verdict, journey.answers) == ("arrives", "n2: 10.42.0.7: there is no route")
    hole = RouteFacts("10.42.0.0/16", "unreachable")
    assert assemble([on_n1(), on_n2(back=hole)], {}).answers == "n2: 10.42.0.0/16 leads nowhere (unreachable)"


def test_the_smallest_mtu_is_told_with_where_it_is() -> None:
    narrow = msgspec.structs.replace(AWAY, ways=(msgspec.structs.replace(ETH0, mtu=1400),))
    journey = assemble([on_n1(route=narrow), on_n2()], {})
    assert journey.mtu == 1400
    assert journey.notes == ("packets of more than 1400 bytes do not fit through eth0 of n1; the pod sends up to 1500",)


def test_tunnel_and_nat_are_told() -> None:
    way = WayFacts("tortie-vxlan", mtu=1450, tunnel="in VXLAN to 172.16.1.12")
    journey = assemble([on_n1(route=msgspec.structs.replace(AWAY, ways=(way,)), nat="masqueraded"), on_n2()], {})
    assert "  tunnel: in VXLAN to 172.16.1.12" in lines(journey)
    assert "  nat: masqueraded" in lines(journey)


def test_to_a_node_and_from_one() -> None:
    to_node = assemble(
        [on_n1(destination=N2), on_n2(destination=N2, destination_link=None, route=LOCAL, policy=story())], {}
    )
    assert to_node.verdict == "arrives"
    assert lines(to_node)[-1] == "n1 eth0 ── 172.16.1.1 (BGPPeer/tor-1) ── n2"
    foreign = assemble([on_n1(destination=N2), on_n2(destination=N2, destination_link=None, route=AWAY)], {})
    ends_with(foreign, "172.16.1.12 is no address of n2")
    from_node = assemble([on_n1(source=N1, source_link=None, policy=story(IN)), on_n2(source=N1)], {})
    assert from_node.verdict == "arrives"
    assert lines(from_node)[0] == "n1"


def test_out_of_the_cluster_and_into_it() -> None:
    out = assemble([on_n1(destination=OUTSIDE, policy=story(OUT))], {})
    assert out.verdict == "arrives"
    assert lines(out)[-1] == "n1 eth0 ── 172.16.1.1 (BGPPeer/tor-1) ── 192.0.2.1"
    assert out.notes == ("beyond n1 nobody of this cluster can be asked",)
    into = assemble([on_n2(source=OUTSIDE)], {})
    assert into.verdict == "arrives"
    assert lines(into)[:2] == ["192.0.2.1", "  route: the way to n2 is the fabric's to find"]


def test_a_service_address_is_nobodys_to_follow() -> None:
    what = "192.0.2.1 is the address of Service shop/db: kube-proxy puts a pod's in its place; ask about shop/db-0"
    journey = assemble([on_n1(destination=OUTSIDE)], {}, what)
    assert (journey.verdict, journey.reason) == ("unknown", what)
    assert len(journey.stages) == 1
    assert journey.notes == ()


def test_an_address_of_the_nodes_own_that_is_nobodys_is_not_beyond_it() -> None:
    journey = assemble([on_n1(destination=OUTSIDE, route=LOCAL)], {})
    assert journey.notes[-1] == (
        "192.0.2.1 is an address of n1 itself, as those of Services are where kube-proxy uses IPVS"
    )


def test_policy_that_is_not_in_force_and_recent_drops_are_noted() -> None:
    journey = assemble([on_n1(policy_error="the kernel refused it", drops=41), on_n2()], {})
    assert journey.notes == (
        "n1 does not enforce policy as it should: the kernel refused it",
        "n1 dropped 41 such packets in the last minute (tortie drops)",
    )


def test_json_comes_back_as_it_went() -> None:
    journey = assemble([on_n1(), on_n2()], {})
    assert msgspec.json.decode(msgspec.json.encode(journey), type=Journey) == journey
