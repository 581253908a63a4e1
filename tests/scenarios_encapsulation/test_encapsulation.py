"""Direct, routed or in a tunnel, with real packets in both families; and from each to each while they flow."""

from __future__ import annotations

import asyncio
import re
import signal
from functools import partial
from typing import Any, Final

import pytest

from agent.lab.traffic import route_events, traffic
from agent.lab.wait import eventually
from felix.tunnelmessages import DeviceId, Kind
from inet.prefix import Family
from tests.scenarios import nodes
from tests.scenarios_encapsulation.kernel import has_ip_in_ip
from tests.scenarios_encapsulation.network import PATIENCE_S, PODS, Net, prefix, routers
from tests.scenarios_encapsulation.streams import tcp_stream

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

FALLBACK: Final = {"mode": "Fallback"}
ALWAYS: Final = {"mode": "Always"}
IPIP: Final = {"mode": "Always", "type": "IPIP"}
EVERYBODY: Final = (("a1", "b1"), ("a1", "c1"), ("c1", "b1"), ("c1", "a1"))
IN_FLIGHT: Final = 60
"""Packets, of eight each 10 ms, that are on their way, or on the way to a router that is told too late."""


VXLAN: Final = DeviceId(Kind.VXLAN, Family.IPV4, 4096)


@pytest.fixture(params=["VXLAN", "IPIP"])
def encapsulation(request: pytest.FixtureRequest) -> dict[str, str]:
    """Each type of tunnel that this kernel has."""
    if request.param == "IPIP" and not has_ip_in_ip():
        pytest.skip("this kernel has no IP in IP (CONFIG_NET_IPIP, CONFIG_IPV6_TUNNEL)")
    return {"mode": "Always", "type": request.param}


# Where packets go


async def test_fallback_is_direct_on_the_link_and_a_tunnel_behind_a_router(net: Net) -> None:
    await net.configure(encapsulation=FALLBACK)
    await net.all_become("direct", "VXLAN")
    await net.watch_for_leaks()
    await net.all_reach(*EVERYBODY)
    assert await net.leaks() == 0


async def test_without_encapsulation_such_a_network_carries_nobody_and_it_is_said(net: Net) -> None:
    await net.configure(encapsulation={"mode": "Never"})
    await net.becomes("n1", "n2", "direct")
    await net.becomes("n1", "n3", "")  # sessions of BGP may have to end first
    said = await net.lab.run("n1", "sh", "-c", f"tortie routes explain {prefix('n3', Family.IPV4)} || true")
    assert "is on no link of this node" in " ".join(said.split())


async def test_always_is_a_tunnel_to_everybody(net: Net, encapsulation: dict[str, str]) -> None:
    await net.configure(encapsulation=encapsulation)
    await net.all_become(encapsulation["type"], encapsulation["type"])
    await net.watch_for_leaks()
    await net.all_reach(*EVERYBODY)
    assert await net.leaks() == 0


async def test_a_node_reaches_pods_of_others_and_is_answered_in_the_tunnel(
    net: Net, encapsulation: dict[str, str]
) -> None:
    await net.configure(encapsulation=encapsulation)
    await net.all_become(encapsulation["type"], encapsulation["type"])
    await net.watch_for_leaks()
    await net.all_reach(("n1", "b1"), ("n1", "c1"), ("n3", "a1"))
    assert await net.leaks() == 0


async def test_in_a_mixed_cluster_some_nodes_are_reached_otherwise(net: Net) -> None:
    override = {"name": "far", "nodeSelector": {"matchLabels": {"site": "n3"}}, "mode": "Always"}
    await net.configure(encapsulation={"mode": "Never", "overrides": [override]})
    await net.all_become("direct", "VXLAN")
    await net.all_reach(*EVERYBODY)


# The exact byte

SIZES: Final = {
    ("Never", "VXLAN"): {Family.IPV4: 1500, Family.IPV6: 1500},
    ("Always", "VXLAN"): {Family.IPV4: 1450, Family.IPV6: 1430},
    ("Always", "IPIP"): {Family.IPV4: 1480, Family.IPV6: 1460},
}
UPLINK: Final = 1500
HEADERS: Final = {Family.IPV4: 28, Family.IPV6: 48}  # IP and ICMP


