"""All checks together: none stops the others, and what could not be looked at is no pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.cli.client import UnreachableError
from agent.clusterreport import ClusterReport
from agent.doctor import Check, Finding, Level, LookError, OutsideError, Patient, examination
from agent.doctor.examination import CHECKS, examine, present, verdict
from agent.report import StatusReport
from tests.agent.doctor.patients import STATUS, cluster, patient


def check(name: str, gather: Callable[[], str]) -> Check[str]:
    async def look(_patient: Patient) -> str:
        return gather()

    def judge(facts: str) -> Iterable[Finding]:
        yield Finding(name, Level.OK, facts)

    return Check(name, look, judge)


def fails(error: Exception) -> Callable[[], str]:
    def gather() -> str:
        raise error

    return gather


async def test_a_check_that_cannot_be_made_is_a_finding_and_leaves_the_others_alone() -> None:
    checks = [
        check("a", fails(PermissionError(1, "Operation not permitted"))),
        check("b", fails(LookError("there is no nft"))),
        check("c", lambda: "fine"),
    ]
    found = await examine(patient(), checks)
    assert [(each.check, each.level) for each in found] == [
        ("a", Level.UNKNOWN),
        ("b", Level.UNKNOWN),
        ("c", Level.OK),
    ]
    assert found[0].advice == "run tortie doctor as root on the host"


async def test_what_a_container_cannot_see_by_its_nature_is_no_fault() -> None:
    inside = dataclasses.replace(patient(), in_container=True)
    denied = PermissionError(1, "Operation not permitted")
    found = await examine(inside, [check("a", fails(denied)), check("b", fails(OutsideError("not to be seen")))])
    assert [each.level for each in found] == [Level.OUTSIDE, Level.OUTSIDE]
    (elsewhere,) = await examine(patient(), [check("a", fails(denied))])
    assert elsewhere.level is Level.UNKNOWN


def test_every_check_has_a_name_of_its_own() -> None:
    names = [each.name for each in CHECKS]
    assert len(names) == len(set(names)) > 10


@pytest.mark.parametrize(
    ("levels", "status"),
    [
        ([], 0),
        ([Level.OK], 0),
        ([Level.OK, Level.UNKNOWN], 2),
        ([Level.OK, Level.OUTSIDE], 0),
        ([Level.UNKNOWN, Level.WARN], 1),
        ([Level.FAIL], 1),
    ],
)
def test_the_exit_status_is_the_worst_that_was_found(levels: Sequence[Level], status: int) -> None:
    assert verdict(Finding("x", level, "") for level in levels) == status


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the agent says to each question; it does not answer others."""
    answers: dict[str, Any] = {}

    def ask(socket: Path, what: str, _answer: object) -> Any:
        if what not in answers:
            raise UnreachableError(f"no agent at {socket}")
        return answers[what]

    monkeypatch.setattr(examination, "ask", ask)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    return answers


SOCKET = Path("/run/tortie/agent.sock")
NODE = """
apiVersion: v1
kind: Node
metadata: {name: n7}
spec: {podCIDRs: [10.42.7.0/24]}
"""


async def test_the_agents_own_word_is_taken(agent: dict[str, Any]) -> None:
    agent |= {"status": STATUS, "cluster": cluster()}
    found = await present(SOCKET, None, "n1", Path("/"))
    assert (found.status, found.cluster, found.no_agent, found.no_cluster) == (STATUS, cluster(), "", "")
    assert isinstance(found.status, StatusReport)
    assert not found.in_container


@pytest.mark.usefixtures("agent")
async def test_without_an_agent_or_manifests_it_is_said_what_would_help() -> None:
    found = await present(SOCKET, None, "n1", Path("/"))
    assert found.no_agent == "no agent at /run/tortie/agent.sock"
    assert found.no_cluster == "nodes are not known without an agent (no agent at /run/tortie/agent.sock) or --config"


@pytest.mark.usefixtures("agent")
async def test_manifests_say_what_an_agent_would_have(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text(NODE)
    found = await present(SOCKET, tmp_path, "n7", Path("/"))
    assert isinstance(found.cluster, ClusterReport)
    assert [(node.name, node.pod_cidrs) for node in found.cluster.nodes] == [("n7", ("10.42.7.0/24",))]
    assert found.no_cluster == ""


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize(("root", "in_container"), [("/", True), ("/host", False)])
async def test_in_a_pod_the_hosts_files_are_not_there_unless_they_are_mounted(
    monkeypatch: pytest.MonkeyPatch, root: str, *, in_container: bool
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.43.0.1")
    assert (await present(SOCKET, None, "n1", Path(root))).in_container is in_container
