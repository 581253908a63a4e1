"""A node among routers of every make: what they are told, and how sessions begin, end and come back.

Scenarios B01, B02, B03, B04, B05, B07, B09, B10 and B13.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pytest

from agent.lab.kernelroutes import kernel_routes
from agent.lab.lab import Lab
from agent.lab.speakers import RouteView
from agent.lab.wait import eventually
from agent.report import AvailableRoute
from inet.prefix import Family
from tests.lab import Apply
from tests.scenarios import nodes
from tests.scenarios.manifests import secret
from tests.scenarios.scenes import DAEMONS, ROUTERS
from tests.scenarios.stage import on

pytestmark = [pytest.mark.interop, on(ROUTERS)]
every_daemon = pytest.mark.parametrize("daemon", DAEMONS)
two_daemons = pytest.mark.parametrize("daemon", DAEMONS[:2])  # where GoBGP takes its time to call again

OWN = {"10.42.0.0/24", "fd42::/64"}
EXTERNAL = [f"ext-{daemon}" for daemon in DAEMONS]
INTERNAL = [f"int-{daemon}" for daemon in DAEMONS]


def prefixes_of(*routers: str) -> set[str]:
    """Return what routers originate."""
    return {prefix for router in routers for prefix in ROUTERS.topology["routers"][router]["announce"]}


async def heard(lab: Lab, router: str) -> Mapping[str, RouteView]:
    """Return what a router was told by the node; no prefix twice."""
    routes = [route for route in await lab.routes(router) if route.peer is not None]
    told = {str(route.prefix): route for route in routes}
    assert len(told) == len(routes), routes
    return told


async def hears(lab: Lab, router: str, prefixes: set[str]) -> Mapping[str, RouteView]:
    """Wait until a router was told these prefixes and no other."""
    return await eventually(
        partial(heard, lab, router), lambda told: told.keys() == prefixes, what=f"{router} has {sorted(prefixes)}"
    )


async def paths_to(lab: Lab, prefixes: set[str]) -> list[AvailableRoute]:
    """Return every path that the node has to these prefixes, used or not."""
    return [path for prefix in prefixes for path in await nodes.available(lab, "n1", prefix)]


def addresses(lab: Lab, router: str) -> dict[Family, str]:
    """Return a router's addresses, which the node peers with."""
    return {family: str(lab.address(router, family)) for family in Family}


@every_daemon
async def test_b01_a_peer_hears_all_others_through_a_transit_node(net: Lab, daemon: str) -> None:
    router = f"ext-{daemon}"
    others = [other for other in (*EXTERNAL, *INTERNAL) if other != router]
    told = await hears(net, router, OWN | prefixes_of(*others))
    for other in EXTERNAL:
        asn = ROUTERS.topology["routers"][other]["asn"]
        assert all(told[prefix].as_path == (65000, asn) for prefix in prefixes_of(other) if other != router)


@every_daemon
async def test_b01_the_prefixes_of_a_peer_are_in_the_rib_and_the_kernel(net: Lab, daemon: str) -> None:
    router = f"ext-{daemon}"
    routes = {route.prefix: route for route in await kernel_routes(net, "n1")}
    for prefix in prefixes_of(router):
        (path,) = (path for path in await nodes.available(net, "n1", prefix) if path.used)
        assert {way.gateway for way in routes[prefix].ways} == {path.peer}
        assert path.peer in addresses(net, router).values()


@every_daemon
async def test_b02_an_external_peer_sees_our_as_once_and_our_address_of_the_session(net: Lab, daemon: str) -> None:
    router = f"ext-{daemon}"
    told = await eventually(partial(heard, net, router), lambda told: told.keys() >= OWN)
    for prefix in OWN:
        family = Family.IPV6 if ":" in prefix else Family.IPV4
        assert told[prefix].as_path == (65000,)
        assert told[prefix].next_hop == net.address("n1", family, towards=router)


@every_daemon
async def test_b03_a_killed_peer_takes_its_prefixes_along_and_nothing_else(net: Lab, daemon: str) -> None:
    router, witnesses = f"ext-{daemon}", [other for other in EXTERNAL if other != f"ext-{daemon}"]
    before, routes = await nodes.peers(net, "n1"), await kernel_routes(net, "n1")

    await net.kill(router)
    lost = prefixes_of(router)
    for witness in witnesses:
        await eventually(partial(heard, net, witness), lambda told: not told.keys() & lost)
    rest = [route for route in routes if route.prefix not in lost]
    await eventually(partial(kernel_routes, net, "n1"), lambda found: sorted(found, key=repr) == sorted(rest, key=repr))
    await eventually(partial(paths_to, net, lost), [].__eq__)

    after = await nodes.peers(net, "n1")
    untouched = before.keys() - addresses(net, router).values()
    assert {peer: after[peer].since for peer in untouched} == {peer: before[peer].since for peer in untouched}

    await net.start(router)
    for witness in witnesses:
        await eventually(partial(heard, net, witness), lambda told: told.keys() >= lost)


async def knocks(lab: Lab) -> int:
    """Return how many connections others have opened, or tried to open in vain, at the node."""
    counts = await nodes.counters(lab, "n1", "snmp", "Tcp")
    return counts["PassiveOpens"] + counts["OutRsts"]


