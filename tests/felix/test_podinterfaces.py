from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from felix.namespaces import entered
from felix.podinterfaces import LinkGroups, aliased_links, host_route_addresses, pod_links
from inet.prefix import Family, parse_address
from tests.felix.netns import Node

pytestmark = pytest.mark.kernel


def pod_address(family: Family) -> str:
    return "10.42.0.2" if family is Family.IPV4 else "fd42::2"


@pytest.mark.parametrize("family", Family, ids=lambda family: family.label)
async def test_a_pods_link_is_the_one_its_own_route_leaves_by(node: Node, family: Family) -> None:
    address = pod_address(family)
    packed = parse_address(address).packed
    node.ip(f"route add {address} dev a1")
    assert await pod_links([packed]) == {packed: node.interface(1)}


@pytest.mark.parametrize("family", Family, ids=lambda family: family.label)
async def test_a_less_exact_route_or_one_through_a_gateway_makes_no_pod_link(node: Node, family: Family) -> None:
    address = pod_address(family)
    network, gateway = ("10.42.0.0/24", "10.0.1.2") if family is Family.IPV4 else ("fd42::/64", "fd00:2::2")
    node.ip(f"route add {network} dev a0")
    node.ip(f"route add {address} via {gateway}")
    assert await pod_links([parse_address(address).packed]) == {}


async def test_a_link_joins_a_group_and_one_that_is_gone_does_not(node: Node) -> None:
    with closing(LinkGroups()) as groups:
        assert await groups.join(node.interface(0), 97)
        assert await groups.join(node.interface(0), 97)
        assert not await groups.join(9999, 97)
    assert "group 97" in node.ip("link show a0")
    assert "group default" in node.ip("link show a1")


async def test_a_links_alias_group_and_addresses_are_found_again(node: Node) -> None:
    addresses = {parse_address(pod_address(family)).packed for family in Family}
    for family in Family:
        node.ip(f"route add {pod_address(family)} dev a1")
    node.ip("addr add 10.42.0.1/32 dev a1")
    node.ip("addr add fd42::1/128 dev a1 nodad")
    node.ip("link set a0 alias uplink")
    with closing(LinkGroups()) as groups:
        assert await groups.join(node.interface(1), 97, "tortie x/b")
        assert await groups.join(node.interface(1), 97)
    found = {link.interface: link for link in await aliased_links()}
    assert found.keys() == {node.interface(0), node.interface(1)}
    assert found[node.interface(0)][1:] == (0, "uplink", ())
    pod = found[node.interface(1)]
    assert (pod.group, pod.alias, set(pod.addresses)) == (97, "tortie x/b", addresses)
    assert addresses <= await host_route_addresses()


async def test_an_alias_of_255_bytes_fits(node: Node) -> None:
    with closing(LinkGroups()) as groups:
        assert await groups.join(node.interface(0), 97, "a" * 255)
    assert "alias " + "a" * 255 in node.ip("link show a0")


def _have_addresses_looked_for(node: Node) -> None:
    with entered(node.name):
        Path("/proc/sys/net/ipv6/conf/a0/accept_dad").write_text("1", encoding="ascii")


async def test_a_tentative_address_is_made_usable_and_others_are_left_alone(node: Node) -> None:
    _have_addresses_looked_for(node)
    node.ip("addr add fd42::1/128 dev a0")
    assert "tentative" in node.ip("-6 addr show dev a0 to fd42::1")
    with closing(LinkGroups()) as groups:
        await groups.settle(node.interface(0))
    shown = node.ip("-6 addr show dev a0")
    assert "fd42::1/128 scope global nodad" in shown
    assert "tentative" not in node.ip("-6 addr show dev a0 to fd42::1")
    assert "fd00:1::1/64" in shown