@pytest.mark.parametrize(("mode", "type_"), SIZES, ids=lambda word: word)
async def test_the_largest_packet_passes_and_one_byte_more_does_not(net: Net, mode: str, type_: str) -> None:
    if type_ == "IPIP" and not has_ip_in_ip():
        pytest.skip("this kernel has no IP in IP (CONFIG_NET_IPIP, CONFIG_IPV6_TUNNEL)")
    await net.configure(encapsulation={"mode": mode, "type": type_})
    await net.becomes("n1", "n2", type_ if mode == "Always" else "direct")
    await net.becomes("n2", "n1", type_ if mode == "Always" else "direct")
    await net.all_reach(("n1", "b1"))
    pods = min(SIZES[mode, type_].values())  # they take what fits into the tunnels of both families
    # Whoever sends too large a packet too early remembers for ten minutes what did not get through.
    await eventually(partial(_are_told, net, pods), lambda why: not why, within_s=PATIENCE_S)
    for family, size in SIZES[mode, type_].items():
        # The other node's end of the tunnel answers, or the pod where there is none.
        far = prefix("n2", family).partition("/")[0] if mode == "Always" else str(net.lab.address("b1", family))
        await eventually(partial(_largest_is, net, far, pods, family), lambda why: not why, within_s=PATIENCE_S)
        if size == pods:
            continue
        # The route says what pods take. What the tunnel itself takes shows on one that says nothing, and that shares
        # no next hop with it, which would remember what was learned there.
        assert family is Family.IPV4, "IPv6 adds more bytes"
        here, node = f"{far}/{family.bits}", net.lab.address("n2", family)
        way = {
            "VXLAN": f"via {node} dev {VXLAN.name} onlink",
            "IPIP": f"encap ip dst {node} dev {DeviceId(Kind.IPIP, family).name}",
        }[type_]
        await net.lab.run("n1", "ip", "route", "add", here, *way.split())
        try:
            assert await _largest_is(net, far, size, family) == ""
        finally:
            await net.lab.run("n1", "ip", "route", "del", here)


async def _are_told(net: Net, pods: int) -> str:
    """Return what does not say yet how large pods' packets may be: their links, or n1's routes to n2's pods."""
    for node, link in (("n1", "veth-a1"), ("n2", "veth-b1")):
        if int(await net.lab.run(node, "cat", f"/sys/class/net/{link}/mtu")) != pods:
            return f"{node} {link}"
    for family in Family:
        route = await net.lab.run("n1", "ip", f"-{family.label[-1]}", "route", "show", prefix("n2", family))
        if (f"mtu {pods}" in route) != (pods < UPLINK):
            return route
    return ""


async def _largest_is(net: Net, far: str, size: int, family: Family) -> str:
    """Return why it is not this size that passes and one byte more that is refused with it; "" where it is so."""
    ping, payload = ("ping", "-c1", "-W2", "-M", "do", "-s"), size - HEADERS[family]
    status, said = await net.try_("n1", *ping, str(payload), far)
    if status != 0:
        return f"{family.label} {size}: {said}"
    status, said = await net.try_("n1", *ping, str(payload + 1), far)
    return "" if status != 0 and re.search(rf"mtu[=:] ?{size}\b", said) else f"{family.label} {size + 1}: {said}"


# From each to each while packets flow


async def test_a_router_s_word_moves_a_destination_out_of_the_tunnel_and_back(net: Net) -> None:
    await net.configure(*routers(), encapsulation=FALLBACK)
    await net.becomes("n1", "n3", "direct")
    await net.becomes("n3", "n1", "direct")
    await net.all_reach(("a1", "c1"))
    async with traffic(net.lab, "a1", "c1") as streams, tcp_stream(net.lab, "a1", "c1", Family.IPV4) as stream:
        await net.lab.disable("tor", "n3")
        await net.becomes("n1", "n3", "VXLAN")
        await net.becomes("n3", "n1", "VXLAN")
        await net.lab.enable("tor", "n3")
        await net.becomes("n1", "n3", "direct")
        await net.becomes("n3", "n1", "direct")
    assert stream.is_alive
    assert stream.received >= stream.sent
    for each in streams.values():
        assert len(each.lost) <= IN_FLIGHT, str(each)


async def test_a_dead_router_leaves_the_tunnel(net: Net) -> None:
    await net.configure(*routers(), encapsulation=FALLBACK)
    await net.becomes("n1", "n3", "direct")
    await net.lab.fail_link("n1", "tor")
    try:
        await net.becomes("n1", "n3", "VXLAN")
        await net.becomes("n3", "n1", "VXLAN")
        await net.all_reach(("a1", "c1"), ("c1", "a1"))
    finally:
        await net.lab.heal_link("n1", "tor")
    await net.becomes("n1", "n3", "direct")


MOVES: Final[dict[str, list[tuple[dict[str, Any], str]]]] = {
    "direct, VXLAN, direct": [({"mode": "Never"}, "direct"), (ALWAYS, "VXLAN"), ({"mode": "Never"}, "direct")],
    "direct, IPIP, VXLAN, direct": [
        ({"mode": "Never"}, "direct"),
        (IPIP, "IPIP"),
        (ALWAYS, "VXLAN"),
        ({"mode": "Never"}, "direct"),
    ],
}


