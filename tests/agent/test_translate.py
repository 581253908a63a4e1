from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent.objects.kinds import KINDS, Keyed, decode, key_of, kind_of
from agent.objects.model import Key
from agent.translate import Translator, problem_of, translate
from bgp import config
from bgp.import_rules import PrefixRange
from inet.prefix import Family, Prefix, parse_address

NODES = """
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {rack: a}, creationTimestamp: "2026-01-01T00:00:00Z"}
spec: {podCIDRs: [10.42.0.0/24, "fd42::/64"]}
status:
  addresses:
  - {type: InternalIP, address: 172.16.0.1}
  - {type: InternalIP, address: "fd00::1"}
  - {type: Hostname, address: n1}
---
apiVersion: v1
kind: Node
metadata: {name: n2, labels: {rack: b}}
spec: {podCIDR: 10.42.1.0/24}
status: {addresses: [{type: InternalIP, address: 172.16.0.2}]}
"""


def objects(text: str) -> list[Keyed]:
    made = []
    for document in yaml.safe_load_all(text):
        kind = kind_of(document)
        assert kind is not None
        made.append(decode(kind, key_of(kind, document), document))
    return made


def of_ours(kind: str, name: str, **spec: Any) -> str:
    return "\n---\n" + yaml.safe_dump(
        {"apiVersion": "tortie.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    )


def test_no_object_but_nodes_is_a_working_cluster() -> None:
    made, complaints = translate(objects(NODES))
    assert complaints == ()
    assert made.mesh_enabled
    assert made.graceful_restart_time_s == 120
    n1 = made.nodes["n1"]
    assert n1.asn == 64512
    assert n1.pod_cidrs == (Prefix.parse("10.42.0.0/24"), Prefix.parse("fd42::/64"))
    assert n1.addresses == (parse_address("172.16.0.1"), parse_address("fd00::1"))
    assert made.nodes["n2"].pod_cidrs == (Prefix.parse("10.42.1.0/24"),)


def test_a_profile_gives_the_nodes_it_selects_another_as() -> None:
    text = NODES + of_ours("BGPNodeProfile", "a", nodeSelector={"matchLabels": {"rack": "a"}}, localASN=65001)
    made, _ = translate(objects(text))
    assert (made.nodes["n1"].asn, made.nodes["n2"].asn) == (65001, 64512)


def test_of_two_profiles_that_say_the_same_thing_the_first_wins_and_the_other_is_told() -> None:
    text = NODES + of_ours("BGPNodeProfile", "b", localASN=65002) + of_ours("BGPNodeProfile", "a", localASN=65001)
    made, complaints = translate(objects(text))
    assert made.nodes["n1"].asn == 65001
    (complaint,) = complaints
    assert str(problem_of(complaint)) == (
        "BGPNodeProfile b: spec.localASN: BGPNodeProfile a, which is older or first by name, sets it for some of "
        "the same nodes. On those the other one's value is in force."
    )


def test_source_addresses_replace_the_nodes_own_of_that_family_alone() -> None:
    made, _ = translate(objects(NODES + of_ours("BGPNodeProfile", "p", sourceAddresses=["192.0.2.1"])))
    assert made.nodes["n1"].addresses == (parse_address("192.0.2.1"), parse_address("fd00::1"))


def test_a_peer_is_resolved_to_the_nodes_its_selector_matches() -> None:
    text = NODES + of_ours(
        "BGPPeer",
        "tor",
        nodeSelector={"matchExpressions": [{"key": "rack", "operator": "NotIn", "values": ["b"]}]},
        peer={"address": "172.16.0.254"},
        peerASN=65100,
        ttlSecurity={"hops": 1},
        families=["IPv4"],
        nextHop="Self",
        shutdown={"message": "cable work"},
        **{"import": {"accept": [{"cidr": "0.0.0.0/0", "maxLength": 0}], "maxPrefixes": 7}},
    )
    (peering,) = translate(objects(text))[0].peerings
    assert peering.nodes == {"n1"}
    assert peering.address == parse_address("172.16.0.254")
    assert peering.asn == 65100
    assert peering.ttl_security_hops == 1
    assert peering.families == {Family.IPV4}
    assert peering.next_hop is config.NextHopMode.SELF
    assert peering.accept == (PrefixRange(Prefix.parse("0.0.0.0/0"), 0, 0),)
    assert peering.max_prefixes == 7
    assert peering.shutdown == "cable work"


@pytest.mark.parametrize(("value", "made"), [("Internal", config.RelativeAsn.INTERNAL), (4200000000, 4200000000)])
def test_a_peers_as_is_a_number_or_a_relation(value: int | str, made: object) -> None:
    text = NODES + of_ours("BGPPeer", "tor", peer={"address": "fd00::254"}, peerASN=value)
    assert translate(objects(text))[0].peerings[0].asn == made


def test_a_peer_of_nodes_names_both_choices() -> None:
    text = NODES + of_ours(
        "BGPPeer",
        "rr",
        nodeSelector={"matchLabels": {"rack": "a"}},
        peer={"nodeSelector": {"matchLabels": {"rack": "b"}}},
    )
    (peering,) = translate(objects(text))[0].peerings
    assert (peering.nodes, peering.peer_nodes) == ({"n1"}, {"n2"})


def test_secrets_are_found_by_name_and_key_and_show_nothing() -> None:
    text = (
        NODES
        + "\n---\n"
        + yaml.safe_dump(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bgp"}, "stringData": {"mesh": "hunter2"}}
        )
    )
    made, _ = translate(
        objects(
            text
            + of_ours("BGPConfiguration", "default", nodeMesh={"passwordSecretRef": {"name": "bgp", "key": "mesh"}})
        )
    )
    assert made.mesh_password is not None
    assert made.secrets[made.mesh_password].reveal() == "hunter2"
    assert "hunter2" not in repr(made)


def test_the_singletons_fill_in_what_holds_everywhere() -> None:
    text = (
        NODES
        + of_ours("NetworkConfiguration", "default", podCIDRs=["10.42.0.0/16"], serviceCIDRs=["10.43.0.0/16"])
        + of_ours(
            "BGPConfiguration",
            "default",
            gracefulRestart={"enabled": False},
            maxPaths=2,
            resilientMultipath=True,
            timers={"holdTimeSeconds": 9},
        )
    )
    made, _ = translate(objects(text))
    assert made.pod_cidrs == (Prefix.parse("10.42.0.0/16"),)
    assert made.service_cidrs == (Prefix.parse("10.43.0.0/16"),)
    assert made.graceful_restart_time_s is None
    assert made.max_paths == 2
    assert made.resilient_multipath
    assert made.timers == config.Timers(9, 3, 10)


def test_a_secret_of_another_namespace_is_none_of_ours() -> None:
    document = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bgp", "namespace": "shop"}}
    made, _ = translate(objects(NODES + "\n---\n" + yaml.safe_dump(document | {"stringData": {"mesh": "theirs"}})))
    assert not made.secret_names


def test_nothing_said_about_ways_is_bgp_without_tunnels() -> None:
    made, _ = translate(objects(NODES))
    assert made.node_routes is config.NodeRoutes.BGP
    assert made.encapsulation_of("n1", Family.IPV4).mode is config.EncapsulationMode.NEVER


def test_encapsulation_and_its_overrides_are_resolved_to_nodes_and_families() -> None:
    spec = {
        "nodeRoutes": "Direct",
        "encapsulation": {
            "mode": "Fallback",
            "type": "IPIP",
            "vni": 77,
            "port": 8472,
            "overrides": [
                {"name": "v6", "podCIDRs": ["fd42::/48"], "mode": "Never"},
                {"name": "rack-b", "nodeSelector": {"matchLabels": {"rack": "b"}}, "mode": "Always", "type": "VXLAN"},
                {"name": "rest", "mode": "Always"},
            ],
        },
    }
    made, _ = translate(objects(NODES + of_ours("NetworkConfiguration", "default", **spec)))
    never, fallback, always = config.EncapsulationMode
    vxlan, ipip = config.TunnelType
    assert made.node_routes is config.NodeRoutes.DIRECT
    assert (made.vxlan_vni, made.vxlan_port) == (77, 8472)
    assert made.encapsulation == config.Encapsulation(fallback, ipip, 3)
    assert made.encapsulation_of("n1", Family.IPV6) == config.Encapsulation(never, ipip, 0)
    assert made.encapsulation_of("n1", Family.IPV4) == config.Encapsulation(always, ipip, 2)
    assert made.encapsulation_of("n2", Family.IPV4) == config.Encapsulation(always, vxlan, 1)
    assert made.encapsulation_of("n9", Family.IPV4) == made.encapsulation


# Objects that change

PROFILE = {"nodeSelector": {"matchLabels": {"rack": "a"}}}
SETTINGS = (
    ("BGPNodeProfile", "p1", {**PROFILE, "localASN": 65001}),
    ("BGPNodeProfile", "p2", {**PROFILE, "localASN": 65002}),
    ("BGPPeer", "tor", {**PROFILE, "peer": {"address": "192.0.2.1"}, "peerASN": 65100}),
    ("BGPPeer", "rack", {"peer": PROFILE}),
    (
        "NetworkConfiguration",
        "default",
        {"encapsulation": {"overrides": [{"name": "a", **PROFILE, "mode": "Always", "podCIDRs": ["10.42.0.0/23"]}]}},
    ),
)


def node_object(number: int, rack: str, cidr: int) -> Keyed:
    cidrs = [f"10.42.{cidr}.0/24", f"fd42:0:0:{cidr:x}::/64"]
    addresses = [{"type": "InternalIP", "address": text} for text in (f"172.16.0.{number}", f"fd00::{number}")]
    metadata = {"name": f"n{number}", "labels": {"rack": rack}}
    document = {"metadata": metadata, "spec": {"podCIDRs": cidrs}, "status": {"addresses": addresses}}
    return decode(KINDS["Node"], key_of(KINDS["Node"], document), document)


def changes() -> st.SearchStrategy[tuple[list[Keyed], set[Key]]]:
    """Some objects that are new or others than before, and some that are gone."""
    nodes = st.builds(node_object, st.integers(1, 3), st.sampled_from("ab"), st.integers(0, 3))
    settings = st.sampled_from(SETTINGS).map(lambda said: objects(of_ours(said[0], said[1], **said[2]))[0])
    items = st.lists(st.one_of(nodes, settings), max_size=3)
    return st.tuples(items, items.map(lambda found: {each.key for each in found}))


@given(st.lists(changes(), max_size=6))
def test_translated_change_by_change_it_is_what_all_objects_come_to(steps: list[tuple[list[Keyed], set[Key]]]) -> None:
    translator, every = Translator(), dict[Key, Keyed]()
    for new, gone in steps:
        changed = {each.key: each for each in new if each.key not in gone}
        every = {key: each for key, each in {**every, **changed}.items() if key not in gone}
        translator.take(changed, gone)
        assert translator.config() == translate(every.values())


def test_a_label_that_nobody_asks_for_changes_nothing() -> None:
    translator = Translator()
    translator.take({each.key: each for each in (node_object(1, "a", 0), node_object(2, "a", 1))})
    before, _ = translator.config()
    other = node_object(2, "b", 1)
    translator.take({other.key: other})
    assert translator.config()[0] is before
