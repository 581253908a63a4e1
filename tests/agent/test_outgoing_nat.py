"""What a node translates, out of objects, routes and tunnels; and when it says so to the table."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from agent.datastore import Batch
from agent.objects.kinds import Keyed
from agent.outgoing_nat import OutgoingNat, masquerade_of, verdict
from agent.surroundings import Surroundings
from felix.nft.masquerade import Masquerade
from inet.prefix import Family, IPAddress, Prefix
from tests.agent.policy_world import FakePolicyKernel, PolicyWorld, enforcing, manifest

CIDRS = {"n1": ["10.42.0.0/24", "fd42::/64"], "n2": ["10.42.1.0/24", "fd42:0:0:1::/64"]}


def node(name: str, number: int, cidrs: list[str] | None = None, **addresses: str) -> Keyed:
    entries = [{"type": "InternalIP", "address": each} for each in (f"172.16.1.{number}", f"fd16:1::{number}")]
    entries += [{"type": kind, "address": address} for kind, address in addresses.items()]
    return manifest("Node", name, spec={"podCIDRs": cidrs or CIDRS[name]}, status={"addresses": entries})


def pod(name: str, number: int, namespace: str = "x", on: str = "n1", **labels: str) -> Keyed:
    status = {"podIPs": [{"ip": f"10.42.0.{number}"}, {"ip": f"fd42::{number}"}]}
    return manifest("Pod", name, namespace, labels=labels, spec={"nodeName": on}, status=status)


def network(**spec: Any) -> Keyed:
    return manifest("NetworkConfiguration", "default", apiVersion="tortie.dev/v1alpha1", spec=spec)


def surroundings(*items: Keyed) -> Surroundings:
    around = Surroundings("n1")
    around.take(batch(*items))
    return around


def batch(*items: Keyed, gone: tuple[Keyed, ...] = ()) -> Batch:
    return Batch({item.key: item for item in items}, frozenset(item.key for item in gone), (), full_lists=1)


def texts(prefixes: tuple[Prefix, ...]) -> set[str]:
    return set(map(str, prefixes))


def wanted(*items: Keyed, learned: tuple[str, ...] = (), tunnelled: tuple[str, ...] = ()) -> Masquerade:
    around = surroundings(node("n1", 11), node("n2", 12, ExternalIP="198.51.100.12"), *items)
    addresses: frozenset[IPAddress] = frozenset(map(ip_address, tunnelled))
    return masquerade_of(around, map(Prefix.parse, learned), addresses)


def test_without_any_setting_pods_leave_the_cluster_under_the_nodes_address() -> None:
    found = wanted()
    assert texts(found.pods) == {"10.42.0.0/24", "fd42::/64"}
    assert texts(found.cluster) == {
        *("10.42.0.0/24", "fd42::/64", "10.42.1.0/24", "fd42:0:0:1::/64"),
        *("172.16.1.11/32", "172.16.1.12/32", "fd16:1::11/128", "fd16:1::12/128"),
    }
    assert (found.ports, found.fully_random, found.addresses) == (None, True, {})


def test_ipv6_pods_that_the_world_can_answer_keep_their_addresses_unless_they_are_named() -> None:
    own = node("n1", 11, ["10.42.0.0/24", "2001:db8:42::/64"])
    assert texts(masquerade_of(surroundings(own), ()).pods) == {"10.42.0.0/24"}
    named = surroundings(own, network(outgoingNAT={"families": ["IPv6"]}))
    assert texts(masquerade_of(named, ()).pods) == {"2001:db8:42::/64"}


def test_it_can_be_switched_off() -> None:
    assert wanted(network(outgoingNAT={"enabled": False})) == Masquerade()


def test_pods_services_and_what_is_excluded_see_pods_as_they_are() -> None:
    spec = {"podCIDRs": ["10.42.0.0/16"], "serviceCIDRs": ["10.43.0.0/16", "fd43::/108"]}
    found = wanted(network(**spec, outgoingNAT={"exclude": ["10.0.0.0/8", "fd00::/8"]}))
    assert {"10.42.0.0/16", "10.43.0.0/16", "fd43::/108"} <= texts(found.cluster)
    assert texts(found.excluded) == {"10.0.0.0/8", "fd00::/8"}


def test_learned_destinations_are_exempt_only_where_that_is_wanted_and_a_default_route_never() -> None:
    routes = ("0.0.0.0/0", "::/0", "10.9.0.0/16", "fd09::/48")
    assert wanted(learned=routes).learned == ()
    found = wanted(network(outgoingNAT={"exemptLearned": True}), learned=routes)
    assert texts(found.learned) == {"10.9.0.0/16", "fd09::/48"}


def test_a_node_whose_pods_are_reached_in_a_tunnel_is_no_exception() -> None:
    found = wanted(tunnelled=("172.16.1.12", "fd16:1::12"))
    assert not {"172.16.1.12/32", "fd16:1::12/128"} & texts(found.cluster)
    assert {"172.16.1.11/32", "10.42.1.0/24"} <= texts(found.cluster)


def test_the_nodes_own_address_is_taken_where_that_is_wanted() -> None:
    found = wanted(network(outgoingNAT={"source": "Node", "ports": {"first": 20000, "last": 30000}}))
    assert found.addresses == {Family.IPV4: packed("172.16.1.11"), Family.IPV6: packed("fd16:1::11")}
    assert found.ports == (20000, 30000)


@pytest.mark.parametrize(
    ("choice", "numbers"),
    [
        ({"podSelector": {"matchLabels": {"app": "a"}}}, [2, 4]),
        ({"namespaceSelector": {"matchLabels": {"team": "net"}}}, [4, 5]),
        ({"namespaceSelector": {"matchLabels": {"team": "net"}}, "podSelector": {"matchLabels": {"app": "a"}}}, [4]),
        ({"namespaceSelector": {"matchLabels": {"team": "none"}}}, []),
        ({"podSelector": {}}, [2, 3, 4, 5]),
    ],
)
def test_pods_opt_out_by_their_labels_and_their_namespaces(choice: dict[str, Any], numbers: list[int]) -> None:
    found = wanted(
        network(outgoingNAT={"optOut": [choice]}),
        manifest("Namespace", "x"),
        manifest("Namespace", "y", labels={"team": "net"}),
        pod("a", 2, app="a"),
        pod("b", 3, app="b"),
        pod("a", 4, "y", app="a"),
        pod("b", 5, "y"),
        pod("elsewhere", 6, "y", on="n2", app="a"),
    )
    assert found.opted_out == {packed(f"10.42.0.{n}") for n in numbers} | {packed(f"fd42::{n}") for n in numbers}


@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)
def test_what_becomes_of_a_packet_is_said(family: Family) -> None:
    found = wanted(network(outgoingNAT={"source": "Node"}))
    source, inside, outside, address = {
        Family.IPV4: ("10.42.0.2", "10.42.1.2", "198.51.100.1", "172.16.1.11"),
        Family.IPV6: ("fd42::2", "fd42:0:0:1::2", "2001:db8::1", "fd16:1::11"),
    }[family]
    assert verdict(found, packed(source), packed(inside)) is None
    said = verdict(found, packed(source), packed(outside))
    assert said == f"masqueraded to {address} (NetworkConfiguration spec.outgoingNAT)"


# In the table


@contextlib.contextmanager
def nat(world: PolicyWorld, around: Surroundings, routes: list[Prefix]) -> Iterator[OutgoingNat]:
    yield OutgoingNat(around, world.policy, lambda: routes, frozenset)


async def test_a_table_has_it_with_the_first_objects_and_a_restart_writes_nothing() -> None:
    kernel = FakePolicyKernel()
    items = [node("n1", 11), node("n2", 12), network(serviceCIDRs=["10.43.0.0/16"])]
    for attempt in range(2):
        written = len(kernel.table.written)
        async with enforcing(PolicyWorld(Family.IPV4, kernel)) as world:
            around = Surroundings("n1")
            with nat(world, around, []) as outgoing:
                world.policy.take(batch(*items))
                around.take(batch(*items))
                outgoing.refresh()
                await world.settle()
        assert {"nat_postrouting", "nat_out4", "nat_out6", "service_guard"} <= kernel.table.chains.keys()
        assert bool([each for each in kernel.table.written[written:] if each]) is (attempt == 0)


async def test_before_all_objects_are_read_the_table_is_left_as_it_is() -> None:
    async with enforcing(PolicyWorld(Family.IPV4)) as world:
        around = Surroundings("n1")
        around.take(Batch({node("n1", 11).key: node("n1", 11)}, frozenset(), (), full_lists=0))
        with nat(world, around, []) as outgoing:
            outgoing.refresh()
            await world.tell(node("n1", 11))
            assert not world.kernel.table.written


async def test_a_pod_that_comes_and_goes_is_opted_out_and_in_by_elements_alone() -> None:
    async with enforcing(PolicyWorld(Family.IPV4)) as world:
        around = Surroundings("n1")
        with nat(world, around, []) as outgoing:
            items = [node("n1", 11), network(outgoingNAT={"optOut": [{"podSelector": {"matchLabels": {"app": "a"}}}]})]
            around.take(batch(*items))
            outgoing.refresh()
            await world.tell(*items)
            chains = dict(world.kernel.table.chains)
            assert not around.take(batch(pod("a", 2, app="a")))
            outgoing.pods_changed()
            await world.settle()
            assert world.kernel.table.elements["nat_opted_out4"].keys() == {packed("10.42.0.2")}
            assert world.kernel.table.elements["nat_opted_out6"].keys() == {packed("fd42::2")}
            around.take(batch(gone=(pod("a", 2, app="a"),)))
            outgoing.pods_changed()
            await world.settle()
            assert not world.kernel.table.elements["nat_opted_out4"]
            assert world.kernel.table.chains == chains


async def test_learned_destinations_follow_the_routes() -> None:
    routes = [Prefix.parse("10.9.0.0/16")]
    async with enforcing(PolicyWorld(Family.IPV4)) as world:
        around = Surroundings("n1")
        items = [node("n1", 11), network(outgoingNAT={"exemptLearned": True})]
        around.take(batch(*items))
        with nat(world, around, routes) as outgoing:
            running = asyncio.create_task(outgoing.run())
            outgoing.refresh()
            await world.tell(*items)
            assert len(world.kernel.table.elements["nat_learned4"]) == 1
            routes += [Prefix.parse("10.11.0.0/16"), Prefix.parse("fd09::/48")]
            outgoing.routes_changed()
            async with asyncio.timeout(20):
                while len(world.kernel.table.elements["nat_learned4"]) < 2:
                    await world.settle()
            assert len(world.kernel.table.elements["nat_learned6"]) == 1
            running.cancel()


def packed(text: str) -> bytes:
    return ip_address(text).packed