@pytest.mark.parametrize("moves", MOVES.values(), ids=MOVES.keys())
async def test_no_packet_is_lost_between_direct_and_tunnels(net: Net, moves: list[tuple[dict[str, Any], str]]) -> None:
    if any(how == "IPIP" for _, how in moves) and not has_ip_in_ip():
        pytest.skip("this kernel has no IP in IP (CONFIG_NET_IPIP, CONFIG_IPV6_TUNNEL)")
    (first, how), *rest = moves
    await net.configure(encapsulation=first)
    await net.becomes("n1", "n2", how)
    await net.becomes("n2", "n1", how)
    await net.all_reach(("a1", "b1"))
    # In a kernel that one processor runs for all of the network, every 10 ms would be too much.
    pace = {"interval_s": 0.1, "flows": 1} if has_ip_in_ip() else {}
    async with traffic(net.lab, "a1", "b1", **pace) as streams, tcp_stream(net.lab, "b1", "a1", Family.IPV6) as stream:
        for wish, how in rest:
            await net.configure(encapsulation=wish)
            await net.becomes("n1", "n2", how)
            await net.becomes("n2", "n1", how)
    assert stream.is_alive
    assert stream.received >= stream.sent
    for each in streams.values():
        assert not each.lost, str(each)


@pytest.mark.parametrize(
    ("before", "after"), [("Never", "Always"), ("Always", "Never")], ids=["into tunnels", "out of tunnels"]
)
async def test_nodes_that_change_at_different_times_understand_each_other(net: Net, before: str, after: str) -> None:
    """n2 takes the configuration over, and then comes to nothing for a while."""
    how = {"Never": "direct", "Always": "VXLAN"}
    await net.configure(encapsulation={"mode": before})
    await net.becomes("n1", "n2", how[before])
    await net.becomes("n2", "n1", how[before])
    await net.all_reach(("a1", "b1"))
    agent = nodes.agent_of(net.lab, "n2")
    async with traffic(net.lab, "a1", "b1") as streams:
        await net.configure(encapsulation={"mode": after})
        if after == "Always":
            await eventually(lambda: net.lab.run("n2", "ip", "link", "show", VXLAN.name), what="n2's device")
            agent.send(signal.SIGSTOP)
        await net.becomes("n1", "n2", how[after])
        for _ in range(3):
            assert await net.reaches("a1", "b1", Family.IPV4)
            assert await net.reaches("a1", "b1", Family.IPV6)
        agent.send(signal.SIGCONT)
        await net.becomes("n2", "n1", how[after])
    for each in streams.values():
        assert not each.lost, str(each)


async def test_from_direct_to_bgp_and_back_nothing_is_lost_or_rewritten(net: Net) -> None:
    await net.configure(encapsulation={"mode": "Never"})
    await net.becomes("n1", "n2", "direct")
    await net.becomes("n2", "n1", "direct")
    await net.all_reach(("a1", "b1"))

    async def sessions() -> int:
        return (await net.status("n1")).sessions_established

    await net.mtu_becomes(1500)  # when tunnels of before are not understood any more; routes say what pods take
    async with traffic(net.lab, "a1", "b1") as streams, route_events(net.lab, "n1") as events:
        await net.configure(nodeRoutes="BGP", encapsulation={"mode": "Never"})
        await eventually(sessions, lambda count: count >= 2, within_s=PATIENCE_S, what="sessions of the mesh")
        await asyncio.sleep(0)
        assert await net.carried("n1", "n2") == dict.fromkeys(Family, "direct")
        await net.configure(encapsulation={"mode": "Never"})
        await eventually(sessions, (0).__eq__, within_s=PATIENCE_S, what="no sessions")
        assert await net.carried("n1", "n2") == dict.fromkeys(Family, "direct")
    for each in streams.values():
        assert not each.lost, str(each)
    destinations = [prefix("n2", family) for family in Family]  # n3 is no neighbour, and reached by BGP alone
    assert [line for line in events["n1"].lines if any(each in line for each in destinations)] == []


async def test_a_restart_touches_nothing(net: Net) -> None:
    await net.configure(encapsulation=FALLBACK)
    await net.all_become("direct", "VXLAN")
    await net.mtu_becomes(1430)
    await net.all_reach(("a1", "c1"))
    before = await net.lab.run("n1", "ip", "-d", "link", "show", VXLAN.name)
    async with traffic(net.lab, "a1", "c1") as streams:
        await net.lab.restart("n1")
        await net.becomes("n1", "n3", "VXLAN")
    for each in streams.values():
        assert not each.lost, str(each)
    assert (await net.status("n1")).kernel_writes == 0
    assert await net.lab.run("n1", "ip", "-d", "link", "show", VXLAN.name) == before
    assert PODS["n1"] == "a1"
