"""Nodes that peer with each other, two of them not ours but BIRD and FRR: scenarios B09, B12, B14, B15, B18 and B22."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import yaml

from agent.lab.kernelroutes import kernel_routes
from agent.lab.lab import Lab
from agent.lab.topology import Announcement
from agent.lab.traffic import route_events, traffic
from agent.lab.wait import eventually
from inet.prefix import Family
from tests.lab import Apply
from tests.scenarios import nodes
from tests.scenarios.manifests import bgp_configuration, bgp_peer, only, secret
from tests.scenarios.scenes import MESH
from tests.scenarios.stage import on

pytestmark = [pytest.mark.interop, on(MESH)]

OTHERS = ["n2", "n3", "n4", "n5"]
WAYS_TO_PEER = pytest.mark.parametrize("other", ["n2", "n4", "n5"], ids=["tortie", "bird", "frr"])


def cidr(node: str, family: Family) -> str:
    """Return a node's pod CIDR."""
    prefixes: list[str] = MESH.topology["nodes"][node]["podCIDRs"]
    return prefixes[list(Family).index(family)]


def cidrs(*names: str) -> set[str]:
    """Return all pod CIDRs of nodes."""
    return {cidr(name, family) for name in names for family in Family}


def addresses(lab: Lab, *names: str) -> set[str]:
    """Return all addresses of nodes."""
    return {str(lab.address(name, family)) for name in names for family in Family}


async def ways(lab: Lab, node: str) -> dict[str, set[str | None]]:
    """Return the gateways of a node's kernel routes to the pods of others."""
    pods = cidrs(*MESH.topology["nodes"])
    routes = await kernel_routes(lab, node)
    return {it.prefix: {way.gateway for way in it.ways} for it in routes if it.prefix in pods and it.ways}


def edit_nodes(lab: Lab, change: Callable[[dict[str, dict[str, Any]]], None]) -> None:
    """Change Node objects by name; what was added or taken away counts."""
    path = lab.state.config / "nodes.yaml"
    by_name = {node["metadata"]["name"]: node for node in yaml.safe_load_all(path.read_text())}
    change(by_name)
    temporary = path.with_suffix(".new")
    temporary.write_text(yaml.safe_dump_all(by_name.values()))
    temporary.replace(path)


async def test_b22_the_status_of_a_node_lists_its_sessions_and_what_they_brought(net: Lab) -> None:
    report, peers = await nodes.status(net, "n1"), await nodes.peers(net, "n1")
    assert report.ready
    assert report.router_id == str(net.address("n1", Family.IPV4))
    for family in Family:
        of_family = {it.peer: it for it in peers.values() if [each.family for each in it.families] == [family.label]}
        assert of_family.keys() == {str(net.address(other, family)) for other in OTHERS}
        assert {it.state for it in of_family.values()} == {"Established"}
        assert {each.accepted for it in of_family.values() for each in it.families} == {1}
        for other in OTHERS:
            (path,) = await nodes.available(net, "n1", cidr(other, family))
            assert (path.peer, path.used) == (str(net.address(other, family)), True)
    assert len(peers) == 2 * len(OTHERS)
    # It is made when it is asked for.
    assert (await nodes.status(net, "n1")).uptime_seconds > report.uptime_seconds
    shown = await nodes.tortie(net, "n1", "routes", "available")
    assert all(prefix in shown for prefix in cidrs(*OTHERS))


@WAYS_TO_PEER
async def test_b18_pods_reach_each_other_over_routes_learned(net: Lab, family: Family, other: str) -> None:
    option, pod = f"-{4 if family is Family.IPV4 else 6}", other.replace("n", "p")
    await net.run("p1", "ping", option, "-c1", "-W5", pod)
    await net.run(pod, "ping", option, "-c1", "-W5", "p1")
    (route,) = await kernel_routes(net, "n1", cidr(other, family))
    assert (route.protocol, route.metric) == ("97", 9700)
    assert {way.gateway for way in route.ways} == {str(net.address(other, family))}


async def test_b09_a_node_never_passes_on_what_another_node_said(net: Lab) -> None:
    for name in ("n1", "n2", "n3"):
        told = {(row.peer, row.prefix) for row in await nodes.advertised(net, name)}
        peers = {str(net.address(other, family)): family for other in MESH.topology["nodes"] for family in Family}
        own = addresses(net, name)
        assert told == {(peer, cidr(name, family)) for peer, family in peers.items() if peer not in own}
    for name in ("n4", "n5"):
        heard = {(str(route.prefix), str(route.peer)) for route in await net.routes(name) if route.peer is not None}
        others = [other for other in MESH.topology["nodes"] if other != name]
        assert heard == {
            (cidr(other, family), str(net.address(other, family))) for other in others for family in Family
        }


