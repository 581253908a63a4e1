from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from agent.cni.install import PROGRAMS, RECORD_NAME, InstallError, Outcome, common_versions, install


def speaker(*versions: str, note: str = "") -> str:
    listed = ", ".join(f'"{each}"' for each in versions)
    return f'#!/bin/sh\n# {note}\necho \'{{"cniVersion": "1.0.0", "supportedVersions": [{listed}]}}\'\n'


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "image"
    directory.mkdir()
    for name in PROGRAMS:
        write(directory / name, speaker("0.4.0", "1.0.0", "1.1.0", note=name))
    return directory


@pytest.fixture
def target(tmp_path: Path) -> Path:
    directory = tmp_path / "node"
    directory.mkdir()
    return directory


def outcomes(source: Path, target: Path) -> dict[str, Outcome]:
    return {each.name: each.outcome for each in install(source, target)}


def test_what_is_not_there_is_installed_and_can_be_run(source: Path, target: Path) -> None:
    assert set(outcomes(source, target).values()) == {Outcome.INSTALLED}
    assert {each.name for each in target.iterdir()} == {*PROGRAMS, RECORD_NAME}
    assert all(stat.S_IMODE((target / name).stat().st_mode) == 0o755 for name in PROGRAMS)


def test_a_second_time_changes_nothing(source: Path, target: Path) -> None:
    install(source, target)
    before = {path.name: path.stat().st_ino for path in target.iterdir()}
    assert set(outcomes(source, target).values()) == {Outcome.SAME}
    assert {path.name: path.stat().st_ino for path in target.iterdir()} == before


def test_others_plugins_that_work_are_left_alone_and_those_that_do_not_are_replaced(source: Path, target: Path) -> None:
    write(target / "ptp", speaker("1.0.0", note="theirs"))
    write(target / "portmap", speaker("0.2.0", note="from long ago"))
    write(target / "bandwidth", "half a file")
    write(target / "flannel", "none of ours")
    found = outcomes(source, target)
    assert (found["ptp"], found["portmap"], found["bandwidth"]) == (
        Outcome.KEPT,
        Outcome.REPLACED,
        Outcome.REPLACED,
    )
    assert "theirs" in (target / "ptp").read_text()
    assert (target / "flannel").read_text() == "none of ours"


def test_what_we_installed_is_brought_up_to_date_and_what_was_exchanged_since_is_not(
    source: Path, target: Path
) -> None:
    install(source, target)
    write(target / "host-local", speaker("1.0.0", note="theirs by now"))
    for name in ("ptp", "host-local", "tortie-cni"):
        write(source / name, speaker("1.0.0", "1.1.0", note=f"{name}, the next version"))
    found = outcomes(source, target)
    assert (found["ptp"], found["tortie-cni"], found["host-local"]) == (
        Outcome.UPDATED,
        Outcome.UPDATED,
        Outcome.KEPT,
    )
    assert "next version" in (target / "ptp").read_text()
    write(source / "host-local", speaker("1.0.0", note="later still"))
    assert outcomes(source, target)["host-local"] is Outcome.KEPT


def test_a_plugin_is_replaced_in_one_step(source: Path, target: Path) -> None:
    install(source, target)
    running = os.open(target / "tortie-cni", os.O_RDONLY)
    write(source / "tortie-cni", speaker("1.0.0", note="new"))
    install(source, target)
    assert b"new" not in os.read(running, 1000)
    os.close(running)


def test_what_one_that_was_killed_left_is_removed(source: Path, target: Path) -> None:
    (target / ".ptp.x1.tortie-tmp").write_text("half")
    install(source, target)
    assert not (target / ".ptp.x1.tortie-tmp").exists()


def test_a_source_that_lacks_something_installs_nothing(source: Path, target: Path) -> None:
    (source / "ptp").unlink()
    with pytest.raises(InstallError, match="has no ptp"):
        install(source, target)
    assert list(target.iterdir()) == []


def test_a_directory_that_is_none_is_said(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="is no directory"):
        install(source, tmp_path / "nowhere")


def test_the_versions_of_a_conflist_are_those_that_all_speak(source: Path, target: Path) -> None:
    assert common_versions(install(source, target)) == ["1.0.0", "1.1.0"]
    write(target / "ptp", speaker("0.4.0", "1.0.0", note="theirs"))
    assert common_versions(install(source, target)) == ["1.0.0"]
