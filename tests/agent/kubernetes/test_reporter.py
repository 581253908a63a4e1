"""When a node writes what to the API server, and what it does when the server says no."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent.kubernetes import reporter
from agent.kubernetes.client import Request
from agent.kubernetes.errors import Refused, Unreachable
from agent.kubernetes.reporter import CONDITION_S, COUNTS_S, Reporter
from agent.objects.model import Key
from agent.objects.node_routing_status import HEARTBEAT_S
from agent.objects.problem import Problem
from felix.route import blackhole
from inet.prefix import Family, Prefix
from tests.agent.kubernetes.apiserver import FakeClient
from tests.agent.routing_world import World, running
from tests.agent.test_view import view_of

FIRST_STATUS = ["patch noderoutingstatuses.tortie.dev", "patch noderoutingstatuses.tortie.dev/status"]
STATUS = FIRST_STATUS[1:]
CONDITION = ["list nodes", "patch nodes/status"]


class Server:
    """The objects there are, and what the reporter does about them. The clock is the test's."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.time = 1000.0
        self.uids = {"n1": "uid-1"}
        self.conditions: list[dict[str, str]] = []
        self.error: Exception | None = None
        self.client = FakeClient(self._answer)
        self.problems: list[Problem | str] = []
        self.view = view_of(world, problems=lambda: self.problems)
        self.reporter = Reporter(self.client, self.view, self, now=lambda: self.time)

    def uid(self, key: Key) -> str:
        return self.uids.get(key.name, "")

    def names(self, kind: str) -> list[str]:
        return [*self.uids] if kind == "Node" else []

    def _answer(self, request: Request) -> Any:
        if self.error is not None:
            raise self.error
        return {"items": [{"status": {"conditions": self.conditions}}]} if request.verb == "list" else {}

    async def after(self, seconds: float) -> list[str]:
        """Have the reporter look so much later; return what it asked for."""
        self.time += seconds
        await self.reporter._look()
        return self.client.verbs()


@pytest.fixture
async def server() -> Any:
    async with running(World(Family.IPV4)) as world:
        await world.speaker.start()
        await world.configure(nodes={"n1": world.node(1)})
        yield Server(world)


async def test_the_status_is_made_with_its_node_as_owner_then_written(server: Server) -> None:
    await server.reporter._look()
    made, written, *_ = server.client.asked
    assert (made.name, made.query["force"], made.content_type) == ("n1", "true", "application/apply-patch+yaml")
    assert made.body["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "uid-1"}
    ]
    assert (written.subresource, written.body["status"]["localASN"]) == ("status", 64512)


async def test_nobody_is_reported_of_before_there_is_a_node(server: Server) -> None:
    server.uids = {}
    assert await server.after(0) == []


async def test_what_has_not_changed_is_not_written_again(server: Server) -> None:
    assert await server.after(0) == [*FIRST_STATUS, *CONDITION]
    assert await server.after(5) == []


async def test_a_new_state_is_written_at_once_and_a_new_count_after_a_while(server: Server) -> None:
    await server.after(0)
    server.problems = ["BGPPeer tor: wrong"]
    assert await server.after(5) == STATUS
    server.world.fib.set(blackhole(Prefix.parse("10.99.0.0/16")))
    await server.world.fib.apply()
    assert await server.after(5) == []
    assert await server.after(COUNTS_S) == STATUS


async def test_a_node_that_has_no_news_says_now_and_then_that_it_is_there(server: Server) -> None:
    server.client.clock = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
    await server.reporter._look()
    assert server.client.asked[1].body["status"]["lastHeartbeatTime"] == "2026-11-21T12:00:00Z"
    server.client.verbs()
    assert await server.after(HEARTBEAT_S - 1) == []
    assert await server.after(1) == STATUS
    asked = [await server.after(5) for _ in range(720)]
    assert 30 <= sum(each.count(STATUS[0]) for each in asked) <= 40, "in an hour"


async def test_another_node_of_the_same_name_gets_a_status_of_its_own(server: Server) -> None:
    await server.after(0)
    server.uids = {"n1": "uid-2"}
    assert await server.after(5) == [*FIRST_STATUS, *CONDITION]


async def test_a_status_that_somebody_deleted_is_made_again(server: Server) -> None:
    await server.after(0)
    server.problems = ["BGPPeer tor: wrong"]
    server.error = Refused(404, "NotFound", "it is gone")
    await server.after(5)
    server.error = None
    assert await server.after(3600) == [*FIRST_STATUS, *CONDITION]


