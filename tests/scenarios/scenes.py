"""The three networks that the scenarios play in, each with BIRD, FRR or GoBGP at the other end.

ROUTERS  one node, a transit one, among routers of every make: three of other AS, three of its own that only listen
MESH     three nodes, and two that are not ours (BIRD, FRR), all on one switch, each peering with each
RACKS    three nodes of two racks, every one linked to both of two routers (BIRD, FRR), as docs/peering.md has it
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agent.lab.plan import plan
from agent.lab.topology import parse
from inet.prefix import family_of
from tests.scenarios.manifests import Manifest, bgp_configuration, bgp_node_profile, bgp_peer, secret
from tests.scenarios.nodes import TORTIE

DAEMONS: Final = ("bird", "frr", "gobgp")


@dataclass(frozen=True)
class Scene:
    """A topology with the manifests it starts with, and what has to be there before a test may begin."""

    name: str
    topology: Mapping[str, Any]
    manifests: Mapping[str, Sequence[Manifest]]
    sessions: Mapping[str, int]  # of each agent
    ways: int  # next hops of each kernel route between pods of two nodes

    def variant(self, name: str, **more: Any) -> Manifest:
        """Return the one object of NAME.yaml with this in its spec."""
        (manifest,) = self.manifests[f"{name}.yaml"]
        return {**manifest, "spec": {**manifest["spec"], **more}}


def _routers() -> Scene:
    own_asn, password = 65000, "battery-staple"
    routers: dict[str, dict[str, Any]] = {}
    for number, daemon in enumerate(DAEMONS, 1):
        routers[f"ext-{daemon}"] = {
            "daemon": daemon,
            "asn": 65000 + number,
            "announce": [f"198.18.{number}.0/24", f"2001:db8:{number}::/48"],
            "gracefulRestart": False,
            "holdTimeSeconds": 90,
        }
    for number, daemon in enumerate(DAEMONS, 4):
        routers[f"int-{daemon}"] = {
            "daemon": daemon,
            "asn": own_asn,
            "announce": [f"198.18.{number}.0/24", f"2001:db8:{number}::/48"],
            "passive": True,
            "password": password,
            "holdTimeSeconds": 90,
        }
    # For scenarios that need many: `enable many`.
    routers["ext-bird"]["config"] = "\n".join(
        ["protocol static many {", "  disabled;", "  ipv6;"]
        + [f"  route 2001:db8:{number:x}::/48 blackhole;" for number in range(0x1000, 0x1000 + 300)]
        + ["}"]
    )
    # Else BIRD takes no route whose next hop is not on the link of the session.
    routers["int-bird"]["session"] = "multihop 64;"
    topology = {
        "name": "routers",
        "routers": routers,
        "nodes": {"n1": {"asn": own_asn, "podCIDRs": ["10.42.0.0/24", "fd42::/64"], "pods": ["a1"]}},
        "links": [["n1", router] for router in routers],
    }
    peerings = list(_peerings(topology))
    return Scene(
        "routers",
        topology,
        {
            "cluster.yaml": [
                bgp_configuration(
                    localASN=own_asn,
                    nodeMesh={"enabled": False},
                    timers={"holdTimeSeconds": 90, "connectRetryTimeSeconds": 1},
                    **{"import": {"accept": [{"cidr": "198.18.0.0/15"}, {"cidr": "2001:db8::/32"}]}},
                )
            ],
            "transit.yaml": [bgp_node_profile("transit", transit=True)],
            "secret.yaml": [secret("bgp", bird=password, frr=password, gobgp=password)],
            **{f"{peering['metadata']['name']}.yaml": [peering] for peering in peerings},
        },
        sessions={"n1": len(peerings)},
        ways=1,
    )


def _peerings(topology: Mapping[str, Any]) -> Iterator[Manifest]:
    """Yield a BGPPeer for each session that the routers are configured for."""
    for router, speaker in plan(parse(topology)).speakers.items():
        for neighbour in speaker.neighbours:
            spec: dict[str, Any] = {"families": [family.label for family in neighbour.families]}
            if speaker.password is not None:
                spec["passwordSecretRef"] = {"name": "bgp", "key": speaker.daemon}
            name = f"{router}-{family_of(neighbour.local).label.lower()}"
            yield bgp_peer(name, {"address": str(neighbour.local)}, peerASN=speaker.asn, **spec)


def _mesh() -> Scene:
    asn = 64512
    nodes: dict[str, dict[str, Any]] = {
        f"n{number}": {
            "asn": asn,
            "podCIDRs": [f"10.42.{number}.0/24", f"fd42:0:0:{number}::/64"],
            "pods": [f"p{number}"],
        }
        for number in range(1, 6)
    }
    # One is told its name as a container is, by its environment.
    by_environment = ("env", "NODE_NAME={node}", TORTIE, "agent", "--config", "{config}", "--run-dir", "{run_dir}")
    nodes["n3"]["command"] = by_environment
    nodes["n4"]["daemon"] = "bird"
    nodes["n5"]["daemon"] = "frr"
    return Scene(
        "mesh",
        {"name": "mesh", "nodes": nodes, "links": [list(nodes)]},
        {"cluster.yaml": [bgp_configuration(localASN=asn)]},
        sessions=dict.fromkeys(("n1", "n2", "n3"), 8),
        ways=1,
    )


def _racks() -> Scene:
    nodes = {
        f"n{number}": {
            "labels": {"rack": rack},
            "podCIDRs": [f"10.42.{number}.0/24", f"fd42:0:0:{number}::/64"],
            "pods": [f"p{number}"],
        }
        for number, rack in ((1, "a"), (2, "a"), (3, "b"))
    }
    routers = {"tor-1": {"daemon": "bird", "asn": 65100}, "tor-2": {"daemon": "frr", "asn": 65100}}
    return Scene(
        "racks",
        {
            "name": "racks",
            "routers": routers,
            "nodes": nodes,
            "links": [[node, router] for node in nodes for router in routers],
        },
        {
            "cluster.yaml": [
                bgp_configuration(
                    nodeMesh={"enabled": False}, timers={"holdTimeSeconds": 12, "connectRetryTimeSeconds": 1}
                )
            ],
            "racks.yaml": [
                bgp_node_profile(f"rack-{rack}", nodeSelector={"matchLabels": {"rack": rack}}, localASN=asn)
                for rack, asn in (("a", 65001), ("b", 65002))
            ],
            **{
                f"tor-{number}.yaml": [
                    bgp_peer(f"tor-{number}", {"address": f"172.16.{number}.1"}, peerASN=65100, families=["IPv4"]),
                    bgp_peer(f"tor-{number}-ipv6", {"address": f"fd16:{number}::1"}, peerASN=65100, families=["IPv6"]),
                ]
                for number in (1, 2)
            },
        },
        sessions=dict.fromkeys(nodes, 4),
        ways=2,
    )


ROUTERS: Final = _routers()
MESH: Final = _mesh()
RACKS: Final = _racks()
