from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

import pytest

from agent.lab.speakers import DaemonError, RouteView, SessionView
from agent.lab.speakers.gobgp import parse_routes, read_session
from inet.prefix import Family, Prefix
from tests.lab import BuildLab

ESTABLISHED: dict[str, Any] = {
    "state": {"neighbor_address": "172.16.1.11", "peer_asn": 65003, "session_state": 6},
    "afi_safis": [
        {"state": {"family": {"afi": 1, "safi": 1}, "received": 2, "accepted": 1, "advertised": 3}},
        {"state": {"family": {"afi": 2, "safi": 1}}},
    ],
}
DOWN: dict[str, Any] = {
    "state": {"neighbor_address": "fd16:1::11", "peer_asn": 65003, "session_state": 3},
    "afi_safis": [{"state": {"family": {"afi": 2, "safi": 1}}}],
}
ROUTES: dict[str, Any] = {
    "10.8.0.0/24": [
        {"best": True, "attrs": [{"type": 1, "value": 0}, {"type": 3, "nexthop": "0.0.0.0"}]},
    ],
    "fd09::/64": [
        {
            "neighbor-ip": "fd16:1::11",
            "attrs": [
                {"type": 2, "as_paths": [{"segment_type": 2, "asns": [65003, 65009]}]},
                {"type": 14, "nexthop": "fd16:1::11"},
                {"type": 4, "metric": 5},
                {"type": 5, "value": 200},
                {"type": 8, "communities": [4259905537]},
            ],
        }
    ],
}


def test_sessions_are_read() -> None:
    assert read_session(ESTABLISHED) == SessionView(
        ip_address("172.16.1.11"),
        "Established",
        65003,
        {Family.IPV4: 2, Family.IPV6: 0},
        {Family.IPV4: 3, Family.IPV6: 0},
        "",
    )
    assert read_session(DOWN) == SessionView(ip_address("fd16:1::11"), "Active", 65003, {}, {}, "")


def test_routes_are_read() -> None:
    peer = ip_address("fd16:1::11")
    assert list(parse_routes(json.dumps(ROUTES))) == [
        RouteView(Prefix.parse("10.8.0.0/24"), None, None, (), best=True),
        RouteView(
            Prefix.parse("fd09::/64"),
            peer,
            peer,
            (65003, 65009),
            best=False,
            med=5,
            local_pref=200,
            communities=("65001:1",),
        ),
    ]


@pytest.mark.parametrize("text", ["", "{}", "null"])
def test_an_empty_table_is_empty(text: str) -> None:
    assert not list(parse_routes(text))


@pytest.mark.interop
async def test_what_gobgp_refuses_is_an_error_with_its_words(lab: BuildLab) -> None:
    net = await lab(
        {
            "routers": {"r": {"daemon": "gobgp", "asn": 65001}, "other": {"daemon": "bird", "asn": 65002}},
            "links": [["r", "other"]],
        }
    )
    with pytest.raises(DaemonError, match=r"GoBGP on r: .*"):
        await net.daemon("r").ask("neighbor", "192.0.2.1", "disable")
