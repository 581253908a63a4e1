"""Outgoing NAT beside kube-proxy in its iptables and nftables modes: whoever is to translate does so, once."""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pytest

from felix.namespaces import entered
from felix.nft import serviceguard
from felix.nft.enforcement import Enforcement
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.library import Library
from felix.nft.masquerade import render
from felix.nft.parts import merged
from inet.prefix import Family
from tests.felix.netns import built
from tests.felix.nft.kubeproxy import PORT, SERVICES, Service, load_iptables, load_nftables
from tests.felix.nft.outside import INTERNET, REMOTE_POD, UPLINKS, WANTED, World, prefixes, run

pytestmark = pytest.mark.kernel

REMOTE = {Family.IPV4: "10.43.0.10", Family.IPV6: "fd43::10"}
HAIRPIN = {Family.IPV4: "10.43.0.11", Family.IPV6: "fd43::11"}
EXTERNAL = {Family.IPV4: "10.43.0.12", Family.IPV6: "fd43::12"}
MASQUERADED = {Family.IPV4: "10.43.0.13", Family.IPV6: "fd43::13"}
UNKNOWN = {Family.IPV4: "10.43.9.9", Family.IPV6: "fd43::99"}

OURS = range(20000, 20010)
"""Source ports that we give: kube-proxy gives any."""

Load = Callable[[Iterable[Service]], None]


@pytest.fixture(params=[load_iptables, load_nftables], ids=["iptables", "nftables"])
def kube_proxy(request: pytest.FixtureRequest) -> Load:
    if request.param is load_iptables and shutil.which("iptables-nft-restore") is None:
        pytest.skip("needs iptables-nft-restore (iptables)")
    load: Load = request.param
    return load


@pytest.fixture
def world(library: Library, kube_proxy: Load) -> Iterator[World]:
    """The test runs inside the node's namespace, which has kube-proxy's rules already."""
    with built(World()) as world:
        kube_proxy(services(world))
        with contextlib.closing(KernelRuleTable(library)) as table:
            world.table = table
            yield world


def services(world: World) -> Iterator[Service]:
    for family in Family:
        yield Service(family, "REMOTE", REMOTE[family], REMOTE_POD[family], 9000)
        yield Service(family, "HAIRPIN", HAIRPIN[family], world.address(family, 1), 9000)
        yield Service(family, "EXTERNAL", EXTERNAL[family], INTERNET[family], 9000)
        yield Service(family, "ALL", MASQUERADED[family], INTERNET[family], 9000, is_masqueraded=True)


async def enforce(world: World) -> None:
    wanted = replace(WANTED, ports=(OURS[0], OURS[-1]))
    guard = serviceguard.render(prefixes(*SERVICES.values()))
    report = await Enforcement(world.table).sync(merged((render(wanted), guard)))
    assert not report.refusals


async def test_a_pod_behind_a_service_sees_the_pod_that_asks(world: World, family: Family) -> None:
    await enforce(world)
    server = (world.outside, REMOTE_POD[family], 9000)
    assert world.seen(family, 0, REMOTE[family], port=PORT, server=server)[0] == world.address(family, 0)


async def test_a_pod_that_is_its_own_service_is_masqueraded_by_kube_proxy(world: World, family: Family) -> None:
    await enforce(world)
    server = (world.pods[1], world.address(family, 1), 9000)
    seen = world.seen(family, 1, HAIRPIN[family], port=PORT, server=server)
    assert seen[0] != world.address(family, 1)
    assert seen[1] not in OURS
    assert world.seen(family, 0, HAIRPIN[family], port=PORT, server=server)[0] == world.address(family, 0)


async def test_traffic_from_outside_to_a_service_is_masqueraded_by_kube_proxy(world: World, family: Family) -> None:
    await enforce(world)
    back = UPLINKS[0][family]
    version = "-6" if family is Family.IPV6 else "-4"
    run("ip", "-n", world.outside, version, "route", "add", f"{HAIRPIN[family]}/{family.bits}", "via", back)
    server = (world.pods[1], world.address(family, 1), 9000)
    seen = world.seen(family, world.outside, HAIRPIN[family], port=PORT, server=server, bound=INTERNET[family])
    assert seen[0] != INTERNET[family]
    assert seen[1] not in OURS


async def test_a_pod_reaches_the_internet_under_the_nodes_address(world: World, family: Family) -> None:
    await enforce(world)
    seen = world.seen(family, 0, INTERNET[family])
    assert seen[0] == UPLINKS[0][family]
    assert seen[1] in OURS


async def test_a_service_that_leads_out_of_the_cluster_is_left_under_the_nodes_address(
    world: World, family: Family
) -> None:
    await enforce(world)
    seen = world.seen(family, 0, EXTERNAL[family], port=PORT, server=(world.outside, INTERNET[family], 9000))
    assert seen[0] == UPLINKS[0][family]
    assert seen[1] in OURS


async def test_what_kube_proxy_masquerades_is_not_translated_again(world: World, family: Family) -> None:
    await enforce(world)
    seen = world.seen(family, 0, MASQUERADED[family], port=PORT, server=(world.outside, INTERNET[family], 9000))
    assert seen[0] == UPLINKS[0][family]
    assert seen[1] not in OURS
    assert "packets 0" in next(line for line in _chain(family).splitlines() if "udp" in line)


async def test_a_service_address_that_nobody_serves_is_refused_and_not_sent_to_a_router(
    world: World, family: Family
) -> None:
    version = "-6" if family is Family.IPV6 else "-4"
    routes = SERVICES[family], "via", UPLINKS[0][family]
    run("ip", "-n", world.outside, version, "route", "add", *routes)  # the router sends them back
    before, deadline = _sent(world), time.monotonic() + 20
    with contextlib.closing(world.open(world.pods[0], family)) as client:
        while _sent(world) - before < 100:  # of a handful of datagrams: without the guard each goes round and round
            assert time.monotonic() < deadline
            with contextlib.suppress(OSError):  # whatever the router says in the end
                client.sendto(b"round", (UNKNOWN[family], 443))
            select.select([], [], [], 0.5)
    await enforce(world)
    with contextlib.closing(world.open(world.pods[0], family, socket.SOCK_STREAM)) as client:
        before = _sent(world)
        with pytest.raises(OSError, match="No route to host"):
            client.connect((UNKNOWN[family], 443))
        assert _sent(world) - before < 10
    server = (world.outside, REMOTE_POD[family], 9000)
    assert world.seen(family, None, REMOTE[family], port=PORT, server=server), "the node's own way to services is open"


def _sent(world: World) -> int:
    """Return how many packets went out by the uplink."""
    with entered(world.name), open("/proc/thread-self/net/dev") as file:  # noqa: PTH123 - of this thread's namespace
        (line,) = (line for line in file if line.strip().startswith("u0:"))
    return int(line.split(":")[1].split()[9])


def _chain(family: Family) -> str:
    return run("nft", "list", "chain", "inet", "tortie", f"nat_out{4 if family is Family.IPV4 else 6}")