@WAYS_TO_PEER
async def test_b12_peers_follow_the_node_objects(net: Lab, other: str) -> None:
    path = net.state.config / "nodes.yaml"
    before, text = await nodes.peers(net, "n1"), path.read_text()

    def replace(objects: dict[str, dict[str, Any]]) -> None:
        address = {"status": {"addresses": [{"type": "InternalIP", "address": "172.16.1.99"}]}}
        objects["n9"] = {**objects.pop(other), "metadata": {"name": "n9"}, **address}

    edit_nodes(net, replace)
    expected = (before.keys() - addresses(net, other)) | {"172.16.1.99"}
    after = await eventually(partial(nodes.peers, net, "n1"), lambda now: now.keys() == expected)
    assert after["172.16.1.99"].origin == "mesh/n9"
    stayed = before.keys() & after.keys()
    assert {it: after[it].since for it in stayed} == {it: before[it].since for it in stayed}
    await eventually(partial(ways, net, "n1"), lambda now: now.keys() == cidrs(*OTHERS) - cidrs(other))
    path.write_text(text)


@pytest.mark.parametrize("other", ["n2", "n4"], ids=["tortie", "bird"])
async def test_b14_traffic_follows_the_mesh_and_the_peers_written_down(net: Lab, apply: Apply, other: str) -> None:
    pods = ("p1", other.replace("n", "p"))
    everybody = {"nodeSelector": {}}
    by_address = [
        bgp_peer(
            f"{here}-{there}-{family.label.lower()}",
            {"address": str(net.address(there, family))},
            nodeSelector=only(here),
            peerASN="Internal",
            families=[family.label],
        )
        for here, there in (("n1", other), (other, "n1"))
        for family in Family
    ]

    await reaches(net, *pods)
    apply(net, "cluster.yaml", bgp_configuration(localASN=64512, nodeMesh={"enabled": False}))
    await does_not_reach(net, "n1", other)
    apply(net, "peers.yaml", bgp_peer("every-node", everybody))
    await reaches(net, *pods)
    apply(net, "peers.yaml")
    await does_not_reach(net, "n1", other)
    apply(net, "peers.yaml", *by_address)
    await reaches(net, *pods)


async def reaches(lab: Lab, source: str, destination: str) -> None:
    """Require that packets get from pod to pod and back, in both families, and that none is lost once they do."""
    for option in ("-4", "-6"):
        await eventually(partial(lab.run, source, "ping", option, "-c1", "-W1", destination), within_s=30)
    async with traffic(lab, source, destination, flows=1) as streams:
        await lab.run(source, "ping", "-c10", "-i0.02", destination)
    assert not any(stream.lost for stream in streams.values()), [*map(str, streams.values())]


async def does_not_reach(lab: Lab, node: str, other: str) -> None:
    """Require that there is no way left between the pods of two nodes, at either end."""
    for here, there in ((node, other), (other, node)):
        await eventually(partial(ways, lab, here), cidrs(there).isdisjoint)


async def test_b15_nodes_with_one_password_carry_traffic_and_with_two_say_why_not(net: Lab, apply: Apply) -> None:
    peers = [
        bgp_peer(
            f"{here}-{there}-{family.label.lower()}",
            {"address": str(net.address(there, family))},
            nodeSelector=only(here),
            peerASN="Internal",
            families=[family.label],
            passwordSecretRef={"name": f"of-{here}", "key": "bgp"},
        )
        for here, there in (("n1", "n2"), ("n2", "n1"))
        for family in Family
    ]
    apply(net, "secrets.yaml", secret("of-n1", bgp="correct-horse"), secret("of-n2", bgp="correct-horse"))
    apply(net, "peers.yaml", *peers)
    ours = addresses(net, "n2")

    async def sessions() -> Mapping[str, tuple[str, str]]:
        return {
            it.peer: (it.origin.partition("/")[0], it.state)
            for it in (await nodes.peers(net, "n1")).values()
            if it.peer in ours
        }

    await eventually(sessions, dict.fromkeys(ours, ("BGPPeer", "Established")).__eq__, within_s=30)
    await reaches(net, "p1", "p2")

    apply(net, "secrets.yaml", secret("of-n1", bgp="correct-horse"), secret("of-n2", bgp="battery-staple"))
    count = await refused_segments(net)
    await eventually(partial(refused_segments, net), lambda now: now >= count + 6, within_s=30)
    # Of n2's farewell n1 hears nothing, once passwords differ: it may take the hold timer to tell.
    await eventually(sessions, dict.fromkeys(ours, ("BGPPeer", "Active")).__eq__, within_s=90)
    await eventually(
        partial(nodes.peers, net, "n1"), lambda now: all("passwords differ" in now[it].reason for it in ours)
    )
    assert "correct-horse" not in net.state.log("n1", "agent").read_text()

    apply(net, "secrets.yaml", secret("of-n1", bgp="battery-staple"), secret("of-n2", bgp="battery-staple"))
    await reaches(net, "p1", "p2")


