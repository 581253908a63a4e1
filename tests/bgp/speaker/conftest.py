"""The speaker on a node in a namespace of its own (`speaker`), and one that a scripted process plays with (`made`)."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bgp.speaker import Session
from bgp.speaker.exabgp import ExaBGPSpeaker, process
from tests.bgp.speaker.lab import Lab, Listener, enter, run
from tests.bgp.speaker.scripted import V4, V6, Stage

_labs = itertools.count()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A node in a namespace of its own; this process and what it starts is in it for the length of the test."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("bird") is None:
        pytest.skip("bird is not installed (Debian package bird2)")
    made = Lab(f"ts{os.getpid()}x{next(_labs)}", tmp_path)
    run("ip", "netns", "add", made.node)
    run("ip", "-n", made.node, "link", "set", "lo", "up")
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        enter(Path("/run/netns") / made.node)
        yield made
    finally:
        enter(Path(f"/proc/self/fd/{before}"))
        os.close(before)
        made.close()


@pytest.fixture
async def speaker(lab: Lab) -> AsyncIterator[ExaBGPSpeaker]:
    """A speaker on the node, started."""
    made = ExaBGPSpeaker(lab.directory / "run")
    await made.start()
    yield made
    await made.stop(graceful=True)


@pytest.fixture
async def listener(speaker: ExaBGPSpeaker) -> AsyncIterator[Listener]:
    """Everything the speaker hears, as it hears it."""
    made = Listener(speaker)
    yield made
    await made.close()


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()
    monkeypatch.setattr(process.Child, "start", stage.start)
    monkeypatch.setattr(process, "validate", stage.validate)
    return stage


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path_factory.mktemp("s"))  # a socket's path may have 107 bytes
    return Path("run")


@pytest.fixture
async def made(stage: Stage, directory: Path) -> AsyncIterator[ExaBGPSpeaker]:
    """A speaker that is started."""
    del stage
    made = ExaBGPSpeaker(directory)
    await made.start()
    yield made
    await made.stop(graceful=True)


@pytest.fixture
async def heard(made: ExaBGPSpeaker) -> AsyncIterator[Listener]:
    """Everything that one hears."""
    heard = Listener(made)
    yield heard
    await heard.close()


@pytest.fixture(params=[V4, V6], ids=["IPv4", "IPv6"])
def session(request: pytest.FixtureRequest) -> Session:
    chosen: Session = request.param
    return chosen