@two_daemons
async def test_b04_a_peer_shut_down_stays_idle_until_it_is_enabled(net: Lab, apply: Apply, daemon: str) -> None:
    router, witness = f"ext-{daemon}", next(other for other in EXTERNAL if other != f"ext-{daemon}")
    for family in Family:
        name = f"{router}-{family.label.lower()}"
        apply(net, f"{name}.yaml", ROUTERS.variant(name, shutdown={"message": "cable work"}))
    ours = addresses(net, router).values()

    async def states() -> set[tuple[str, str]]:
        return {(it.state, it.reason) for it in (await nodes.peers(net, "n1")).values() if it.peer in ours}

    down = {("Idle", "administratively down: cable work")}
    await eventually(states, down.__eq__)
    await eventually(partial(heard, net, witness), lambda told: not told.keys() & prefixes_of(router))
    await eventually(partial(paths_to, net, prefixes_of(router)), [].__eq__)
    await eventually(partial(heard, net, router), lambda told: not told)

    count = await knocks(net)
    await eventually(partial(knocks, net), lambda now: now > count, what=f"{router} has called in vain")
    assert await states() == down

    for family in Family:
        name = f"{router}-{family.label.lower()}"
        apply(net, f"{name}.yaml", ROUTERS.variant(name))
    told = await eventually(partial(heard, net, router), lambda told: told.keys() >= OWN)
    assert all(told[prefix].as_path == (65000,) for prefix in OWN)
    await eventually(partial(heard, net, witness), lambda told: told.keys() >= prefixes_of(router))


@every_daemon
async def test_b05_the_node_calls_a_peer_that_only_listens(net: Lab, daemon: str) -> None:
    for address in addresses(net, f"int-{daemon}").values():
        assert (await nodes.peers(net, "n1"))[address].state == "Established"
        (called,) = (await net.run("n1", "ss", "-Htn", "state", "established", "dst", f"[{address}]")).splitlines()
        assert called.split()[-1].endswith(":179"), called


@every_daemon
async def test_b07_different_passwords_keep_just_that_session_down(net: Lab, apply: Apply, daemon: str) -> None:
    router, before = f"int-{daemon}", await nodes.peers(net, "n1")
    ours = addresses(net, router).values()
    (right,) = ROUTERS.manifests["secret.yaml"]
    count = await nodes.md5_failures(net, router)

    apply(net, "secret.yaml", secret("bgp", **{**right["stringData"], daemon: "not-the-one"}))
    await eventually(partial(nodes.md5_failures, net, router), lambda now: now >= count + 4, within_s=30)
    after = await eventually(
        partial(nodes.peers, net, "n1"), lambda now: all("passwords differ" in now[peer].reason for peer in ours)
    )
    assert {after[peer].state for peer in ours} == {"Active"}
    untouched = before.keys() - ours
    assert {peer: after[peer].since for peer in untouched} == {peer: before[peer].since for peer in untouched}
    assert "not-the-one" not in net.state.log("n1", "agent").read_text()
    report = await nodes.status(net, "n1")
    assert (report.speaker_running, report.speaker_restarts) == (True, 0)

    apply(net, "secret.yaml", right)
    await eventually(partial(nodes.peers, net, "n1"), lambda now: all(now[it].state == "Established" for it in ours))


@every_daemon
async def test_b09_an_internal_peer_is_not_told_what_another_one_said(net: Lab, daemon: str) -> None:
    await hears(net, f"int-{daemon}", OWN | prefixes_of(*EXTERNAL))


@every_daemon
async def test_b10_next_hop_and_as_path_stay_as_they_are_towards_internal_peers(
    net: Lab, apply: Apply, daemon: str
) -> None:
    router = f"int-{daemon}"
    told = await hears(net, router, OWN | prefixes_of(*EXTERNAL))
    for other in EXTERNAL:
        for prefix in prefixes_of(other):
            assert told[prefix].as_path == (ROUTERS.topology["routers"][other]["asn"],)
            assert str(told[prefix].next_hop) in addresses(net, other).values()

    for family in Family:
        name = f"{router}-{family.label.lower()}"
        apply(net, f"{name}.yaml", ROUTERS.variant(name, nextHop="Self"))
    own = {net.address("n1", family, towards=router) for family in Family}
    told = await eventually(
        partial(heard, net, router), lambda told: told and {route.next_hop for route in told.values()} == own
    )
    for other in EXTERNAL:
        assert all(
            told[prefix].as_path == (ROUTERS.topology["routers"][other]["asn"],) for prefix in prefixes_of(other)
        )


async def test_b13_each_peer_is_told_one_prefix_for_each_pod_cidr_of_its_families(net: Lab, apply: Apply) -> None:
    apply(net, "transit.yaml")
    for router in (*EXTERNAL, *INTERNAL):
        await hears(net, router, OWN)
    told = sorted((row.peer, row.prefix) for row in await nodes.advertised(net, "n1"))
    expected = {Family.IPV4: "10.42.0.0/24", Family.IPV6: "fd42::/64"}
    peers = [(family, peer) for router in (*EXTERNAL, *INTERNAL) for family, peer in addresses(net, router).items()]
    assert told == sorted((peer, expected[family]) for family, peer in peers)
    blackholes = {route.prefix for route in await kernel_routes(net, "n1") if route.kind == "blackhole"}
    assert blackholes == OWN
