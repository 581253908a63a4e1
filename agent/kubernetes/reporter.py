"""What an agent writes to the API server: the status of its node, and Events for objects that are not in force.

    every few seconds: look at the running state; write NodeRoutingStatus if a state is new, counts once a minute, and
    if nothing is new every 90 seconds that we are there
    when the node can carry pods: Node condition NetworkUnavailable, once and whenever somebody has set it again

A server that is away or says no harms nobody: it is tried again, with pauses.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import msgspec
import structlog

from agent.kubernetes.backoff import Backoff
from agent.kubernetes.client import Client, Request, Resource
from agent.kubernetes.errors import Refused, Unreachable
from agent.kubernetes.events import Pace, complaints, event, tells
from agent.kubernetes.routing_status import content, states
from agent.objects.kinds import GROUP
from agent.objects.model import Key
from agent.objects.node_routing_status import HEARTBEAT_S
from agent.report import timestamp
from agent.view import View

FIELD_MANAGER: Final = "tortie-agent"
LOOK_S: Final = 5.0
COUNTS_S: Final = 60.0
CONDITION_S: Final = 300.0
"""How often the Node's condition is read back: a cloud's controller may set it at any time."""
_AWAY_S: Final = 30.0
"""How long a server that is away is left alone at most: as long as by those who read. What nobody has heard of
meanwhile is written soon after it is back, however long that took, or every node's heartbeat would be overdue."""
_REFUSED_S: Final = 300.0
"""... and one that says no to what is written: it will say so again."""

STATUSES: Final = Resource(GROUP, "v1alpha1", "noderoutingstatuses")
NODES: Final = Resource("", "v1", "nodes")
EVENTS: Final = Resource("events.k8s.io", "v1", "events")

_APPLY: Final = "application/apply-patch+yaml"
_MERGE: Final = "application/strategic-merge-patch+json"
_UNAVAILABLE: Final = "NetworkUnavailable"


class _Condition(msgspec.Struct):
    type: str
    status: str


class _NodeStatus(msgspec.Struct, frozen=True):
    conditions: list[_Condition] = []


class _Node(msgspec.Struct):
    status: _NodeStatus = _NodeStatus()


class _Nodes(msgspec.Struct):
    items: list[_Node] = []


_read_nodes: Final = msgspec.json.Decoder(_Nodes).decode

log = structlog.get_logger("kubernetes")


class Names(Protocol):
    """What the datastore knows of objects that the reports do not."""

    def uid(self, key: Key) -> str:
        """Return the uid of an object; empty where it is not known."""

    def names(self, kind: str) -> Sequence[str]:
        """Return the names of all objects of a kind."""


class _Chore:
    """One of the things to write. What fails is tried again with pauses of its own."""

    def __init__(self, name: str, do: Callable[[], Awaitable[None]], first_s: float) -> None:
        self._name = name
        self._do = do
        self._away = Backoff(first_s=first_s, longest_s=_AWAY_S)
        self._refusals = Backoff(first_s=first_s, longest_s=_REFUSED_S)
        self._not_before = 0.0
        self._error = ""

    async def attempt(self, now: float) -> None:
        """Do it, unless it is too early."""
        if now < self._not_before:
            return
        try:
            await self._do()
        except Unreachable as error:
            self._failed(error, now + self._away.failed())
        except Refused as error:
            pauses = self._refusals if _is_final(error) else self._away
            self._failed(error, now + pauses.failed(error.retry_after_s))
        else:
            self._away.succeeded()
            self._refusals.succeeded()
            self._error = ""

    def _failed(self, error: Exception, not_before: float) -> None:
        self._not_before = not_before
        if str(error) != self._error:
            self._error = str(error)
            log.warning("kubernetes.unwritten", what=self._name, reason=self._error)


def _is_final(refused: Refused) -> bool:
    """Whether the server means this request: not that it is busy, without its etcd, or does not know us at present."""
    return 400 <= refused.status < 500 and refused.status not in {401, 429}


