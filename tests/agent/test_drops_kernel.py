"""Packets that are dropped whatever policies say, and what is told of them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from agent.drops import DropWatch
from agent.lab.wait import eventually
from felix.nft.drops import DropLog
from inet.prefix import Family
from policy.nftskeleton import LOG_GROUP
from tests.agent.real_node import RealNode, enforcing, network_policy
from tests.felix.nft.pods import OUTSIDE as OUTSIDE_ADDRESS
from tests.felix.nft.pods import OWN, PodNode, pod_node

pytestmark = pytest.mark.kernel

ONE, OTHER, OUTSIDE = 0, 1, 2
PORT = 7000


@pytest.fixture
def pods() -> Iterator[PodNode]:
    """Two pods and somebody outside; the test runs inside the node's namespace."""
    with pod_node(3) as node:
        node.put_outside(OUTSIDE)
        yield node


@pytest.fixture
async def told(pods: PodNode) -> AsyncIterator[tuple[RealNode, DropWatch]]:
    async with enforcing(pods) as node:
        await node.tell(*node.objects(ONE, OTHER))
        with contextlib.closing(DropLog(LOG_GROUP)) as log:
            watch = DropWatch("n1", node.policy.engine, log)
            task = asyncio.create_task(watch.run())
            yield node, watch
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def nodad(family: Family) -> str:
    return " nodad" if family is Family.IPV6 else ""


def address_of(pods: PodNode, family: Family, who: int) -> str:
    return OUTSIDE_ADDRESS[family] if who == OUTSIDE else pods.address(family, who)


def datagrams(
    pods: PodNode, family: Family, sender: int, source: str, destination: int | str, *, within_s: float = 0.5
) -> int:
    """Send five with any source address; return how many of them arrive, each in time."""
    address = destination if isinstance(destination, str) else address_of(pods, family, destination)
    receiver = destination if isinstance(destination, int) else OTHER
    pods.ip(sender, f"addr replace {source}/{family.bits} dev lo{nodad(family)}")
    with (
        pods.socket(family, sender, socket.SOCK_DGRAM) as client,
        pods.socket(family, receiver, socket.SOCK_DGRAM) as server,
    ):
        server.bind((address_of(pods, family, receiver), PORT))
        client.bind((source, 0))
        for _ in range(5):
            client.sendto(b"!", (address, PORT))
        server.settimeout(within_s)  # neighbours may have to be found first
        received = 0
        with contextlib.suppress(TimeoutError):
            while received < 5:
                server.recv(16)
                received += 1
        return received


async def test_what_is_as_it_should_be_gets_through(told: tuple[RealNode, DropWatch], family: Family) -> None:
    pods, (_, watch) = told[0].pods, told
    for sender, destination in ((ONE, OTHER), (OTHER, OUTSIDE), (OUTSIDE, ONE)):
        assert datagrams(pods, family, sender, address_of(pods, family, sender), destination, within_s=10) == 5
    assert not watch.recent


@pytest.mark.parametrize("whose", ["another pod's", "somebody's outside", "nobody's here", "the node's"])
async def test_a_pod_sends_from_its_own_address_alone(
    told: tuple[RealNode, DropWatch], family: Family, whose: str
) -> None:
    pods, (_, watch) = told[0].pods, told
    source = {
        "another pod's": pods.address(family, OTHER),
        "somebody's outside": OUTSIDE_ADDRESS[family],
        "nobody's here": pods.address(family, 88),
        "the node's": OWN[family],
    }[whose]
    assert datagrams(pods, family, ONE, source, OTHER if whose != "another pod's" else OUTSIDE) == 0
    if whose != "the node's":  # the kernel itself takes no such packet, and need not ask anybody
        (report,) = await eventually(lambda: list(watch.recent), what="a report")
        assert (report.reason, report.source_address, report.interface) == ("spoofed", source, f"h{ONE}")


async def test_nobody_outside_has_an_address_of_this_node_s_pods(
    told: tuple[RealNode, DropWatch], family: Family
) -> None:
    pods, (_, watch) = told[0].pods, told
    source = pods.address(family, 88)
    assert datagrams(pods, family, OUTSIDE, source, ONE) == 0
    (report,) = await eventually(lambda: list(watch.recent), what="a report")
    assert (report.reason, report.source_address, report.destination) == ("foreign", source, "x/p0")


async def test_a_pod_that_nobody_speaks_of_any_more_gets_nothing_and_an_address_of_nobody_is_told_as_such(
    told: tuple[RealNode, DropWatch], family: Family
) -> None:
    node, watch = told
    pods = node.pods
    await node.tell(gone=[node.pod(OTHER)])
    assert datagrams(pods, family, ONE, pods.address(family, ONE), OTHER) == 0
    assert datagrams(pods, family, OTHER, pods.address(family, OTHER), ONE) == 0
    pods.ip(
        None,
        f"route add {pods.address(family, 88)}/{family.bits} via {pods.address(family, OUTSIDE)} dev h{OUTSIDE} onlink",
    )
    assert datagrams(pods, family, ONE, pods.address(family, ONE), pods.address(family, 88)) == 0
    found = await eventually(lambda: list(watch.recent), lambda reports: len(reports) == 3, what="three reports")
    assert {(each.reason, each.source_address, each.destination_address) for each in found} == {
        ("unprogrammed", pods.address(family, ONE), pods.address(family, OTHER)),
        ("unprogrammed", pods.address(family, OTHER), pods.address(family, ONE)),
        ("nobody", pods.address(family, ONE), pods.address(family, 88)),
    }


async def test_a_forged_packet_does_not_get_into_another_pod_s_connection(
    told: tuple[RealNode, DropWatch], family: Family
) -> None:
    node, _ = told
    await node.tell(network_policy("closed", "p0", "Ingress", "Egress", egress=[{}]))
    pods = node.pods
    with (
        pods.socket(family, ONE, socket.SOCK_DGRAM) as client,
        pods.socket(family, OUTSIDE, socket.SOCK_DGRAM) as server,
        pods.socket(family, OTHER, socket.SOCK_DGRAM) as forger,
    ):
        server.bind((OUTSIDE_ADDRESS[family], PORT))
        client.bind((pods.address(family, ONE), 0))
        client.sendto(b"?", (OUTSIDE_ADDRESS[family], PORT))
        _, sender = server.recvfrom(16)
        server.sendto(b"!", sender)
        assert client.recv(16) == b"!"
        pods.ip(
            OTHER,
            f"addr add {OUTSIDE_ADDRESS[family]}/{family.bits} dev lo{nodad(family)}",
        )
        forger.bind((OUTSIDE_ADDRESS[family], PORT))
        forger.sendto(b"forged", sender)
        server.sendto(b"real", sender)
        assert client.recv(16) == b"real"
        client.settimeout(0.5)  # neighbours may have to be found first
        with pytest.raises(TimeoutError):
            client.recv(16)
