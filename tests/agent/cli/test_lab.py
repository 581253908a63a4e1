"""`tortie lab` where there is no lab, and its mistakes in one sentence. With labs: tests/agent/lab."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agent.cli.main import app
from agent.lab import state

TOPOLOGY = "name: small\nnodes: {n1: {}, n2: {}}\nlinks: [[n1, n2]]\n"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where labs are kept, empty."""
    monkeypatch.setattr(state, "default_root", lambda: tmp_path / "labs")
    return tmp_path / "labs"


def lab(*words: str) -> Result:
    return CliRunner().invoke(app, ["lab", *words])


def test_without_a_lab_the_list_is_empty() -> None:
    assert (lab("list").exit_code, lab("list").stdout) == (0, "")
    assert json.loads(lab("list", "-o", "json").stdout) == []


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["down"],
        ["exec", "n1", "--", "true"],
        ["ask", "tor-1", "show", "status"],
        ["fail", "link", "n1:tor-1"],
        ["heal", "link", "n1:tor-1"],
        ["kill", "n1"],
        ["restart", "n1"],
    ],
    ids=lambda words: words[0],
)
def test_without_a_lab_every_command_says_so(words: list[str]) -> None:
    result = lab(*words)
    assert result.exit_code == 2
    assert result.stderr.strip().endswith("no lab is up")


def test_with_several_labs_up_one_has_to_be_named(root: Path) -> None:
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        (root / name / "lab.json").write_text("{}")
    result = lab("status")
    assert result.exit_code == 2
    assert "several labs are up: say which of a, b" in result.stderr


def test_a_lab_may_be_named_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(TOPOLOGY)
    result = lab("status", str(tmp_path / "small.yaml"))
    assert result.exit_code == 2
    assert "lab small is not up" in result.stderr


@pytest.mark.parametrize("words", [["up", "missing.yaml"], ["status", "missing.yaml"]], ids=["up", "status"])
def test_a_file_that_is_not_there_is_named(words: list[str]) -> None:
    result = lab(*words)
    assert result.exit_code == 2
    assert "missing.yaml" in result.stderr


@pytest.mark.parametrize("text", ["n1", ":tor-1", "n1:"])
def test_a_link_has_two_ends(text: str) -> None:
    result = lab("fail", "link", text)
    assert result.exit_code == 2
    assert "a link is named by the two machines it joins, such as n1:tor-1" in result.stderr
