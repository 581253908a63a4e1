from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

import pytest

from agent.lab.speakers import DaemonError, RouteView, SessionView
from agent.lab.speakers.frr import parse_routes, parse_sessions
from inet.prefix import Family, Prefix
from tests.lab import BuildLab

NEIGHBOURS: dict[str, Any] = {
    "172.16.1.1": {
        "remoteAs": 65100,
        "bgpState": "Established",
        "addressFamilyInfo": {"ipv4Unicast": {"acceptedPrefixCounter": 3, "sentPrefixCounter": 2}},
        "lastResetDueTo": "Waiting for peer OPEN",
    },
    "fd16:1::1": {
        "remoteAs": 0,
        "bgpState": "Active",
        "addressFamilyInfo": {"ipv6Unicast": {"acceptedPrefixCounter": 0}},
        "lastNotificationReason": "Hold Timer Expired",
        "lastResetDueTo": "BGP Notification send",
    },
}
ROUTES: dict[str, Any] = {
    "routes": {
        "10.8.0.0/24": [
            {"prefix": "10.8.0.0/24", "version": 2},
            {
                "aspath": {"string": "65100 65077 {65078}"},
                "metric": 7,
                "bestpath": {"overall": True},
                "community": {"list": ["65100:4"]},
                "nexthops": [
                    {"ip": "fe80::1", "scope": "link-local"},
                    {"ip": "fd16:1::1", "scope": "global"},
                ],
                "peer": {"peerId": "fd16:1::1"},
            },
        ],
        "10.9.0.0/24": [
            {"prefix": "10.9.0.0/24"},
            {"aspath": {"string": ""}, "metric": 0, "nexthops": [{"ip": "0.0.0.0"}], "peer": {"peerId": "0.0.0.0"}},
        ],
    }
}


def test_sessions_are_read() -> None:
    assert list(parse_sessions(json.dumps(NEIGHBOURS))) == [
        SessionView(ip_address("172.16.1.1"), "Established", 65100, {Family.IPV4: 3}, {Family.IPV4: 2}, ""),
        SessionView(ip_address("fd16:1::1"), "Active", None, {}, {}, "Hold Timer Expired"),
    ]


def test_no_sessions_are_none() -> None:
    assert not list(parse_sessions('{"bgpNoSuchNeighbor":true}'))


def test_routes_are_read() -> None:
    peer = ip_address("fd16:1::1")
    assert list(parse_routes(json.dumps(ROUTES))) == [
        RouteView(Prefix.parse("10.8.0.0/24"), peer, peer, (65100, 65077), best=True, med=7, communities=("65100:4",)),
        RouteView(Prefix.parse("10.9.0.0/24"), None, None, (), best=False, med=0),
    ]


@pytest.mark.interop
async def test_what_frr_refuses_is_an_error_with_its_words(lab: BuildLab) -> None:
    net = await lab(
        {
            "routers": {"r": {"daemon": "frr", "asn": 65001}, "other": {"daemon": "bird", "asn": 65002}},
            "links": [["r", "other"]],
        }
    )
    with pytest.raises(DaemonError, match=r"FRR on r: .*Unknown command"):
        await net.daemon("r").ask("show nonsense")
    with pytest.raises(DaemonError, match=r"FRR on r: .*Unknown command"):
        await net.daemon("r").ask("configure terminal", "router bgp 65001", "nonsense")
