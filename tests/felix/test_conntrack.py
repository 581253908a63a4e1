from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest

from felix.conntrack import Conntrack, Flow
from felix.netlink import NetlinkSocket
from felix.nft.elements import ElementChange, Value
from felix.nft.enforcement import Change, Enforcement
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.library import Library, LibraryError
from inet.prefix import Family
from tests.felix.nft.pods import RESET, PodNode, pod_node

pytestmark = pytest.mark.kernel

A, B, C = 0, 1, 2
TCP, UDP = 6, 17


@pytest.fixture
def node() -> Iterator[PodNode]:
    """Three pods; the test runs inside the node's namespace."""
    with pod_node(3) as node:
        yield node


@pytest.fixture
def nft(node: PodNode) -> Callable[..., None]:  # noqa: ARG001 - inside its namespace
    def run(text: str) -> None:
        done = subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return run


@pytest.fixture
def enforcement(node: PodNode) -> Iterator[Enforcement]:  # noqa: ARG001 - inside its namespace
    try:
        table = KernelRuleTable(Library())
    except LibraryError as error:
        pytest.skip(str(error))
    yield Enforcement(table)
    table.close()


@pytest.fixture
def conntrack(node: PodNode) -> Iterator[Conntrack]:  # noqa: ARG001 - inside its namespace
    table = Conntrack()
    yield table
    table.close()


def exchange(one: socket.socket, other: socket.socket) -> None:
    for sender, receiver in ((one, other), (other, one)):
        sender.sendall(b"hello")
        assert receiver.recv(5) == b"hello"


def close(*sockets: socket.socket) -> None:
    for each in sockets:
        each.close()


async def deny(enforcement: Enforcement, node: PodNode, family: Family, text: str) -> None:
    """Judge what pod A sends by other rules from now on."""
    name = "from_pod4" if family is Family.IPV4 else "from_pod6"
    address = node.packed(family, A)
    change = Change(
        chains={"denying": text},
        elements=[
            ElementChange(name, address, is_added=False),
            ElementChange(name, address, is_added=True, value=Value("jump", "denying")),
        ],
    )
    assert await enforcement.change(change) == []


FREE = {A: "free", B: "free", C: "free"}
JUDGED = {"free": f"{RESET}\naccept"}


@pytest.fixture
async def free(enforcement: Enforcement, node: PodNode) -> Enforcement:
    """Everybody may speak to everybody."""
    report = await enforcement.sync(node.content(FREE, JUDGED))
    assert report.refusals == ()
    return enforcement


@pytest.mark.usefixtures("free")
async def test_connections_are_found_by_their_client_and_by_their_server(
    conntrack: Conntrack, node: PodNode, family: Family
) -> None:
    server = node.listen(family, B, 8080)
    ours, theirs = node.connect(family, A, server)
    datagram = node.socket(family, A, socket.SOCK_DGRAM)
    datagram.sendto(b"hello", (node.address(family, C), 53))
    a, b, c = (node.packed(family, i) for i in (A, B, C))

    def told(flows: list[Flow]) -> set[tuple[bytes, bytes, int, int | None]]:
        return {flow[:4] for flow in flows}

    assert told(await conntrack.flows({a})) == {(a, b, TCP, 8080), (a, c, UDP, 53)}
    assert told(await conntrack.flows({b})) == {(a, b, TCP, 8080)}
    assert told(await conntrack.flows({c})) == {(a, c, UDP, 53)}
    assert told(await conntrack.flows({b, c})) == {(a, b, TCP, 8080), (a, c, UDP, 53)}
    assert await conntrack.flows({bytes(4), bytes(16)}) == []
    close(ours, theirs, server, datagram)


