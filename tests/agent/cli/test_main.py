from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.cli.main import app


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.output


def test_every_command_has_help_with_an_example() -> None:
    for words in (("status",), ("peers",), ("routes", "explain"), ("routes", "available"), ("routes", "advertised"),
                  ("routes", "installed"), ("config", "check"), ("agent",), ("lab", "up")):  # fmt: skip
        status, text = run(*words, "--help")
        assert status == 0
        assert "Example: tortie" in text, words


def test_paragraphs_of_help_are_as_wide_as_the_terminal() -> None:
    text = CliRunner().invoke(app, ["path", "--help"], env={"COLUMNS": "200"}).output
    assert "others through the cluster of --kubeconfig or the lab. Nothing is sent." in text


def test_config_check_names_file_line_field_and_reason(tmp_path: Path) -> None:
    (tmp_path / "peer.yaml").write_text(
        "apiVersion: tortie.dev/v1alpha1\nkind: BGPPeer\nmetadata: {name: tor}\nspec:\n  peer: {address: 172.16.1.1}\n"
        "  peerASN: 4294967296\n"
    )
    status, text = run("config", "check", str(tmp_path))
    assert status == 1
    assert f"{tmp_path}/peer.yaml:6: BGPPeer tor: spec.peerASN: 4294967296" in text
    assert text.endswith("1 problem\n")
    (problem,) = json.loads(run("config", "check", str(tmp_path), "-o", "json")[1])
    assert (problem["line"], problem["field"]) == (6, "spec.peerASN")


def test_config_check_finds_nothing_in_good_manifests() -> None:
    assert run("config", "check", "examples/two-racks") == (0, "no problems\n")


@pytest.mark.parametrize("listen", ["9797", "127.0.0.1:0", "host:x"])
def test_the_agent_refuses_an_address_it_cannot_listen_on(tmp_path: Path, listen: str) -> None:
    status, text = run("agent", "--config", str(tmp_path), "--node", "n1", "--listen", listen)
    assert status == 2
    assert f"--listen '{listen}': HOST:PORT" in text


@pytest.mark.parametrize("heavy", ["aiohttp", "pydantic", "yaml"])
def test_help_comes_without_loading_the_agent(heavy: str) -> None:
    code = f"import sys; import agent.cli.main; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_version_is_told_to_people_and_to_machines() -> None:
    assert CliRunner().invoke(app, ["version"]).output == "tortie 0.1.0\n"
    assert json.loads(CliRunner().invoke(app, ["version", "-o", "json"]).output) == {"version": "0.1.0"}
