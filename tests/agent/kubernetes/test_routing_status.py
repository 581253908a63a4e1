from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from agent.kubernetes.routing_status import MAX_SESSIONS, content, states
from agent.objects.node_routing_status import NodeRoutingStatus
from agent.report import ConditionReport, DrainReport, PeerReport, StatusReport
from tests.agent.cli.test_look import PEER, STATUS

NOON, LATER = "2026-11-21T12:00:00Z", "2026-11-21T13:00:00Z"
UP = ConditionReport("Ready", "True", "InSync", "1 of 1 sessions established")
DOWN = ConditionReport("Ready", "False", "NoSession", "no session is established")


@dataclass
class Reports:
    status: StatusReport
    peers: list[PeerReport]

    def written(self, before: dict[str, Any] | None = None, now: str = NOON) -> dict[str, Any]:
        return content(self.status, self.peers, before or {}, now)


@pytest.fixture
def reports() -> Reports:
    return Reports(STATUS, [PEER])


def test_it_is_what_the_kind_says_it_is(reports: Reports) -> None:
    document = {"metadata": {"name": "n1"}, "status": reports.written()}
    model = NodeRoutingStatus.model_validate(document, by_alias=True, by_name=False)
    assert str(model.status.sessions[0].peer) == PEER.peer
    assert model.status.established_sessions == STATUS.sessions_established


def test_a_count_is_no_state_and_a_session_is_one(reports: Reports) -> None:
    before = reports.written()
    busier = msgspec.structs.replace(STATUS, routes_installed=STATUS.routes_installed + 1)
    assert states(Reports(busier, [PEER]).written(before)) == states(before)
    assert Reports(busier, [PEER]).written(before) != before
    lost = msgspec.structs.replace(PEER, state="Active")
    assert states(Reports(STATUS, [lost]).written(before)) != states(before)


def test_a_condition_keeps_the_time_of_its_last_change(reports: Reports) -> None:
    reports.status = msgspec.structs.replace(STATUS, conditions=[UP])
    before = reports.written()
    assert reports.written(before, LATER) == before
    changed = msgspec.structs.replace(STATUS, conditions=[DOWN], problems=STATUS.problems)
    times = {
        each["type"]: each["lastTransitionTime"] for each in Reports(changed, []).written(before, LATER)["conditions"]
    }
    assert times == {"Ready": LATER, "ObjectsAccepted": NOON}


def test_a_countdown_is_no_news() -> None:
    def held(left: int) -> StatusReport:
        condition = ConditionReport("MassDeleteHeldBack", "True", "TooManyAtOnce", f"they go in {left} s")
        return msgspec.structs.replace(STATUS, conditions=[condition])

    assert Reports(held(9), []).written() == Reports(held(8), []).written()


def test_of_a_large_mesh_the_sessions_that_are_down_are_shown_first() -> None:
    up = [msgspec.structs.replace(PEER, peer=f"10.0.{n // 250}.{n % 250}", state="Established") for n in range(1000)]
    down = msgspec.structs.replace(PEER, peer="10.9.9.9", state="Active")
    shown = Reports(STATUS, [*up, down]).written()["sessions"]
    assert len(shown) == MAX_SESSIONS
    assert shown[0]["peer"] == "10.9.9.9"


def test_the_first_objects_that_are_not_in_force_are_named(reports: Reports) -> None:
    reports.status = msgspec.structs.replace(STATUS, problems=[f"BGPPeer p{number}: wrong" for number in range(7)])
    (accepted,) = [each for each in reports.written()["conditions"] if each["type"] == "ObjectsAccepted"]
    assert accepted["status"] == "False"
    assert accepted["message"].splitlines()[-2:] == ["BGPPeer p4: wrong", "and 2 more"]


def test_a_drain_is_there_while_there_is_one(reports: Reports) -> None:
    assert "drain" not in reports.written()
    reports.status = msgspec.structs.replace(STATUS, drain=DrainReport("Draining", ["command"], "disk", NOON, LATER))
    assert reports.written()["drain"] == {"state": "Draining", "since": NOON, "withdrawAt": LATER, "reason": "disk"}