async def test_the_condition_is_set_once_and_whenever_somebody_set_it_otherwise(server: Server) -> None:
    await server.after(0)
    server.conditions = [{"type": "NetworkUnavailable", "status": "False"}]
    assert (await server.after(CONDITION_S))[-1:] == ["list nodes"]
    server.conditions = [{"type": "NetworkUnavailable", "status": "True"}]
    assert (await server.after(CONDITION_S))[-2:] == CONDITION


async def test_the_condition_waits_until_pods_can_be_carried(server: Server) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server.view, "unready", lambda: ("NoSession", "no session is established"))
        assert await server.after(0) == FIRST_STATUS
    assert await server.after(5) == [*STATUS, *CONDITION]


async def test_an_object_that_is_not_in_force_gets_an_event_and_another_nodes_is_as_good(server: Server) -> None:
    server.problems = [Problem(kind="BGPPeer", name="tor", field="spec.peerASN", message="0 is no AS number")]
    assert (await server.after(0))[-1] == "create events.events.k8s.io"
    server.client.asked.clear()
    server.problems = [Problem(kind="BGPPeer", name="two", message="wrong")]
    server.error = Refused(409, "AlreadyExists", "another was first")
    with capture_logs() as logs:
        await server.after(60)
    assert "Event" not in [line["what"] for line in logs if line["event"] == "kubernetes.unwritten"]


async def attempts(server: Server) -> list[float]:
    """Return when the status was tried to be written in 50 minutes."""
    return [server.time for _ in range(600) if "patch noderoutingstatuses.tortie.dev" in await server.after(5)]


async def test_a_server_that_is_away_is_tried_again_twice_a_minute_and_told_of_once(server: Server) -> None:
    server.error = Unreachable("connection refused")
    with capture_logs() as logs:
        tried = await attempts(server)
    pauses = [later - earlier for earlier, later in pairwise(tried)]
    assert pauses[0] <= 10
    assert all(15 <= pause <= 35 for pause in pauses[5:])
    assert [line["what"] for line in logs] == ["NodeRoutingStatus", "Node condition"]


async def test_a_server_that_says_no_is_tried_again_less_and_less_often_and_told_of_once(server: Server) -> None:
    server.error = Refused(403, "Forbidden", "not yours")
    with capture_logs() as logs:
        tried = await attempts(server)
    pauses = [later - earlier for earlier, later in pairwise(tried)]
    assert pauses[0] <= 10
    assert all(150 <= pause <= 305 for pause in pauses[-3:])
    assert [line["what"] for line in logs] == ["NodeRoutingStatus", "Node condition"]


@pytest.mark.parametrize("minutes", [1, 10, 600])
@pytest.mark.parametrize(
    "error",
    [
        Unreachable("connection refused"),
        Refused(401, "Unauthorized", "the token ended"),
        Refused(429, "TooManyRequests", "storage is (re)initializing", retry_after_s=1),
        Refused(500, "InternalError", "etcdserver: no leader"),
        Refused(503, "", "no server is available to handle this request"),
    ],
    ids=["away", "token", "busy", "without etcd", "load balancer"],
)
async def test_however_long_a_server_was_away_it_hears_of_the_node_within_half_a_minute(
    server: Server, error: Exception, minutes: int
) -> None:
    await server.after(0)
    server.error = error
    server.problems = ["BGPPeer tor: wrong"]
    for _ in range(minutes * 12):
        await server.after(5)
    server.error = None
    heard = [asked for _ in range(7) for asked in await server.after(5)]
    assert STATUS[0] in heard
    assert server.client.asked == []


async def test_one_thing_that_is_refused_holds_up_no_other(server: Server) -> None:
    answer = server.client.answer

    def refuse_statuses(request: Request) -> Any:
        if request.resource == reporter.STATUSES:
            raise Refused(403, "Forbidden", "not yours")
        return answer(request)

    server.client.answer = refuse_statuses
    assert await server.after(0) == [FIRST_STATUS[0], *CONDITION]


async def test_a_pause_that_the_server_asks_for_is_kept(server: Server) -> None:
    server.error = Refused(429, "TooManyRequests", "slow down", retry_after_s=120)
    await server.after(0)
    server.error = None
    assert await server.after(119) == []
    assert await server.after(20) == [*FIRST_STATUS, *CONDITION]
