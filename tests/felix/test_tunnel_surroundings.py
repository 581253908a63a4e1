"""Direct routes and tunnels beside what operators have on nodes: lossy links, flowtables, VRFs.

The machine's kernel may lack these, so the tests run in one of their own (see CONTRIBUTING.md).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from bench.encapsulation import DIRECT, VNI, VXLAN, lay
from bench.network import run
from bench.nodepair import PORT, NodePair, node_address, pod_address
from felix.resolver import NetlinkResolver
from felix.tunnelmessages import DeviceId, Kind
from inet.prefix import Family
from tests.felix.netns import entered
from tests.own_kernel import in_own_kernel, run_in_own_kernel, starts_own_kernel

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")]

DATA = bytes(range(256)) * 8192  # 2 MiB


@pytest.mark.timeout(1200)
@starts_own_kernel
def test_in_a_kernel_of_its_own() -> None:
    run_in_own_kernel(__file__)


@pytest.fixture(params=[DIRECT, VXLAN])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(way: str, family: Family) -> Iterator[NodePair]:
    """Two nodes with a pod each, and our way between them."""
    with NodePair() as pair:
        lay(pair, way, family)
        yield pair


def transfer(pair: NodePair, family: Family) -> None:
    """Send DATA from pod to pod, and see that it comes whole."""
    with ExitStack() as stack:
        with entered(pair.pods[1]):
            server = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        with entered(pair.pods[0]):
            client = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((str(pod_address(2, family)), PORT))
        server.listen()
        client.settimeout(60)
        client.connect((str(pod_address(2, family)), PORT))
        theirs = stack.enter_context(server.accept()[0])
        theirs.settimeout(60)

        def send() -> None:
            client.sendall(DATA)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        received = bytearray()
        while piece := theirs.recv(1 << 16):
            received += piece
        sender.join()
        assert bytes(received) == DATA


@in_own_kernel
def test_a_link_that_delays_and_loses_is_survived(pair: NodePair, family: Family) -> None:
    for node in pair.nodes:
        run(*f"ip netns exec {node} tc qdisc add dev eth0 root netem delay 20ms 5ms loss 1%".split())
    began = time.monotonic()
    transfer(pair, family)
    assert time.monotonic() - began > 0.08, "a handshake alone takes two round trips"


@in_own_kernel
def test_connections_in_somebodys_flowtable_go_the_same_way(pair: NodePair, way: str, family: Family) -> None:
    """The flowtable sends packets on from where they come in, with the route that the connection had."""
    link = "eth0" if way == DIRECT else DeviceId(Kind.VXLAN, family, VNI).name
    table = (
        f"table inet theirs {{ flowtable f {{ hook ingress priority 0; devices = {{ pod, {link} }}; }}\n"
        "chain forward { type filter hook forward priority 0;\n"
        'meta l4proto tcp ct state established flow add @f\ncounter comment "slow"\n}; }'
    )
    for node in pair.nodes:
        run("ip", "netns", "exec", node, "nft", "-f", "-", text=table)
    transfer(pair, family)
    with entered(pair.nodes[0]):
        shown = run("nft", "list", "chain", "inet", "theirs", "forward")
        slow = int(shown.split("packets ")[1].split()[0])
    assert slow < len(DATA) // 1400 // 4, "most went through the flowtable"


@in_own_kernel
def test_a_vrf_with_the_same_addresses_is_no_way_to_the_other_node(pair: NodePair, family: Family) -> None:
    node, near, far = pair.nodes[0], node_address(1, family), node_address(2, family)
    length, nodad = (24, "") if family is Family.IPV4 else (64, "nodad")
    for words in (
        "link add blue type vrf table 10",
        "link set blue up",
        "link add tenant type veth peer name tenant-end",
        "link set tenant master blue",
        "link set tenant-end up",
        "link set tenant up",
        f"addr add {near}/{length} dev tenant {nodad}",
    ):
        run("ip", "-n", node, *words.split())
    with entered(node):
        resolver = NetlinkResolver()
        (hop,) = resolver.resolve(far).next_hops
        assert hop.interface == socket.if_nametoindex("eth0")
        resolver.close()
    transfer(pair, family)
