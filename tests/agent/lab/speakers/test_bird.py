from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.lab.plan import plan
from agent.lab.speakers import DaemonError, RouteView, SessionView
from agent.lab.speakers.bird import Bird, parse_routes, parse_sessions
from agent.lab.topology import parse
from agent.lab.wait import eventually
from inet.prefix import Family, Prefix
from tests.lab import BuildLab

PROTOCOLS = """\
Name       Proto      Table      State  Since         Info
device1    Device     ---        up     14:57:26.940

n1_eth0_ipv4 BGP        ---        up     14:57:27.804  Established
  BGP state:          Established
    Neighbor address: 172.16.1.11
    Neighbor AS:      65001
    Local AS:         65100
    Session:          external AS4
  Channel ipv4
    State:          UP
    Routes:         3 imported, 1 filtered, 2 exported, 3 preferred
  Channel ipv6
    State:          UP
    Routes:         1 imported, 4 exported, 1 preferred

n2_eth1_ipv6 BGP        ---        start  14:57:26.940  Idle          Error: Hold timer expired
  BGP state:          Idle
    Neighbor address: fe80::1%eth1
    Neighbor AS:      0
    Last error:       Error: Hold timer expired
  Channel ipv6
    State:          DOWN

n3_eth2_ipv4 BGP        ---        down   14:57:26.940
  BGP state:          Down
    Neighbor address: 172.16.1.13
    Neighbor AS:      65003
"""

ROUTES = """\
Table master4:
10.1.0.0/24          unicast [n1_eth0_ipv4 14:57:27.934] * (100) [AS65009i]
\tvia 172.16.1.11 on eth0
\tType: BGP univ
\tBGP.origin: IGP
\tBGP.as_path: 65100 65009
\tBGP.next_hop: 172.16.1.11
\tBGP.med: 5
\tBGP.local_pref: 100
\tBGP.community: (65001,2) (65001,3)
                     unicast [n2_eth1_ipv4 14:57:28.000 from 172.16.1.12] (100) [AS65009i]
\tvia 172.16.1.12 on eth1
\tType: BGP univ
\tBGP.as_path: 65101 65009 {65010}
\tBGP.next_hop: 172.16.1.12

Table master6:
fd01::/64            blackhole [static_ipv6 14:57:26.942] * (200)
\tType: static univ
fd02::/64            unicast [n1_eth0_ipv4 14:57:27.934] * (100) [AS65001i]
\tvia fe80::1 on eth0
\tType: BGP univ
\tBGP.as_path: 65001
\tBGP.next_hop: fd16:1::11 fe80::1
"""


def test_sessions_are_read() -> None:
    first, second, third = (ip_address(text) for text in ("172.16.1.11", "fe80::1", "172.16.1.13"))
    assert list(parse_sessions(PROTOCOLS)) == [
        SessionView(
            first, "Established", 65001, {Family.IPV4: 3, Family.IPV6: 1}, {Family.IPV4: 2, Family.IPV6: 4}, ""
        ),
        SessionView(second, "Idle", 0, {}, {}, "Error: Hold timer expired"),
        SessionView(third, "Idle", 65003, {}, {}, ""),
    ]


def test_routes_are_read() -> None:
    a, b = ip_address("172.16.1.11"), ip_address("172.16.1.12")
    ten, fd01, fd02 = map(Prefix.parse, ("10.1.0.0/24", "fd01::/64", "fd02::/64"))
    assert list(parse_routes(ROUTES, {"n1_eth0_ipv4": a, "n2_eth1_ipv4": b})) == [
        RouteView(ten, a, a, (65100, 65009), best=True, med=5, local_pref=100, communities=("65001:2", "65001:3")),
        RouteView(ten, b, b, (65101, 65009), best=False),
        RouteView(fd01, None, None, (), best=True),
        RouteView(fd02, a, ip_address("fd16:1::11"), (65001,), best=True),
    ]


@pytest.mark.interop
async def test_what_bird_refuses_is_an_error_with_its_words(lab: BuildLab) -> None:
    net = await lab(
        {
            "routers": {"r": {"daemon": "bird", "asn": 65001}, "other": {"daemon": "bird", "asn": 65002}},
            "links": [["r", "other"]],
        }
    )
    bird = net.daemon("r")
    with pytest.raises(DaemonError, match="BIRD on r: show nonsense: syntax error"):
        await bird.ask("show", "nonsense")
    with pytest.raises(DaemonError, match=r"BIRD on r: disable nobody: syntax error, .*"):
        await bird.ask("disable", "nobody")
    (net.state.machine("r") / "bird.conf").write_text("nonsense")
    with pytest.raises(DaemonError, match=r"BIRD on r: configure: .*syntax error"):
        await bird.ask("configure")
    await net.kill("r")
    with pytest.raises(TimeoutError, match="BIRD on r does not answer"):
        await eventually(bird.sessions, within_s=0.1)


def test_what_it_originates_is_apart_from_its_sessions() -> None:
    topology = parse({"name": "x", "routers": {"r": {"daemon": "bird", "asn": 65001, "announce": ["10.0.0.0/24"]}}})
    planned = plan(topology)
    bird = Bird(planned.speakers["r"], "tl-x-r", Path("/lab"))
    with_it, without = bird.render(planned.speakers["r"].announce), bird.render(())
    assert with_it["bird.conf"] == without["bird.conf"]
    assert "route 10.0.0.0/24 blackhole;" in with_it["announce.conf"]
    assert "10.0.0.0/24" not in without["announce.conf"]
