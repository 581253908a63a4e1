"""What the agent's policy does to real connections between pods of one node."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import pytest

from agent.lab.wait import eventually
from agent.objects.kinds import Keyed
from inet.prefix import Family
from tests.agent.real_node import RealNode, cluster_policy, enforcing, from_app, network_policy
from tests.felix.nft.pods import ENOUGH_S, PodNode, is_mute, pod_node, says

pytestmark = pytest.mark.kernel

CLIENT, SERVER = 0, 1
PORT = 5432


@pytest.fixture
def pods() -> Iterator[PodNode]:
    """Three pods; the test runs inside the node's namespace."""
    with pod_node(3) as pods:
        yield pods


@pytest.fixture
async def real(pods: PodNode) -> AsyncIterator[RealNode]:
    async with enforcing(pods) as node:
        await node.tell(*node.objects())
        yield node


def nft(command: str) -> None:
    """Run a command, and let nobody else do anything meanwhile."""
    subprocess.run(["nft", command], check=True)


def is_kept_out(real: RealNode, family: Family, pod: int, server: socket.socket) -> bool:
    """Whether a pod gets no new connection."""
    try:
        ends = real.pods.connect(family, pod, server, timeout=ENOUGH_S)
    except TimeoutError:
        return True
    for end in ends:
        end.close()
    return False


def connect(real: RealNode, family: Family, pod: int, server: socket.socket) -> None:
    """Require that a pod gets a new connection."""
    for end in real.pods.connect(family, pod, server):
        end.close()


NOT_TO_NODES = {"action": "Deny", "to": [{"nodes": {}}]}
DENIALS: dict[str, tuple[Keyed, int | None]] = {  # and the pod that the server is, None for the node itself
    "no way in": (network_policy("db-in", "p1", "Ingress"), SERVER),
    "no way out": (network_policy("front-out", "p0", "Egress"), SERVER),
    "no way to the node": (cluster_policy("not-to-nodes", egress=[NOT_TO_NODES]), None),
}


@pytest.mark.parametrize("denial", DENIALS)
@pytest.mark.parametrize("first", ["client", "server"])
async def test_a_cut_connection_is_revived_by_neither_side(
    real: RealNode, family: Family, denial: str, first: str
) -> None:
    policy, host = DENIALS[denial]
    with real.pods.listen(family, host, PORT) as server:
        client, theirs = real.pods.connect(family, CLIENT, server)
        with client, theirs:
            ends = (client, theirs) if first == "client" else (theirs, client)
            assert says(*ends)
            assert says(*reversed(ends))
            await real.tell(policy)
            await eventually(lambda: real.policy.cutter.count, lambda cut: cut == 1, what="the connection cut")
            assert is_mute(*ends)
            assert is_mute(*reversed(ends))
            assert is_mute(*ends)


async def test_of_datagrams_a_denied_side_may_answer_and_no_more(real: RealNode, family: Family) -> None:
    """Kubernetes allows replies of what is allowed, and of UDP the first datagram says which is which."""
    with (
        real.pods.socket(family, CLIENT, socket.SOCK_DGRAM) as client,
        real.pods.socket(family, SERVER, socket.SOCK_DGRAM) as server,
    ):
        for each, place, port in ((client, CLIENT, PORT + 1), (server, SERVER, PORT)):
            each.bind((real.pods.address(family, place), port))
        client.connect(server.getsockname())
        server.connect(client.getsockname())
        assert says(client, server)
        assert says(server, client)
        await real.tell(network_policy("db-in", "p1", "Ingress"))
        await eventually(lambda: real.policy.cutter.count, lambda cut: cut == 1, what="the flow cut")
        assert is_mute(client, server)
        assert says(server, client), "what the server sends unasked is a connection of its own"
        assert says(client, server), "and this is the answer"
        await real.tell(network_policy("db-out", "p1", "Egress"))
        await eventually(lambda: real.policy.cutter.count, lambda cut: cut == 2, what="that cut, too")
        assert is_mute(client, server)
        assert is_mute(server, client)


