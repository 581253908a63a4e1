"""`tortie path` over a tunnel and out of the cluster: what wraps packets, what room is left, what NAT makes of them."""

from __future__ import annotations

import msgspec
import pytest

from agent.lab.wait import eventually
from agent.pathreport import Journey
from felix.tunnelmessages import DeviceId, Kind
from inet.prefix import Family
from tests.lab import BuildLab
from tests.scenarios import nodes
from tests.scenarios.manifests import bgp_configuration, network_configuration

TUNNELLED = {Family.IPV4: 50, Family.IPV6: 70}
"""Bytes that VXLAN puts before a packet, by its family."""

pytestmark = [pytest.mark.interop]


async def test_a_tunnel_and_nat_are_told_as_the_kernel_has_them(lab: BuildLab) -> None:
    net = await lab(
        {
            "nodes": {
                f"n{n}": {"podCIDRs": [f"10.42.{n}.0/24", f"fd42:0:0:{n}::/64"], "pods": [f"p{n}"]} for n in (1, 2)
            },
            "links": [["n1", "n2"]],
        },
        {
            "cluster.yaml": [
                bgp_configuration(),
                network_configuration(
                    encapsulation={"mode": "Always", "type": "VXLAN"},
                    outgoingNAT={"enabled": True, "families": ["IPv4", "IPv6"]},
                ),
            ]
        },
    )

    async def journey(family: Family, destination: str) -> Journey:
        words = ("path", "default/p1", destination, "--family", family.label.lower(), "-o", "json")
        text = await nodes.tortie(net, "n1", *words)
        return msgspec.json.decode(text, type=Journey)

    async def is_wrapped(family: Family) -> bool:
        told = await journey(family, "default/p2")
        return any("VXLAN" in fact.text for fact in told.stages[0].facts)

    async def fits(family: Family) -> int | None:
        return (await journey(family, "default/p2")).mtu

    takes = 1500 - max(TUNNELLED.values())  # what pods have in both families, and routes to them say
    for family in TUNNELLED:
        await eventually(lambda family=family: is_wrapped(family), within_s=60)
        told = await journey(family, "default/p2")
        assert told.verdict == "arrives", told.reason
        (tunnel,) = [fact.text for fact in told.stages[0].facts if fact.what == "tunnel"]
        assert tunnel.startswith(f"in VXLAN to {net.address('n2', family)} VNI ")
        assert told.stages[1].place == f"n1 {DeviceId(Kind.VXLAN, family, 4096).name} ── n2"
        await eventually(lambda family=family: fits(family), lambda mtu: mtu == takes, within_s=60)
        assert not any(fact.what == "nat" for fact in told.stages[0].facts), "not inside the cluster"

    outside = {Family.IPV4: "192.0.2.1", Family.IPV6: "2001:db8::1"}
    for family, address in outside.items():
        gateway = str(net.address("n2", family))
        await net.run("n1", "ip", "route", "add", address, "via", gateway)
        told = await journey(family, address)
        (nat,) = [fact.text for fact in told.stages[0].facts if fact.what == "nat"]
        assert nat.startswith("masqueraded")
        assert "NetworkConfiguration spec.outgoingNAT" in nat
