from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import aiohttp
import pytest

from agent.cli.client import RefusedError, UnreachableError, ask, tell
from agent.control import serve
from agent.datastore.fake import FakeDatastore
from agent.draining import Draining
from agent.drops import DropWatch
from agent.enforcement import NodePolicy
from agent.pathfinder import PathFinder
from agent.pathreport import UNKNOWN_END, NodeFacts
from agent.report import DrainReport, InstalledRoute, PeerReport, RouteExplanation, StatusReport
from agent.view import View
from inet.prefix import Family
from policy.compiler import Engine
from tests.agent.idle_network import idle_network
from tests.agent.routing_world import World, running


def served(
    world: World, datastore: FakeDatastore, directory: Path, listen: tuple[str, int] | None
) -> AbstractAsyncContextManager[None]:
    policy = NodePolicy("n1", None)
    network = idle_network(world.routing, policy)
    view = View("n1", world.routing, policy, DropWatch("n1", Engine("n1"), None), datastore, network=network)
    draining = Draining(world.routing, directory / "drain.json")
    paths = PathFinder(view, world.routing, network)
    return serve(view, draining, paths, socket=directory / "agent.sock", listen=listen)


@pytest.fixture
async def socket(tmp_path: Path) -> AsyncIterator[Path]:
    async with running(World(Family.IPV4)) as world:
        await world.speaker.start()
        await world.configure()
        await world.up(2)
        await world.hear(2, [world.cidr(2)])
        datastore = FakeDatastore()
        datastore.listed()
        async with served(world, datastore, tmp_path, ("127.0.0.1", 0)):
            yield tmp_path / "agent.sock"


async def get(socket: Path, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
        session.get(f"http://agent{path}") as response,
    ):
        return response.status, await response.text()


def test_the_socket_is_its_owners_alone(socket: Path) -> None:
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600


async def test_the_command_line_reads_what_the_agent_writes(socket: Path) -> None:
    status = await asyncio.to_thread(ask, socket, "status", StatusReport)
    assert (status.node, status.ready, status.sessions_established) == ("n1", True, 1)
    peers = await asyncio.to_thread(ask, socket, "peers", list[PeerReport])
    assert [peer.state for peer in peers] == ["Established", "Active"]
    routes = await asyncio.to_thread(ask, socket, "routes/installed", list[InstalledRoute])
    assert [route.prefix for route in routes] == ["10.42.1.0/24", "10.42.2.0/24"]
    explained = await asyncio.to_thread(ask, socket, "routes/explain", RouteExplanation, prefix="10.42.2.0/24")
    assert explained.paths[0].used


@pytest.mark.parametrize(
    ("address", "prefix"),
    [
        ("10.42.2.7", "10.42.2.0/24"),
        ("10.42.1.1", "10.42.1.0/24"),
        ("192.0.2.1", "192.0.2.1/32"),
        ("fd43::1", "fd43::1/128"),
    ],
)
async def test_an_address_stands_for_the_longest_prefix_with_it(socket: Path, address: str, prefix: str) -> None:
    explained = await asyncio.to_thread(ask, socket, "routes/explain", RouteExplanation, prefix=address)
    assert explained.prefix == prefix


async def test_a_question_the_agent_cannot_take_is_answered_with_the_reason(socket: Path) -> None:
    with pytest.raises(RefusedError, match="'here' is not an IPv4 or IPv6 address"):
        await asyncio.to_thread(ask, socket, "routes/explain", RouteExplanation, prefix="here")
    told = await asyncio.to_thread(ask, socket, "routes/explain", RouteExplanation, prefix="[fd42::1]")
    assert told.prefix == "fd42::1/128"
    with pytest.raises(RefusedError, match=r"'10\.42\.2\.1/24' has host bits set"):
        await asyncio.to_thread(ask, socket, "routes/explain", RouteExplanation, prefix="10.42.2.1/24")


@pytest.mark.parametrize("what", ["path", "policy/explain"])
async def test_that_an_end_is_not_known_is_said_to_people_and_to_machines(socket: Path, what: str) -> None:
    with pytest.raises(RefusedError, match=r"^there is no pod x/a$") as refused:
        await asyncio.to_thread(ask, socket, what, NodeFacts, **{"from": "x/a", "to": "192.0.2.1", "port": "80"})
    assert refused.value.reason == UNKNOWN_END
    with pytest.raises(RefusedError, match="is not PORT/PROTOCOL") as refused:
        await asyncio.to_thread(ask, socket, what, NodeFacts, **{"from": "x/a", "to": "192.0.2.1", "port": "x"})
    assert refused.value.reason == ""


async def test_no_agent_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match=r"no agent at .*nobody\.sock: is it running here"):
        ask(tmp_path / "nobody.sock", "status", StatusReport)


async def test_health_readiness_and_metrics_are_served(socket: Path) -> None:
    assert await get(socket, "/healthz") == (200, "ok\n")
    assert await get(socket, "/readyz") == (200, "ok\n")
    status, text = await get(socket, "/metrics")
    assert status == 200
    assert "tortie_reconcile_seconds_bucket" in text


async def test_an_unready_node_answers_503_with_the_reason(tmp_path: Path) -> None:
    async with running(World(Family.IPV4)) as world:
        async with served(world, FakeDatastore(), tmp_path, None):
            assert await get(tmp_path / "agent.sock", "/readyz") == (
                503,
                "NotSynced: the objects have not been read yet; fake: reading\n",
            )
        assert not (tmp_path / "agent.sock").exists()


async def test_a_node_is_drained_and_put_back_over_the_socket(socket: Path) -> None:
    told = await asyncio.to_thread(tell, socket, "drain", DrainReport, waitSeconds=600, reason="cable work")
    assert (told.state, told.by, told.reason) == ("Draining", ["command"], "cable work")
    status = await asyncio.to_thread(ask, socket, "status", StatusReport)
    assert status.drain == told
    assert status.ready
    assert [condition.type for condition in status.conditions] == ["Ready", "Draining"]
    assert (await asyncio.to_thread(tell, socket, "undrain", DrainReport)).state == ""
    with pytest.raises(RefusedError, match="the node is not drained"):
        await asyncio.to_thread(tell, socket, "undrain", DrainReport)


@pytest.mark.parametrize("said", [{}, {"waitSeconds": -1}, {"waitSeconds": "1"}, {"waitSeconds": 1, "why": ""}])
async def test_a_drain_that_is_not_understood_is_refused(socket: Path, said: dict[str, object]) -> None:
    with pytest.raises(RefusedError):
        await asyncio.to_thread(tell, socket, "drain", DrainReport, **said)
    assert (await asyncio.to_thread(ask, socket, "status", StatusReport)).drain.state == ""
