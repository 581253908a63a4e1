from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from agent.cli import everywhere
from agent.cli.main import app
from agent.doctor import Check, Finding, Level, LookError, Patient, examination
from agent.fleet import Outcome
from agent.fleet.fake import FakeFleet

OK = Finding("a", Level.OK, "all is well")
WARN = Finding("b", Level.WARN, "something is odd", "mend it")
FAIL = Finding("c", Level.FAIL, "something is broken", "mend it now")
OUTSIDE = Finding("e", Level.OUTSIDE, "for the host to see")
UNKNOWN = Finding("d", Level.UNKNOWN, "not to be seen")

Doctor = Callable[..., tuple[int, str]]


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Doctor:
    """`tortie doctor` that finds what is given."""

    def run(findings: list[Finding], *words: str) -> tuple[int, str]:
        async def examine(_: Patient) -> list[Finding]:
            return findings

        monkeypatch.setattr(examination, "examine", examine)
        arguments = ["doctor", "--socket", str(tmp_path / "nobody.sock"), *words]
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
        return result.exit_code, result.output

    return run


@pytest.mark.parametrize(
    ("findings", "status"),
    [([OK], 0), ([OK, WARN], 1), ([FAIL], 1), ([OK, UNKNOWN], 2), ([UNKNOWN, WARN], 1), ([], 0)],
)
def test_the_exit_status_says_whether_something_was_found(doctor: Doctor, findings: list[Finding], status: int) -> None:
    assert doctor(findings)[0] == status


def test_findings_are_lines_with_what_to_do_below(doctor: Doctor) -> None:
    _, text = doctor([OK, WARN, FAIL, UNKNOWN, UNKNOWN])
    assert text.splitlines() == [
        "ok    all is well",
        "WARN  something is odd",
        "      mend it",
        "FAIL  something is broken",
        "      mend it now",
        "?     not to be seen",
    ]


def test_json_has_all_of_it(doctor: Doctor) -> None:
    _, text = doctor([WARN], "-o", "json")
    assert json.loads(text) == [{"check": "b", "level": "WARN", "text": "something is odd", "advice": "mend it"}]


def test_of_all_nodes_only_what_is_wrong_is_shown_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*findings: Finding) -> Outcome:
        return Outcome(1, msgspec.json.encode(list(findings)))

    answers = {"n1": said(OK, WARN), "n2": said(WARN, FAIL), "n3": Outcome(0, msgspec.json.encode([OK, OUTSIDE]))}

    async def open_fleet(_: object) -> FakeFleet:
        return FakeFleet(answers)

    monkeypatch.setattr(everywhere, "open_fleet", open_fleet)
    result = CliRunner().invoke(app, ["doctor", "-A"], env={"COLUMNS": "200"})
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        "n1, n2:",
        "WARN  something is odd",
        "      mend it",
        "n2:",
        "FAIL  something is broken",
        "      mend it now",
        "n3:",
        "-     for the host to see",
        "ok    nothing is wrong with n3",
    ]


@pytest.mark.parametrize(
    ("error", "text", "advice"),
    [
        (PermissionError("no"), "x was not looked at: no", "run tortie doctor as root on the host"),
        (OSError("gone"), "gone", ""),
        (LookError("hidden"), "hidden", ""),
    ],
)
async def test_a_check_that_cannot_be_made_leaves_the_others_alone(
    tmp_path: Path, error: Exception, text: str, advice: str
) -> None:
    async def fails(_: Patient) -> None:
        raise error

    async def works(_: Patient) -> None:
        pass

    found = Patient(tmp_path, in_container=False, status=None, no_agent="", cluster=None, no_cluster="")
    checks = (Check("x", fails, lambda _: [OK]), Check("y", works, lambda _: [OK]))
    assert await examination.examine(found, checks) == [Finding("x", Level.UNKNOWN, text, advice), OK]


async def test_without_an_agent_nodes_are_read_from_manifests(tmp_path: Path) -> None:
    (tmp_path / "nodes.yaml").write_text(
        "{apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {podCIDRs: [10.42.1.0/24]}}\n"
    )
    found = await examination.present(tmp_path / "nobody.sock", tmp_path, "n1", tmp_path)
    assert found.status is None
    assert found.no_agent.startswith("no agent at")
    assert found.cluster is not None
    assert [(node.name, node.pod_cidrs) for node in found.cluster.nodes] == [("n1", ("10.42.1.0/24",))]
    blind = await examination.present(tmp_path / "nobody.sock", None, "n1", tmp_path)
    assert blind.cluster is None
    assert "or --config" in blind.no_cluster