@pytest.mark.usefixtures("free")
async def test_a_translated_connection_is_told_by_its_real_ends(
    conntrack: Conntrack, node: PodNode, family: Family, nft: Callable[..., None]
) -> None:
    ip, service = ("ip", "10.96.0.1") if family is Family.IPV4 else ("ip6", "fd96::1")
    real = node.address(family, B) if family is Family.IPV4 else f"[{node.address(family, B)}]"
    nft(
        text=f"""table {ip} services {{
 chain in {{ type nat hook prerouting priority dstnat; {ip} daddr {service} tcp dport 80 dnat to {real}:8080; }}
 chain out {{ type nat hook postrouting priority srcnat; masquerade; }}
}}
"""
    )
    server = node.listen(family, B, 8080)
    ours = node.socket(family, A, socket.SOCK_STREAM)
    ours.connect((service, 80))
    theirs, _ = server.accept()
    assert theirs.getpeername()[0] != node.address(family, A)
    a, b = node.packed(family, A), node.packed(family, B)
    for address in (a, b):
        [flow] = await conntrack.flows({address})
        assert flow[:4] == (a, b, TCP, 8080)
    assert await conntrack.delete([flow]) == []
    assert await conntrack.flows({a, b}) == []
    close(ours, theirs, server)


@pytest.mark.usefixtures("free")
async def test_only_what_is_named_is_deleted(conntrack: Conntrack, node: PodNode, family: Family) -> None:
    server = node.listen(family, B, 8080)
    ends = [node.connect(family, A, server) for _ in range(3)]
    flows = await conntrack.flows({node.packed(family, A)})
    assert len(flows) == 3
    assert await conntrack.delete(flows[1:2]) == []
    assert {flow.entry for flow in await conntrack.flows({node.packed(family, B)})} == {
        flows[0].entry,
        flows[2].entry,
    }
    close(server, *(end for pair in ends for end in pair))


@pytest.mark.usefixtures("free")
async def test_a_connection_that_has_ended_is_no_failure(conntrack: Conntrack, node: PodNode, family: Family) -> None:
    datagram = node.socket(family, A, socket.SOCK_DGRAM)
    for port in range(1000, 1600):
        datagram.sendto(b"hello", (node.address(family, C), port))
    flows = await conntrack.flows({node.packed(family, A)})
    assert len(flows) == 600
    assert await conntrack.delete(flows[:300]) == []
    assert await conntrack.delete(flows) == []
    assert await conntrack.flows({node.packed(family, A)}) == []
    datagram.close()


async def test_a_deny_that_arrives_cuts_what_it_denies_and_nothing_else(
    free: Enforcement, conntrack: Conntrack, node: PodNode, family: Family
) -> None:
    servers = [node.listen(family, B, 8080), node.listen(family, C, 8080)]
    denied, allowed = node.connect(family, A, servers[0]), node.connect(family, A, servers[1])
    ip = "ip" if family is Family.IPV4 else "ip6"
    await deny(free, node, family, f"{RESET}\n{ip} daddr {node.address(family, B)} counter drop\naccept")
    exchange(*denied)  # established: rules alone do not end it
    doomed = [flow for flow in await conntrack.flows({node.packed(family, A)}) if flow.server == node.packed(family, B)]
    assert await conntrack.delete(doomed) == []

    for end in denied:
        end.sendall(b"hello")
    for end in denied:
        with pytest.raises(ConnectionResetError):
            end.recv(5)
    with pytest.raises(TimeoutError):
        node.connect(family, A, servers[0], timeout=0.2)
    exchange(*allowed)
    close(*denied, *allowed, *servers)


async def test_without_a_reset_rule_the_other_side_revives_what_was_deleted(
    enforcement: Enforcement, conntrack: Conntrack, node: PodNode, family: Family
) -> None:
    """Why the rules need one: conntrack takes up a connection in its middle, from whichever side."""
    await enforcement.sync(node.content(FREE, {"free": "accept"}))
    server = node.listen(family, B, 8080)
    ours, theirs = node.connect(family, A, server)
    await deny(enforcement, node, family, "counter drop")
    assert await conntrack.delete(await conntrack.flows({node.packed(family, A)})) == []
    theirs.sendall(b"hello")
    assert ours.recv(5) == b"hello"
    exchange(ours, theirs)
    close(ours, theirs, server)


async def test_no_look_closes_a_socket_which_would_make_writers_of_rules_wait(
    conntrack: Conntrack, node: PodNode, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[NetlinkSocket] = []
    monkeypatch.setattr(NetlinkSocket, "close", closed.append)
    flows = await conntrack.flows({node.packed(family, A)})
    await conntrack.delete(flows)
    assert closed == []
    monkeypatch.undo()
