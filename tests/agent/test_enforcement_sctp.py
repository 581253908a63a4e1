"""A deny cuts associations of SCTP, and heartbeats do not revive them. In a kernel of its own: few have SCTP."""

from __future__ import annotations

import contextlib
import operator
import os
import socket
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from agent.lab.wait import eventually
from agent.objects.kinds import Keyed
from felix.namespaces import entered
from inet.prefix import Family
from tests.agent.real_node import RealNode, cluster_policy, enforcing, from_app, network_policy
from tests.felix.nft.pods import OWN, PodNode, is_mute, pod_node, says
from tests.own_kernel import in_own_kernel, run_in_own_kernel, starts_own_kernel

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")]

CLIENT, SERVER = range(2)
PORT = 5432
SCTP = 132
HEARTBEAT_MS = "100"
SEVERAL = 5


@pytest.mark.timeout(1200)
@starts_own_kernel
def test_in_a_kernel_of_its_own() -> None:
    run_in_own_kernel(__file__)


@pytest.fixture
def pods() -> Iterator[PodNode]:
    """Two pods on a node whose namespace the test is in, all of them with quick heartbeats."""
    with pod_node(2) as node:
        for name in (node.name, *node.pods):
            with entered(name):
                for setting, value in (("hb_interval", HEARTBEAT_MS), ("rto_min", "50"), ("rto_max", "100")):
                    Path("/proc/sys/net/sctp", setting).write_text(value, encoding="ascii")
        yield node


@pytest.fixture
async def real(pods: PodNode) -> AsyncIterator[RealNode]:
    async with enforcing(pods) as node:
        await node.tell(*node.objects(CLIENT, SERVER))
        yield node


def name_of(pods: PodNode, place: int | None) -> str:
    return pods.name if place is None else pods.pods[place]


def sctp(pods: PodNode, family: Family, place: int | None) -> socket.socket:
    with entered(name_of(pods, place)):
        made = socket.socket(family, socket.SOCK_STREAM, SCTP)
    made.settimeout(10)
    return made


@contextlib.contextmanager
def associated(pods: PodNode, family: Family, host: int | None) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give both ends of an association of the client with a server, a pod or the node."""
    with sctp(pods, family, host) as server, sctp(pods, family, CLIENT) as client:
        server.bind((OWN[family] if host is None else pods.address(family, host), PORT))
        server.listen()
        client.connect(server.getsockname()[:2])
        with contextlib.closing(server.accept()[0]) as theirs:
            yield client, theirs


def control_chunks(pods: PodNode, place: int | None) -> int:
    """Return how many a place has sent: heartbeats, where no data flows."""
    with entered(name_of(pods, place)):
        lines = Path("/proc/thread-self/net/sctp/snmp").read_text(encoding="ascii").splitlines()
    return int(dict(line.split() for line in lines)["SctpOutCtrlChunks"])


async def heartbeats(pods: PodNode, host: int | None) -> None:
    """Wait until both ends have sent several."""
    before = {place: control_chunks(pods, place) for place in (CLIENT, host)}
    for place, count in before.items():
        look = partial(control_chunks, pods, place)
        await eventually(look, partial(operator.le, count + SEVERAL), within_s=30, what="heartbeats")


NOT_TO_NODES = {"action": "Deny", "to": [{"nodes": {}}]}
DENIALS: dict[str, tuple[Keyed, int | None]] = {  # and the pod that the server is, None for the node itself
    "no way in": (network_policy("db-in", "p1", "Ingress"), SERVER),
    "no way out": (network_policy("front-out", "p0", "Egress"), SERVER),
    "no way to the node": (cluster_policy("not-to-nodes", egress=[NOT_TO_NODES]), None),
}


@in_own_kernel
@pytest.mark.parametrize("denial", DENIALS)
async def test_heartbeats_do_not_revive_an_association_that_was_cut(
    real: RealNode, family: Family, denial: str
) -> None:
    policy, host = DENIALS[denial]
    with associated(real.pods, family, host) as (client, server):
        assert says(client, server)
        assert says(server, client)
        await real.tell(policy)
        await eventually(lambda: real.policy.cutter.count, lambda cut: cut == 1, what="the association cut")
        await heartbeats(real.pods, host)
        assert is_mute(client, server)
        assert is_mute(server, client)


@in_own_kernel
async def test_an_association_that_a_new_policy_allows_goes_on(real: RealNode, family: Family) -> None:
    with associated(real.pods, family, SERVER) as (client, server):
        assert says(client, server)
        port = {"ports": [{"port": PORT, "protocol": "SCTP"}]}
        await real.tell(network_policy("db-in", "p1", "Ingress", ingress=[from_app("p0") | port]))
        await heartbeats(real.pods, SERVER)
        assert says(server, client)
        assert says(client, server)
    with associated(real.pods, family, SERVER) as ends:
        assert says(*ends)
