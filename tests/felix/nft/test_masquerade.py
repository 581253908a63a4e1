"""What outgoing NAT says, and what packets then look like from outside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from felix.nft.elements import Interval
from felix.nft.enforcement import Content, Enforcement
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.library import Library
from felix.nft.masquerade import BASE_CHAIN, Masquerade, render, untranslated
from inet.prefix import Family, Prefix
from tests.felix.netns import built
from tests.felix.nft.outside import (
    BRIDGE,
    EXCLUDED,
    INTERNET,
    LEARNED,
    OTHER_NODE,
    PORT,
    REMOTE_POD,
    UPLINKS,
    WANTED,
    World,
    prefixes,
    run,
)
from tests.felix.nft.pods import OWN


def packed(text: str) -> bytes:
    return ip_address(text).packed


def test_without_pods_to_translate_there_is_nothing_in_the_table() -> None:
    assert render(Masquerade(cluster=prefixes("10.0.0.0/8"))) == Content({}, {})


def test_a_family_without_pods_has_neither_chain_nor_set() -> None:
    content = render(Masquerade(pods=prefixes("fd64::/64")))
    assert content.chains.keys() == {BASE_CHAIN, "nat_out6"}
    assert all(name.endswith("6") for name in content.sets)


def test_prefixes_that_overlap_become_intervals_that_do_not() -> None:
    both = prefixes("10.64.0.0/16", "10.64.1.0/24", "10.65.0.0/16", "172.16.1.11/32")
    elements = render(Masquerade(pods=both, cluster=both)).sets["nat_cluster4"].elements
    assert elements.keys() == {
        Interval(packed("10.64.0.0"), packed("10.65.255.255")),
        Interval(packed("172.16.1.11"), packed("172.16.1.11")),
    }


PREFIXES = st.builds(
    lambda family, value, length: Prefix(value.to_bytes(16)[: family.bits // 8], family.bits).shortened(
        min(length, family.bits)
    ),
    st.sampled_from(list(Family)),
    st.integers(0, 2**128 - 1) | st.integers(0, 3).map(lambda top: top << 126),
    st.integers(0, 128),
)


@given(st.lists(PREFIXES, max_size=8), st.lists(PREFIXES, min_size=1, max_size=4))
def test_an_address_is_in_a_set_where_it_is_in_one_of_its_prefixes(all_: list[Prefix], asked: list[Prefix]) -> None:
    sets = render(Masquerade(pods=prefixes("0.0.0.0/0", "::/0"), excluded=tuple(all_))).sets
    for address in (prefix.packed for prefix in asked):
        elements = sets["nat_excluded4" if len(address) == 4 else "nat_excluded6"].elements
        inside = [each for each in elements if isinstance(each, Interval) and each.first <= address <= each.last]
        assert len(inside) == any(prefix.holds(ip_address(address)) for prefix in all_)


@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)
def test_why_a_packet_keeps_its_source_is_said(family: Family) -> None:
    pod = packed("10.64.1.11" if family is Family.IPV4 else "fd64:1::11")
    wanted = replace(WANTED, opted_out=frozenset({packed("10.64.1.12"), packed("fd64:1::12")}))
    reasons = [untranslated(wanted, pod, packed(each[family])) for each in (REMOTE_POD, OTHER_NODE, EXCLUDED, LEARNED)]
    assert [each.split(":")[0] for each in reasons] == [
        "the destination is in the cluster",
        "the destination is in the cluster",
        "the destination is excluded",
        "the destination is learned over BGP",
    ]
    other_pod = packed("10.64.1.12" if family is Family.IPV4 else "fd64:1::12")
    assert untranslated(wanted, other_pod, packed(INTERNET[family])) == "the pod is opted out of outgoing NAT"
    assert untranslated(wanted, packed(OWN[family]), packed(INTERNET[family])).startswith("the source is no pod")
    assert not untranslated(wanted, pod, packed(INTERNET[family]))


# Packets


@pytest.fixture
def world() -> Iterator[World]:
    """The test runs inside the node's namespace."""
    with built(World()) as world:
        yield world


@pytest.fixture
def keeper(library: Library, world: World) -> Iterator[Enforcement]:  # noqa: ARG001 - inside its namespace
    table = KernelRuleTable(library)
    yield Enforcement(table)
    table.close()


async def enforce(keeper: Enforcement, wanted: Masquerade) -> None:
    assert not (await keeper.sync(render(wanted))).refusals


