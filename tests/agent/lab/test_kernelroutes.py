from __future__ import annotations

import pytest

from agent.lab.kernelroutes import KernelRoute, Way, kernel_routes
from tests.lab import BuildLab

COMMANDS = """
nexthop add id 1 via 172.31.0.1 dev eth0
nexthop add id 2 via 172.31.0.3 dev eth1
nexthop add id 3 group 1/2
nexthop add id 4 via fd31::2 dev eth0
nexthop add id 5 via fd31:1::2 dev eth1
nexthop add id 6 group 4/5
route add 10.1.0.0/24 nhid 3 proto 97 metric 9700
route add 10.2.0.0/24 nhid 1
route add 10.3.0.0/24 metric 5 nexthop via 172.31.0.1 nexthop via 172.31.0.3
route add 10.4.0.1 via inet6 fd31::2 dev eth0
route add blackhole 10.5.0.0/24 proto 97
route add default via 172.31.0.1
route add fd01::/64 nhid 6 proto 97 metric 9700
route add fd03::/64 metric 5 nexthop via fd31::2 dev eth0 nexthop via fd31:1::2 dev eth1
route add fd04::1 via fd31::2 dev eth0
route add blackhole fd05::/64 proto 97
route add ::/0 via fd31::2 dev eth0
"""
A4, B4 = Way("172.31.0.1", "eth0"), Way("172.31.0.3", "eth1")
A6, B6 = Way("fd31::2", "eth0"), Way("fd31:1::2", "eth1")


@pytest.mark.kernel
@pytest.mark.parametrize("compat_mode", [0, 1])
async def test_every_way_to_write_a_route_reads_alike(lab: BuildLab, compat_mode: int) -> None:
    net = await lab(
        {
            "nodes": {"n1": {"daemon": "none"}, "n2": {"daemon": "none"}},
            "links": [["n1", "n2"], ["n1", "n2"]],
        }
    )
    await net.run("n1", "sysctl", "-qw", f"net.ipv4.nexthop_compat_mode={compat_mode}")
    await net.run("n1", "sh", "-c", f"echo '{COMMANDS}' | ip -batch -")
    routes = {route.prefix: route for route in await kernel_routes(net, "n1")}
    assert routes["10.1.0.0/24"] == KernelRoute("10.1.0.0/24", "unicast", "97", 9700, frozenset({A4, B4}))
    assert routes["10.2.0.0/24"].ways == {A4}
    assert routes["10.3.0.0/24"] == KernelRoute("10.3.0.0/24", "unicast", "boot", 5, frozenset({A4, B4}))
    assert routes["10.4.0.1/32"].ways == {Way("fd31::2", "eth0")}
    assert routes["10.5.0.0/24"] == KernelRoute("10.5.0.0/24", "blackhole", "97", 0, frozenset())
    assert routes["0.0.0.0/0"].ways == {A4}
    assert routes["fd01::/64"] == KernelRoute("fd01::/64", "unicast", "97", 9700, frozenset({A6, B6}))
    assert routes["fd03::/64"].ways == {A6, B6}
    assert routes["fd04::1/128"].ways == {A6}
    assert (routes["fd05::/64"].kind, routes["fd05::/64"].ways) == ("blackhole", frozenset())
    assert routes["::/0"].ways == {A6}
    assert routes["172.31.0.0/31"].ways == {Way(None, "eth0")}
    assert [route.prefix for route in await kernel_routes(net, "n1", "fd01::/64")] == ["fd01::/64"]


@pytest.mark.kernel
async def test_the_way_over_a_dead_link_is_left_out(lab: BuildLab) -> None:
    net = await lab(
        {"nodes": {"n1": {"daemon": "none"}, "n2": {"daemon": "none"}}, "links": [["n1", "n2"], ["n1", "n2"]]}
    )
    await net.run("n1", "sh", "-c", f"echo '{COMMANDS}' | ip -batch -")
    await net.run("n2", "ip", "link", "set", "eth1", "down")
    routes = {route.prefix: route.interfaces for route in await kernel_routes(net, "n1")}
    assert {routes[prefix] for prefix in ("10.1.0.0/24", "10.3.0.0/24", "fd01::/64", "fd03::/64")} == {
        frozenset({"eth0"})
    }
