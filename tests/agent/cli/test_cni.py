"""`tortie cni install`, as a container of the node's pod runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agent.cli.main import app
from agent.cni.conflist import VERSIONS_FILE
from agent.cni.install import PROGRAMS


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "image"
    directory.mkdir()
    for name in PROGRAMS:
        plugin = directory / name
        plugin.write_text('#!/bin/sh\necho \'{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0", "1.1.0"]}\'\n')
        plugin.chmod(0o755)
    return directory


def install(source: Path, tmp_path: Path, *more: str) -> Result:
    places = ["--from", str(source), "--bin-dir", str(tmp_path / "bin"), "--run-dir", str(tmp_path / "run")]
    for each in ("bin", "run"):
        (tmp_path / each).mkdir(exist_ok=True)
    return CliRunner().invoke(app, ["cni", "install", *places, *more])


def test_every_plugin_is_told_with_what_became_of_it(source: Path, tmp_path: Path) -> None:
    result = install(source, tmp_path)
    assert result.exit_code == 0
    *plugins, versions = result.stdout.splitlines()
    assert plugins == [f"{name:12} installed" for name in PROGRAMS]
    assert versions == "CNI versions that all of them speak: 1.0.0, 1.1.0"
    assert {each.name for each in (tmp_path / "bin").iterdir()} >= set(PROGRAMS)


def test_the_agent_finds_the_versions_noted(source: Path, tmp_path: Path) -> None:
    install(source, tmp_path)
    assert (tmp_path / "run" / VERSIONS_FILE).read_text().split() == ["1.0.0", "1.1.0"]


def test_programs_read_it_as_json(source: Path, tmp_path: Path) -> None:
    install(source, tmp_path)
    told = json.loads(install(source, tmp_path, "-o", "json").stdout)
    assert told["cniVersions"] == ["1.0.0", "1.1.0"]
    assert told["plugins"][0] == {"name": "loopback", "outcome": "up to date"}


def test_what_is_missing_ends_it_with_one_line(source: Path, tmp_path: Path) -> None:
    (source / "ptp").unlink()
    result = install(source, tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{source} has no ptp" in result.stderr


def test_a_directory_that_cannot_be_written_ends_it_with_one_line(source: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ptp").mkdir()
    result = install(source, tmp_path)
    assert result.exit_code == 2
    assert "cannot install: " in result.stderr
    assert "Traceback" not in result.stderr
