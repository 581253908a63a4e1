from __future__ import annotations

from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from agent.lab.addressing import LinkAddresses, PortAddress, choose
from agent.lab.topology import Topology
from inet.prefix import Family

NETWORK = {Family.IPV4: 24, Family.IPV6: 64}


def chosen(*links: Any, routers: int = 2, nodes: int = 3, **more: Any) -> tuple[LinkAddresses, ...]:
    """Return the addresses of links between routers r1, r2, ... and nodes n1, n2, ..."""
    return choose(
        Topology.model_validate(
            {
                "name": "t",
                "routers": {f"r{i}": {"daemon": "bird", "asn": 65000 + i} for i in range(1, routers + 1)},
                "nodes": {f"n{i}": {} for i in range(1, nodes + 1)},
                "links": list(links),
                **more,
            }
        )
    )


def of(family: Family, addresses: tuple[PortAddress, ...]) -> str:
    """Return the port's address of a family, as `ip addr add` takes it."""
    (found,) = [str(address) for address in addresses if address.family is family]
    return found


def test_a_node_is_its_number_and_ten_in_the_subnet_of_its_router(family: Family) -> None:
    (link,) = chosen(["n3", "r2"])
    assert of(family, link["n3"]) == {Family.IPV4: "172.16.2.13/24", Family.IPV6: "fd16:2::13/64"}[family]


def test_a_router_has_one_address_and_each_node_as_its_peer(family: Family) -> None:
    first, second = chosen(["n1", "r1"], ["r1", "n2"])
    expected = {
        Family.IPV4: ["172.16.1.1 peer 172.16.1.11/32", "172.16.1.1 peer 172.16.1.12/32"],
        Family.IPV6: ["fd16:1::1 peer fd16:1::11/128", "fd16:1::1 peer fd16:1::12/128"],
    }
    assert [of(family, link["r1"]) for link in (first, second)] == expected[family]


@pytest.mark.parametrize("ends", [["r1", "r2"], ["n1", "n2"]], ids=["routers", "nodes"])
def test_a_cable_between_equals_has_a_subnet_of_its_own(ends: list[str], family: Family) -> None:
    first, second = chosen(ends, ends)
    expected = {
        Family.IPV4: [("172.31.0.0/31", "172.31.0.1/31"), ("172.31.0.2/31", "172.31.0.3/31")],
        Family.IPV6: [("fd31::1/64", "fd31::2/64"), ("fd31:1::1/64", "fd31:1::2/64")],
    }
    assert [tuple(of(family, link[end]) for end in ends) for link in (first, second)] == expected[family]


def test_a_second_cable_between_the_same_two_is_another_subnet(family: Family) -> None:
    first, again, other = chosen(["n1", "r1"], ["r1", "n1"], ["n1", "r2"])
    assert of(family, first["n1"]).startswith(("172.16.1.", "fd16:1:"))
    assert of(family, again["n1"]) == {Family.IPV4: "172.31.0.1/31", Family.IPV6: "fd31::2/64"}[family]
    assert of(family, other["n1"]).startswith(("172.16.2.", "fd16:2:"))


def test_switches_have_the_subnets_after_the_routers(family: Family) -> None:
    first, second = chosen(["n1", "r2", "n3"], ["r1", "r2", "n2"])
    expected = {
        Family.IPV4: {"n1": "172.16.3.11/24", "r2": "172.16.3.1/24", "n3": "172.16.3.13/24"},
        Family.IPV6: {"n1": "fd16:3::11/64", "r2": "fd16:3::1/64", "n3": "fd16:3::13/64"},
    }
    assert {end: of(family, addresses) for end, addresses in first.items()} == expected[family]
    assert of(family, second["r2"]) == {Family.IPV4: "172.16.4.2/24", Family.IPV6: "fd16:4::2/64"}[family]


def test_addresses_that_are_given_are_all_there_are() -> None:
    given = {"ends": ["n1", "r1"], "addresses": {"r1": ["10.0.0.1/30", "2001:db8::1/127"]}}
    link, after = chosen(given, ["n1", "r1"])
    assert link == {
        "n1": (),
        "r1": (PortAddress(ip_address("10.0.0.1"), 30), PortAddress(ip_address("2001:db8::1"), 127)),
    }
    assert of(Family.IPV4, after["n1"]) == "172.31.0.0/31"  # the second cable between these two


@pytest.mark.parametrize("links", [["n1", "r1"], ["n1", "n2"], ["n1", "n2", "r1"]], ids=["router", "cable", "switch"])
def test_a_lab_of_one_family_has_addresses_of_that_alone(links: list[str], family: Family) -> None:
    (link,) = chosen(links, families=[family.label])
    assert {address.family for addresses in link.values() for address in addresses} == {family}
    assert {len(addresses) for addresses in link.values()} == {1}


def test_counting_goes_on_where_an_octet_ends() -> None:
    crowd = [["n1", f"r{i}"] for i in (239, 240)]
    links = chosen(*crowd, ["n1", "n2", "n3"], routers=256)
    assert of(Family.IPV4, links[0]["n1"]) == "172.16.239.11/24"
    assert [of(family, links[-1]["n1"]) for family in Family] == ["172.17.1.11/24", "fd16:257::11/64"]


def test_the_hundred_and_twenty_ninth_cable_is_in_the_next_subnet() -> None:
    links = chosen(*(["n1", "n2"] for _ in range(130)))
    last = [[of(family, links[i][end]) for end in ("n1", "n2")] for i in (127, 128) for family in Family]
    assert last == [
        ["172.31.0.254/31", "172.31.0.255/31"],
        ["fd31:127::1/64", "fd31:127::2/64"],
        ["172.31.1.0/31", "172.31.1.1/31"],
        ["fd31:128::1/64", "fd31:128::2/64"],
    ]


def test_both_ends_of_every_link_are_in_one_subnet_and_no_two_links_of_a_machine_are(family: Family) -> None:
    pairs = [[f"n{n}", f"r{r}"] for n in (1, 2, 3) for r in (1, 2)]
    links = chosen(*pairs, *pairs, ["r1", "r2"], ["n1", "n2"], ["n1", "n2", "r1"], ["n2", "n3", "r2"])
    seen: set[tuple[str, object]] = set()
    for link in links:
        networks = set()
        for end, addresses in link.items():
            (address,) = [each for each in addresses if each.family is family]
            length = NETWORK[family] if address.peer else address.length
            network = ip_interface(f"{address.local}/{length}").network
            networks.add(network)
            if not address.peer:  # a router's ports share its address on purpose
                assert (end, network) not in seen
                seen.add((end, network))
        assert len(networks) == 1
        locals_ = [each.local for addresses in link.values() for each in addresses if each.family is family]
        assert len(set(locals_)) == len(locals_)
