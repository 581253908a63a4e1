"""A transit node is drained while traffic flows over it: routers go another way before the routes are gone.

Two ways lead from p3 to p4: r3 (FRR, which honours GRACEFUL_SHUTDOWN of itself) and r4 (BIRD, which does so by a
filter alone, and has none here) are joined by t1 and t2, both transit. Draining t1 must move everything to t2 without
the loss of a packet.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import pytest

from agent.lab.kernelroutes import kernel_routes
from agent.lab.lab import Lab
from agent.lab.traffic import traffic
from agent.lab.wait import eventually
from inet.prefix import Family
from tests.lab import BuildLab
from tests.scenarios import nodes
from tests.scenarios.manifests import bgp_configuration, bgp_node_profile, bgp_peer

pytestmark = [pytest.mark.interop]

GSHUT: Final = "65535:0"

TOPOLOGY: Final[dict[str, Any]] = {
    "routers": {
        "r3": {"daemon": "frr", "asn": 65103},
        "r4": {"daemon": "bird", "asn": 65104},
    },
    "nodes": {
        "t1": {"labels": {"role": "transit"}, "podCIDRs": ["10.42.1.0/24", "fd42:0:0:1::/64"]},
        "t2": {"labels": {"role": "transit"}, "podCIDRs": ["10.42.2.0/24", "fd42:0:0:2::/64"]},
        "n3": {"labels": {"at": "r3"}, "podCIDRs": ["10.42.3.0/24", "fd42:0:0:3::/64"], "pods": ["p3"]},
        "n4": {"labels": {"at": "r4"}, "podCIDRs": ["10.42.4.0/24", "fd42:0:0:4::/64"], "pods": ["p4"]},
    },
    "links": [["t1", "r3"], ["t2", "r3"], ["t1", "r4"], ["t2", "r4"], ["n3", "r3"], ["n4", "r4"]],
}


def router_peers(number: int, at: str, role: str) -> list[Any]:
    """The sessions of t1, t2 and the node behind a router with it."""
    addresses = {"IPv4": f"172.16.{number}.1", "IPv6": f"fd16:{number}::1"}
    return [
        bgp_peer(
            f"{at}-{who}-{family.lower()}",
            {"address": address},
            nodeSelector={"matchLabels": labels},
            peerASN=65100 + number + 2,
            families=[family],
        )
        for family, address in addresses.items()
        for who, labels in (("node", {"at": at}), ("transit", {"role": role}))
    ]


MANIFESTS: Final = {
    "cluster.yaml": [bgp_configuration(nodeMesh={"enabled": False})],
    "profiles.yaml": [
        bgp_node_profile("transit", nodeSelector={"matchLabels": {"role": "transit"}}, localASN=65010, transit=True),
        bgp_node_profile("n3", nodeSelector={"matchLabels": {"at": "r3"}}, localASN=65003),
        bgp_node_profile("n4", nodeSelector={"matchLabels": {"at": "r4"}}, localASN=65004),
    ],
    "routers.yaml": [*router_peers(1, "r3", "transit"), *router_peers(2, "r4", "transit")],
}


FAR: Final = {"r3": ("10.42.4.0/24", "fd42:0:0:4::/64"), "r4": ("10.42.3.0/24", "fd42:0:0:3::/64")}
"""The pods behind the other router."""


async def ways(lab: Lab, router: str) -> dict[str, int]:
    """How many ways a router's kernel has to the pods behind the other one."""
    return {it.prefix: len(it.ways) for it in await kernel_routes(lab, router) if it.prefix in FAR[router]}


async def have_ways(lab: Lab, count: int, *routers: str) -> bool:
    found = [await ways(lab, router) for router in routers]
    return all(len(each) == 2 and set(each.values()) == {count} for each in found)


async def drain_state(lab: Lab, node: str) -> str:
    return (await nodes.status(lab, node)).drain.state


async def is_told_of_shutdown(lab: Lab, router: str, prefix: str) -> bool:
    return any(GSHUT in route.communities for route in await lab.routes(router, prefix))


async def test_a_drained_transit_node_loses_no_packet(lab: BuildLab) -> None:
    net = await lab(TOPOLOGY, MANIFESTS)
    await eventually(lambda: have_ways(net, 2, "r3", "r4"), within_s=60)
    async with traffic(net, "p3", "p4", flows=8) as streams:
        await nodes.tortie(net, "t1", "drain", "--wait", "600", "--reason", "cable work")
        await eventually(partial(drain_state, net, "t1"), "Draining".__eq__)
        # FRR makes local preference 0 of it: t1 is no way any more, and still announces.
        await eventually(lambda: have_ways(net, 1, "r3"), within_s=30)
        await eventually(lambda: is_told_of_shutdown(net, "r4", "10.42.3.0/24"), what="BIRD told")
        # An agent that restarts goes on where it was.
        await net.restart("t1")
        await eventually(lambda: nodes.status(net, "t1"), lambda report: report.sessions_established == 4, within_s=60)
        assert await drain_state(net, "t1") == "Draining"
        assert await have_ways(net, 1, "r3")
        # Withdrawn: BIRD, which was not told to honour the community, leaves now.
        await nodes.tortie(net, "t1", "drain", "--wait", "0")
        await eventually(lambda: have_ways(net, 1, "r3", "r4"), within_s=30)
        await eventually(partial(drain_state, net, "t1"), "Drained".__eq__)
        assert await nodes.advertised(net, "t1") == []
        assert (await nodes.status(net, "t1")).sessions_established == 4
        # And back.
        await nodes.tortie(net, "t1", "undrain")
        await eventually(lambda: have_ways(net, 2, "r3", "r4"), within_s=30)
    assert not [str(stream) for stream in streams.values() if stream.lost]
    assert streams.keys() == set(Family)
    assert all(stream.sent > 100 for stream in streams.values())