@pytest.mark.parametrize("first", ["client", "server"])
async def test_a_connection_that_a_new_policy_still_allows_goes_on(real: RealNode, family: Family, first: str) -> None:
    with real.pods.listen(family, SERVER, PORT) as server:
        (kept, kept_there), (cut, cut_there) = (real.pods.connect(family, pod, server) for pod in (CLIENT, 2))
        with kept, kept_there, cut, cut_there:
            await real.tell(
                network_policy("db-in", "p1", "Ingress", ingress=[from_app("p0")]),
                network_policy("front-out", "p0", "Egress", egress=[{"ports": [{"port": PORT}]}]),
            )
            await eventually(lambda: real.policy.cutter.count, lambda cut: cut == 1, what="the one connection cut")
            ends = (kept, kept_there) if first == "client" else (kept_there, kept)
            assert says(*ends)
            assert says(*reversed(ends))


@pytest.mark.parametrize("harm", ["flush ruleset", "delete table inet tortie", "flush chain inet tortie forward"])
async def test_what_got_through_while_the_table_was_gone_is_over_once_it_is_back(
    real: RealNode, family: Family, harm: str
) -> None:
    await real.tell(network_policy("db-in", "p1", "Ingress", ingress=[from_app("p0")]))
    with real.pods.listen(family, SERVER, PORT) as server:
        allowed = real.pods.connect(family, CLIENT, server)
        assert is_kept_out(real, family, 2, server)
        # The agent lives in this thread: it hears of nothing before the denied one has got through.
        nft(harm)
        denied = real.pods.connect(family, 2, server)
        with allowed[0], allowed[1], denied[0], denied[1]:
            assert says(*denied)
            await eventually(lambda: real.policy.repaired, what="the table back")
            await asyncio.wait_for(real.policy.settled(), 20)
            await eventually(lambda: is_mute(*denied), what="the denied connection at its end")
            assert is_mute(*reversed(denied))
            assert says(*allowed)
            assert says(*reversed(allowed))
            assert is_kept_out(real, family, 2, server)
            connect(real, family, CLIENT, server)


async def test_while_a_table_of_thousands_of_rules_comes_back_nobody_gets_through_who_may_not(
    real: RealNode, family: Family
) -> None:
    """The fixed part comes first, so what is denied gets through only until the agent hears of the harm."""
    ports = [{"port": 1000 + 2 * number} for number in range(100)]
    await real.tell(
        *(
            network_policy(f"n{n}", "p1", "Ingress", ingress=[{**from_app("p0"), "ports": ports[n:]}])
            for n in range(100)
        )
    )
    with real.pods.flood(family, 2, SERVER, PORT) as denied:
        nft("flush ruleset")
        await eventually(lambda: real.policy.repaired, what="the table back")
        await eventually(denied.take, lambda received: not received, every_s=0.3, what="the end of it")
        sent, received = denied.end()
        assert sent
        assert received == 0


_RESTARTED = """
import asyncio
from tests.agent.real_node import enforcing, from_app, network_policy
from tests.felix.nft.pods import PodNode

async def main():
    async with enforcing(PodNode(3)) as node:
        await node.tell(*node.objects(), network_policy("db-in", "p1", "Ingress", ingress=[from_app("p0")]))

asyncio.run(main())
"""


async def test_net_admin_is_enough_to_adopt_a_table_and_to_repair_it(pods: PodNode, family: Family) -> None:
    async with enforcing(pods) as before:
        await before.tell(*before.objects())
        await before.tell(network_policy("db-in", "p1", "Ingress", ingress=[from_app("p0")]))
    nft("flush chain inet tortie from_pod")
    only = "-all,+net_admin"
    command = ["setpriv", f"--bounding-set={only}", f"--inh-caps={only}", sys.executable, "-c", _RESTARTED]
    for is_harmed in (True, False):
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert ("policy.written" in done.stdout) is is_harmed
    with pods.listen(family, SERVER, PORT) as server:
        connect(before, family, CLIENT, server)
        assert is_kept_out(before, family, 2, server)
