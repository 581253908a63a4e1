"""What takes a kernel of one's own: a table of connections that can be filled up, and IPVS.

The first test runs this file again in a User Mode Linux kernel (see CONTRIBUTING.md); there the others run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from felix.conntracktable import usage
from felix.nft.enforcement import Content, Enforcement
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.library import Library
from felix.nft.masquerade import render
from felix.nft.parts import merged
from inet.prefix import Family
from tests.felix.netns import built
from tests.felix.nft.outside import INTERNET, PORT, REMOTE_POD, UPLINKS, WANTED, World, run
from tests.own_kernel import in_own_kernel, run_in_own_kernel, starts_own_kernel

COUNTS_DROPS = Path("/proc/thread-self/net/stat/nf_conntrack").exists()
"""Not every kernel does: CONFIG_NF_CONNTRACK_PROCFS."""
LIMIT = Path("/proc/sys/net/netfilter/nf_conntrack_max")

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")]

CLUSTER = {Family.IPV4: "10.64.0.0/16", Family.IPV6: "fd64::/16"}
SERVICE = {Family.IPV4: "10.43.0.10", Family.IPV6: "fd43::10"}
OWN_SERVICE = {Family.IPV4: "10.43.0.11", Family.IPV6: "fd43::11"}


@pytest.mark.timeout(1200)
@starts_own_kernel
def test_in_a_kernel_of_its_own() -> None:
    run_in_own_kernel(__file__)


@pytest.fixture
def world(library: Library) -> Iterator[World]:
    """The test runs inside the node's namespace."""
    with built(World()) as world, contextlib.closing(KernelRuleTable(library)) as table:
        world.table = table
        yield world


async def enforce(world: World, *more: Content) -> None:
    report = await Enforcement(world.table).sync(merged((render(replace(WANTED, ports=(20000, 20099))), *more)))
    assert not report.refusals


@in_own_kernel
async def test_a_full_table_of_connections_lets_nothing_past_policy_and_is_told(world: World, family: Family) -> None:
    policy = 'type filter hook forward priority 0;\nct state established accept\niifname "h2" counter drop'
    await enforce(world, Content({"forward": policy}, {}))
    limit = 12
    with contextlib.ExitStack() as stack:
        ends = [tuple(map(stack.enter_context, world.connected(family, 0, INTERNET[family]))) for _ in range(limit + 2)]
        for ours, theirs in ends:
            ours.sendall(b"one")
            assert theirs.recv(16) == b"one"
        stack.callback(set_limit, "65536")
        set_limit(str(limit))
        before = usage()
        assert before is not None
        assert before.is_nearly_full
        with pytest.raises(OSError, match="timed out"):
            connect(world, family, 1)
        with pytest.raises(OSError, match="timed out"):
            connect(world, family, 2)
        after = usage()
        assert after is not None
        if COUNTS_DROPS:
            assert after.drops > before.drops
        for ours, theirs in ends:
            ours.sendall(b"two")
            assert theirs.recv(16) == b"two", "what is established goes on"
        set_limit("65536")
        connect(world, family, 1).close()
        with pytest.raises(OSError, match="timed out"):
            connect(world, family, 2)


def set_limit(value: str) -> None:
    """Only the first network namespace can."""
    run("nsenter", "--net=/proc/1/ns/net", "tee", str(LIMIT), text=value)


def connect(world: World, family: Family, client: int) -> socket.socket:
    with contextlib.closing(world.open(world.outside, family, socket.SOCK_STREAM)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((INTERNET[family], PORT))
        listener.listen()
        ours = world.open(world.pods[client], family, socket.SOCK_STREAM)
        ours.settimeout(2.5)
        try:
            ours.connect((INTERNET[family], PORT))
        except OSError:
            ours.close()
            raise
        return ours


# kube-proxy's IPVS mode: service addresses on a dummy device, IPVS between input and output, and these rules


@pytest.fixture
def ipvs(world: World) -> World:
    if shutil.which("ipvsadm") is None:
        pytest.skip("needs ipvsadm")
    run("ip", "link", "add", "kube-ipvs0", "type", "dummy")
    for family in Family:
        bits, brackets = family.bits, "[{}]" if family is Family.IPV6 else "{}"
        for service, endpoint in ((SERVICE, REMOTE_POD[family]), (OWN_SERVICE, world.address(family, 1))):
            extra = ["nodad"] if family is Family.IPV6 else []
            run("ip", "addr", "add", f"{service[family]}/{bits}", "dev", "kube-ipvs0", *extra)
            at = f"{brackets.format(service[family])}:80"
            run("ipvsadm", "-A", "-u", at, "-s", "rr")
            run("ipvsadm", "-a", "-u", at, "-r", f"{brackets.format(endpoint)}:{PORT}", "-m")
        own = world.address(family, 1)
        ip = "ip" if family is Family.IPV4 else "ip6"
        # What iptables-nft makes of kube-proxy's rules. Its ipsets are written out: KUBE-CLUSTER-IP holds the service
        # addresses, KUBE-LOOP-BACK pods that are their own endpoints.
        marks = "\n".join(
            f"{ip} saddr != {CLUSTER[family]} {ip} daddr {each[family]} udp dport 80 meta mark set meta mark or 0x4000"
            for each in (SERVICE, OWN_SERVICE)
        )
        rules = f"""
            table {ip} nat {{
                chain PREROUTING {{
                    type nat hook prerouting priority -100
                    {marks}
                }}
                chain POSTROUTING {{
                    type nat hook postrouting priority 100
                    {ip} saddr {own} {ip} daddr {own} udp dport {PORT} masquerade
                    meta mark and 0x4000 != 0x4000 return
                    meta mark set meta mark xor 0x4000
                    masquerade fully-random
                }}
            }}
        """
        run("nft", "-f", "-", text=rules)
    Path("/proc/sys/net/ipv4/vs/conntrack").write_text("1", encoding="ascii")
    return world


@in_own_kernel
async def test_beside_ipvs_whoever_is_to_translate_does_so_once(ipvs: World, family: Family) -> None:
    await enforce(ipvs)
    remote = (ipvs.outside, REMOTE_POD[family], PORT)
    assert ipvs.seen(family, 0, SERVICE[family], port=80, server=remote)[0] == ipvs.address(family, 0)
    own = (ipvs.pods[1], ipvs.address(family, 1), PORT)
    assert ipvs.seen(family, 1, OWN_SERVICE[family], port=80, server=own)[0] != ipvs.address(family, 1)
    seen = ipvs.seen(family, 0, INTERNET[family])
    assert seen[0] == UPLINKS[0][family]
    assert seen[1] in range(20000, 20100)
