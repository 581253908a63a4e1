from __future__ import annotations

from bgp.config import BgpConfig, Node
from inet.prefix import Family, parse_address
from tests.bgp.builders import V4, V6, node, peering


def test_a_nodes_address_is_the_first_of_its_family() -> None:
    texts = ["192.168.0.1", "192.168.0.2", "fd00::1", "fd00::2"]
    found = node(1, addresses=tuple(map(parse_address, texts)))
    assert found.address(Family.IPV4) == parse_address("192.168.0.1")
    assert found.address(Family.IPV6) == parse_address("fd00::1")
    assert node(1, families=[Family.IPV4]).address(Family.IPV6) is None


def test_a_nodes_families_are_those_of_its_pods() -> None:
    assert node(1).families == {Family.IPV4, Family.IPV6}
    assert node(1, pod_cidrs=(V6.cidr(1),)).families == {Family.IPV6}
    assert node(1, pod_cidrs=()).families == frozenset()


def test_equal_configurations_compare_equal() -> None:
    def config() -> BgpConfig:
        return BgpConfig(nodes={"n1": node(1)}, peerings=(peering(address="172.16.1.1"),), pod_cidrs=(V4.cluster,))

    assert config() == config()
    assert config() != BgpConfig(nodes={"n1": node(1)})


def test_a_node_is_no_transit_unless_it_is_made_one() -> None:
    assert not Node("n1", (), (), 64512).is_transit


def test_a_peering_is_named_as_people_wrote_it() -> None:
    assert peering("rack-a-tor-1").label == "BGPPeer/rack-a-tor-1"