@pytest.mark.kernel
async def test_only_what_leaves_the_cluster_leaves_under_the_nodes_address(
    world: World, keeper: Enforcement, family: Family
) -> None:
    await enforce(keeper, replace(WANTED, opted_out=frozenset({world.packed(family, 1)})))
    own = world.address(family, 0)
    assert world.seen(family, 0, INTERNET[family])[0] == UPLINKS[0][family]
    for kept in (REMOTE_POD, OTHER_NODE, EXCLUDED, LEARNED):
        assert world.seen(family, 0, kept[family])[0] == own
    neighbour = world.address(family, 2)
    assert world.seen(family, 0, neighbour, server=(world.pods[2], neighbour, PORT))[0] == own
    assert world.seen(family, 1, INTERNET[family])[0] == world.address(family, 1), "it is opted out"


@pytest.mark.kernel
async def test_the_nodes_own_traffic_is_never_translated(world: World, keeper: Enforcement, family: Family) -> None:
    await enforce(keeper, WANTED)
    assert world.seen(family, None, INTERNET[family], bound=OWN[family])[0] == OWN[family]
    assert world.seen(family, None, INTERNET[family], bound=BRIDGE[family])[0] == BRIDGE[family]


@pytest.mark.kernel
async def test_traffic_in_transit_is_never_translated(world: World, keeper: Enforcement, family: Family) -> None:
    await enforce(keeper, WANTED)
    pod = world.address(family, 0)
    seen = world.seen(family, world.outside, pod, server=(world.pods[0], pod, PORT), bound=INTERNET[family])
    assert seen[0] == INTERNET[family]


@pytest.mark.kernel
async def test_source_ports_are_of_the_range(world: World, keeper: Enforcement, family: Family) -> None:
    await enforce(keeper, replace(WANTED, ports=(20000, 20009)))
    ports = {world.seen(family, 0, INTERNET[family])[1] for _ in range(5)}
    assert ports <= set(range(20000, 20010))
    ours, theirs = world.connected(family, 0, INTERNET[family])
    with ours, theirs:
        assert theirs.getpeername()[0] == UPLINKS[0][family]
        assert theirs.getpeername()[1] in range(20000, 20010)
    ping = ["ping", "-c", "1", "-W", "10", INTERNET[family]]
    run("ip", "netns", "exec", world.pods[0], *ping)  # it has no ports, and is translated nevertheless


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("addresses", "lives"), [({}, False), ({family: packed(OWN[family]) for family in Family}, True)]
)
async def test_a_connection_outlives_its_uplink_under_the_address_of_the_node(
    world: World, keeper: Enforcement, family: Family, addresses: dict[Family, bytes], lives: bool
) -> None:
    await enforce(keeper, replace(WANTED, addresses=addresses))
    ours, theirs = world.connected(family, 0, INTERNET[family])
    with ours, theirs:
        ours.sendall(b"one")
        assert theirs.recv(16) == b"one"
        assert (theirs.getpeername()[0] == OWN[family]) is lives
        for namespace, link in ((world.name, "u0"), (world.outside, "o0")):
            run("ip", "-n", namespace, "link", "set", link, "down")
        ours.settimeout(2)
        theirs.settimeout(2 if not lives else 10)
        ours.sendall(b"two")
        if lives:
            assert theirs.recv(16) == b"two"
        else:
            with pytest.raises(TimeoutError):
                theirs.recv(16)
    assert world.seen(family, 0, INTERNET[family])[0] == (OWN[family] if lives else UPLINKS[1][family])


@pytest.mark.kernel
async def test_established_connections_keep_their_address_whatever_is_changed(
    world: World, keeper: Enforcement, family: Family
) -> None:
    await enforce(keeper, WANTED)
    ours, theirs = world.connected(family, 0, INTERNET[family])
    kept, there = world.connected(family, 0, EXCLUDED[family])
    with ours, theirs, kept, there:
        await enforce(keeper, replace(WANTED, excluded=prefixes(f"{INTERNET[family]}/{family.bits}")))
        for mine, other in ((ours, theirs), (kept, there)):
            mine.sendall(b"still")
            assert other.recv(16) == b"still"
    assert world.seen(family, 0, INTERNET[family])[0] == world.address(family, 0)
    assert world.seen(family, 0, EXCLUDED[family])[0] == UPLINKS[0][family]


@pytest.mark.kernel
async def test_the_same_content_is_written_once(world: World, keeper: Enforcement, library: Library) -> None:
    wanted = replace(WANTED, ports=(20000, 30000), opted_out=frozenset({world.packed(Family.IPV4, 1)}))
    await enforce(keeper, wanted)
    again = KernelRuleTable(library)
    try:
        report = await Enforcement(again).sync(render(wanted))
    finally:
        again.close()
    assert report == ((), ())