class Reporter:
    """Reports one node. `run` it beside the rest."""

    def __init__(
        self,
        client: Client,
        view: View,
        names: Names,
        *,
        look_s: float = LOOK_S,
        counts_s: float = COUNTS_S,
        heartbeat_s: float = HEARTBEAT_S,
        condition_s: float = CONDITION_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._view = view
        self._names = names
        self._look_s = look_s
        self._counts_s = counts_s
        self._heartbeat_s = heartbeat_s
        self._condition_s = condition_s
        self._now = now
        self._node = view.node
        self._uid = ""  # of the Node that was reported last
        self._written: dict[str, Any] = {}
        self._written_at = 0.0
        self._condition_at: float | None = None  # when it was last seen to be right
        self._pace = Pace()
        self._chores = (
            _Chore("NodeRoutingStatus", self._report_status, look_s),
            _Chore("Node condition", self._clear_condition, look_s),
            _Chore("Event", self._tell_complaints, look_s),
        )

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await self._look()
            await asyncio.sleep(self._look_s)

    async def _look(self) -> None:
        uid = self._names.uid(Key("Node", "", self._node))
        if not uid:
            return  # no Node yet, or none any more: nobody to report of
        if uid != self._uid:
            self._uid, self._written, self._condition_at = uid, {}, None
        for chore in self._chores:
            await chore.attempt(self._now())

    # NodeRoutingStatus

    async def _report_status(self) -> None:
        status = content(self._view.status(), self._view.peers(), self._written, timestamp(time.time()))
        is_news = states(status) != states(self._written)
        age_s = self._now() - self._written_at
        is_late = age_s >= self._heartbeat_s or (status != self._written and age_s >= self._counts_s)
        if not (is_news or is_late):
            return
        is_first = not self._written
        try:
            if is_first:
                await self._apply("", {"metadata": {"ownerReferences": [self._owner()]}})
            heartbeat = {"lastHeartbeatTime": timestamp(self._client.time())}
            await self._apply("status", {"status": status | heartbeat})
        except Refused as refused:
            if refused.status == 404 and not is_first:
                self._written = {}  # somebody deleted it
            raise
        self._written, self._written_at = status, self._now()

    def _owner(self) -> dict[str, Any]:
        """The status goes with its Node."""
        return {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": self._uid}

    async def _apply(self, subresource: str, document: dict[str, Any]) -> None:
        body = {"apiVersion": f"{GROUP}/v1alpha1", "kind": "NodeRoutingStatus"} | document
        body["metadata"] = {"name": self._node} | document.get("metadata", {})
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        await self._client.send(
            Request("patch", STATUSES, "", self._node, subresource, query=query, body=body, content_type=_APPLY)
        )

    # Node condition

    async def _clear_condition(self) -> None:
        """Say that pods can be carried, once they can. What a restart or a lost session is, is not said here."""
        is_fresh = self._condition_at is not None and self._now() - self._condition_at < self._condition_s
        if is_fresh or self._view.unready()[0]:
            return
        if await self._read_condition() != "False":
            await self._write_condition()
        self._condition_at = self._now()

    async def _read_condition(self) -> str:
        own = Request("list", NODES, query={"fieldSelector": f"metadata.name={self._node}"})
        nodes = _read_nodes(await self._client.send(own)).items
        conditions = [each for node in nodes for each in node.status.conditions]
        return next((each.status for each in conditions if each.type == _UNAVAILABLE), "")

    async def _write_condition(self) -> None:
        now = timestamp(time.time())
        condition = {
            "type": _UNAVAILABLE,
            "status": "False",
            "reason": "TortieIsUp",
            "message": "Tortie carries the pods of this node",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        body = {"status": {"conditions": [condition]}}
        await self._client.send(Request("patch", NODES, "", self._node, "status", body=body, content_type=_MERGE))

    # Events

    async def _tell_complaints(self) -> None:
        nodes = self._names.names("Node")
        standing = {each.name: each for each in complaints(self._view.objections()) if tells(self._node, each, nodes)}
        for complaint in self._pace.due(standing, self._now()):
            now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
            body = event(complaint, self._names.uid(complaint.about), self._node, now)
            try:
                await self._client.send(Request("create", EVENTS, body["metadata"]["namespace"], body=body))
            except Refused as refused:
                if refused.status != 409:  # another node was first
                    raise
