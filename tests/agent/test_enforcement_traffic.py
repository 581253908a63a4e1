"""What policy leaves alone, and what it judges by where a packet really goes: services, neighbours, transit."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from felix.conntrack import Conntrack
from inet.prefix import Family
from tests.agent.real_node import RealNode, cluster_policy, enforcing, from_app, network_policy
from tests.felix.netns import built
from tests.felix.nft.pods import OWN, PodNode

pytestmark = pytest.mark.kernel

CLIENT, SERVER, HERE, THERE = range(4)
PORT = 5432
TRANSIT = {Family.IPV4: ("192.0.2.1", "192.0.2.2"), Family.IPV6: ("2001:db8::1", "2001:db8::2")}
SERVICE = {Family.IPV4: "10.96.0.1", Family.IPV6: "fd96::1"}


@pytest.fixture
def pods() -> Iterator[PodNode]:
    """Two pods, and two places outside between which the node is a router; the test runs inside its namespace."""
    with built(PodNode(4)) as node:
        for i in (HERE, THERE):
            node.ip(None, f"link set h{i} group default")
            for family, addresses in TRANSIT.items():
                nodad = " nodad" if family is Family.IPV6 else ""
                node.ip(i, f"addr add {addresses[i - HERE]}/{family.bits} dev eth0{nodad}")
                node.ip(None, f"route add {addresses[i - HERE]}/{family.bits} dev h{i}")
        yield node


@pytest.fixture
async def real(pods: PodNode) -> AsyncIterator[RealNode]:
    async with enforcing(pods) as node:
        await node.tell(*node.objects(CLIENT, SERVER))
        yield node


def reaches(
    pods: PodNode,
    family: Family,
    source: int | None,
    server: socket.socket,
    address: tuple[str, int],
    *,
    own: str = "",
    within_s: float = 10,
) -> bool:
    """Whether somebody gets a connection to an address behind which a server is, and bytes both ways."""
    with pods.socket(family, source, socket.SOCK_STREAM) as client:
        client.settimeout(within_s)
        if own:
            client.bind((own, 0))
        try:
            client.connect(address)
        except OSError:
            return False
        with contextlib.closing(server.accept()[0]) as theirs:
            client.sendall(b"?")
            theirs.sendall(b"!")
            return (theirs.recv(1), client.recv(1)) == (b"?", b"!")


def is_kept_from(pods: PodNode, family: Family, source: int, server: socket.socket, address: tuple[str, int]) -> bool:
    """Whether a pod gets no such connection. What is to come may take longer than this: the machine may be busy."""
    return not reaches(pods, family, source, server, address, within_s=0.5)


async def test_a_service_is_judged_by_the_pod_and_port_that_answer(real: RealNode, family: Family) -> None:
    pods = real.pods
    ip = "ip" if family is Family.IPV4 else "ip6"
    real_address = pods.address(family, SERVER)
    to = f"{real_address}:{PORT}" if family is Family.IPV4 else f"[{real_address}]:{PORT}"
    rule = f"{ip} daddr {SERVICE[family]} tcp dport 80 dnat to {to};"
    pods.nft(f"table {ip} proxy {{ chain c {{ type nat hook prerouting priority dstnat; {rule} }}; }}")
    service = (SERVICE[family], 80)
    with pods.listen(family, SERVER, PORT) as server:
        assert reaches(pods, family, CLIENT, server, service)
        await real.tell(network_policy("p", "p1", "Ingress", ingress=[from_app("p0") | {"ports": [{"port": 80}]}]))
        assert is_kept_from(pods, family, CLIENT, server, service), "80 is the service's port, not the pod's"
        await real.tell(network_policy("p", "p1", "Ingress", ingress=[from_app("p0") | {"ports": [{"port": PORT}]}]))
        assert reaches(pods, family, CLIENT, server, service)
        to_service = {"to": [{"ipBlock": {"cidr": f"{SERVICE[family]}/{family.bits}"}}]}
        await real.tell(network_policy("out", "p0", "Egress", egress=[to_service]))
        assert is_kept_from(pods, family, CLIENT, server, service), "a block is of real addresses"


async def test_a_node_and_its_pods_find_each_other_whatever_is_denied(real: RealNode, family: Family) -> None:
    pods = real.pods
    nobody = {"action": "Deny", "to": [{"nodes": {}}, {"networks": ["0.0.0.0/0", "::/0"]}]}
    await real.tell(
        *(network_policy(f"closed-{app}", app, "Ingress", "Egress") for app in ("p0", "p1")),
        cluster_policy("nobody", egress=[nobody], ingress=[{"action": "Deny", "from": [{"namespaces": {}}]}]),
    )
    with pods.listen(family, SERVER, PORT) as server:
        for place in (None, SERVER):
            pods.ip(place, "neigh flush all")
        assert reaches(pods, family, None, server, (pods.address(family, SERVER), PORT))
        assert is_kept_from(pods, family, CLIENT, server, (pods.address(family, SERVER), PORT))
    with pods.listen(family, None, PORT) as server:
        assert is_kept_from(pods, family, CLIENT, server, (OWN[family], PORT))


async def test_what_no_pod_has_a_part_in_passes_untouched(real: RealNode, family: Family) -> None:
    pods = real.pods
    deny = {"action": "Deny", "to": [{"networks": ["0.0.0.0/0", "::/0"]}]}
    await real.tell(cluster_policy("nobody", egress=[deny], ingress=[{"action": "Deny", "from": [{"namespaces": {}}]}]))
    here, there = TRANSIT[family]
    with pods.socket(family, THERE, socket.SOCK_STREAM) as server:
        server.bind((there, PORT))
        server.listen()
        assert reaches(pods, family, HERE, server, (there, PORT), own=here)
        assert is_kept_from(pods, family, CLIENT, server, (there, PORT))
        pods.nft("flush ruleset")
        assert reaches(pods, family, CLIENT, server, (there, PORT)), "it was policy that kept the pod from it"


async def test_half_of_an_unknown_transit_connection_passes_too(real: RealNode, family: Family) -> None:
    """A router may see only one direction of a connection, and from its middle on."""
    pods = real.pods
    here, there = TRANSIT[family]
    with (
        pods.socket(family, THERE, socket.SOCK_STREAM) as server,
        pods.socket(family, HERE, socket.SOCK_STREAM) as client,
    ):
        server.bind((there, PORT))
        server.listen()
        client.bind((here, 0))
        client.connect((there, PORT))
        with contextlib.closing(server.accept()[0]) as theirs:
            with contextlib.closing(
                Conntrack()
            ) as connections:  # the agent's own is busy with what it looks for itself
                await connections.delete(await connections.flows(set(packed(family))))
            client.sendall(b"?")
            assert theirs.recv(1) == b"?"


def packed(family: Family) -> Iterator[bytes]:
    return (socket.inet_pton(family, each) for each in TRANSIT[family])