async def refused_segments(lab: Lab) -> int:
    """Return how many TCP segments the two nodes did not take for their passwords."""
    return sum([await nodes.md5_failures(lab, name) for name in ("n1", "n2")])


@pytest.mark.parametrize("liar", ["n4", "n5"], ids=["bird", "frr"])
async def test_a_node_that_announces_pods_of_another_is_not_believed(net: Lab, family: Family, liar: str) -> None:
    stolen, peer = cidr("n1", family), str(net.address(liar, family))
    inside = "10.42.1.128/25" if family is Family.IPV4 else "fd42:0:0:1:8000::/65"
    before = {name: await ways(net, name) for name in ("n1", "n2", "n3")}
    for prefix in (stolen, inside):
        await net.announce(liar, Announcement.model_validate({"prefix": prefix}))
        for name in ("n1", "n2", "n3"):
            said = "belongs to this node" if name == "n1" else f"belongs to Node n1, not {liar}"
            await eventually(
                partial(nodes.available, net, name, prefix),
                lambda paths, note=f"refused: {prefix} {said}": [
                    (path.used, path.note) for path in paths if path.peer == peer
                ] == [(False, note)],
            )  # fmt: skip
    assert {name: await ways(net, name) for name in before} == before
    for prefix in (stolen, inside):
        await net.withdraw(liar, prefix)


async def test_of_two_nodes_with_overlapping_pod_cidrs_the_first_keeps_them(net: Lab) -> None:
    path = net.state.config / "nodes.yaml"
    before, text = await ways(net, "n3"), path.read_text()
    async with traffic(net, "p3", "p1", flows=1) as streams:
        edit_nodes(net, lambda objects: objects["n2"]["spec"]["podCIDRs"].extend(["10.42.1.64/26", "fd42:0:0:1::/64"]))
        for name in ("n1", "n2", "n3"):
            report = await eventually(partial(nodes.status, net, name), lambda report: len(report.problems) == 2)
            for problem, overlap in zip(
                sorted(report.problems),
                ("10.42.1.64/26 overlaps 10.42.1.0/24", "fd42:0:0:1::/64 overlaps"),
                strict=True,
            ):
                assert problem.startswith("Node n2: spec.podCIDRs")
                assert overlap in problem
                assert "of Node n1, which is older or first by name" in problem
        told = {row.prefix for row in await nodes.advertised(net, "n2")}
        assert told == cidrs("n2")
        assert await ways(net, "n3") == before
        path.write_text(text)
    assert not any(stream.lost for stream in streams.values()), [*map(str, streams.values())]


async def test_a_bridge_killed_six_times_in_a_minute_costs_no_packet_and_no_route(net: Lab) -> None:
    async with (
        route_events(net, *MESH.topology["nodes"]) as events,
        traffic(net, "p1", "p2", flows=1) as streams,
        traffic(net, "p4", "p1", flows=1) as from_bird,
    ):
        for death in range(1, 7):
            nodes.bridge_of(net, "n1").send(signal.SIGKILL)
            await eventually(
                partial(nodes.status, net, "n1"),
                lambda report, death=death: (report.speaker_restarts, report.sessions_established) == (death, 8),
                within_s=40,
            )
            await eventually(partial(bridge_runs, net))
            # Who goes again before it has said everything anew is not waited for twice (RFC 4724 section 4.2).
            await eventually(partial(has_heard_all, net, "n4"))
            await eventually(partial(stale_paths, net, "n2", "n3"), (0).__eq__)
    assert not any(it.lost for it in (*streams.values(), *from_bird.values())), [
        *map(str, (*streams.values(), *from_bird.values()))
    ]
    assert not any(it.lines for it in events.values()), [*map(str, events.values())]
    assert "restarted 6 times" in await nodes.tortie(net, "n1", "status")


async def has_heard_all(lab: Lab, bird: str) -> bool:
    """Whether BIRD waits for no End-of-RIB of somebody who restarted; of a route it does not say that it is stale."""
    return "graceful restart active" not in await lab.daemon(bird).ask("show", "protocols", "all")


async def stale_paths(lab: Lab, *names: str) -> int:
    """Return how many paths nodes of ours keep for somebody who has not said them again yet."""
    reports = [report for name in names for report in (await nodes.peers(lab, name)).values()]
    return sum(family.stale for report in reports for family in report.families)


def bridge_runs(lab: Lab) -> bool:
    """Whether the node's speaker is whole. Raises OSError while it is not."""
    return nodes.bridge_of(lab, "n1").is_alive
