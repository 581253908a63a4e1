from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import yaml

from agent.lab.lab import tear_down
from agent.lab.namespaces import CommandError, run
from agent.lab.state import State, default_root
from agent.lab.wait import eventually
from tests.lab import missing

TORTIE = str(Path(sys.executable).with_name("tortie"))
TOPOLOGY = {
    "routers": {"r": {"daemon": "bird", "asn": 65100, "announce": ["192.0.2.0/24"]}},
    "nodes": {"n1": {"daemon": "bird", "asn": 65001, "podCIDRs": ["10.42.0.0/24"], "pods": ["a1"]}},
    "links": [["n1", "r"]],
}


async def tortie(*words: str) -> str:
    return await run([TORTIE, "lab", *words])


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[Path]]]:
    """Bring a lab up by the command line; taken down after the test."""
    file = tmp_path / "lab.yaml"
    name = f"c{os.getpid()}"

    async def build() -> Path:
        if lacking := missing(TOPOLOGY):
            pytest.skip(lacking)
        file.write_text(yaml.safe_dump({**TOPOLOGY, "name": name}))
        await tortie("up", str(file))
        return file

    yield build
    state = State(default_root() / name)
    if state.path.exists():
        await tear_down(state)


@pytest.mark.interop
async def test_a_lab_is_looked_at_broken_mended_and_taken_down(up: Callable[[], Awaitable[Path]]) -> None:
    file = await up()
    name = file.stem and yaml.safe_load(file.read_text())["name"]
    status = json.loads(await tortie("status", str(file), "-o", "json"))
    assert {machine["name"]: machine["state"] for machine in status["machines"]} == {
        "r": "running",
        "n1": "running",
        "a1": "none",
    }
    assert name in (await tortie("list")).split()
    await tortie("exec", "--lab", name, "a1", "--", "ping", "-c1", "-W2", "r")
    assert "192.0.2.0/24" in await tortie("ask", "--lab", name, "r", "show", "route")
    await tortie("fail", "link", "n1:r", "--lab", name)
    with pytest.raises(CommandError, match="cut") as caught:
        await tortie("status", name)
    assert caught.value.status == 1
    await tortie("heal", "link", "n1:r", "--lab", name)
    await tortie("kill", "r", "--lab", name)
    await tortie("restart", "r", "--lab", name)
    await eventually(lambda: tortie("status", name))
    await tortie("down", name)
    assert name not in (await tortie("list")).split()


@pytest.mark.interop
async def test_a_topology_may_be_named_again_at_the_call(up: Callable[[], Awaitable[Path]]) -> None:
    file = await up()
    with pytest.raises(CommandError, match=r"is up already: `tortie lab down c\d+` first, or give another --name"):
        await tortie("up", str(file))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("up", "/nonexistent.yaml"), "No such file or directory"),
        (("down", "no-such-lab"), "lab no-such-lab is not up"),
        (("fail", "link", "n1"), "a link is named by the two machines it joins, such as n1:tor-1"),
    ],
    ids=["no file", "no lab", "no link"],
)
async def test_a_mistake_ends_in_one_sentence(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(CommandError, match=message) as caught:
        await tortie(*words)
    assert caught.value.status == 2
    assert len(caught.value.text.strip().splitlines()) == 1


async def test_the_command_line_does_not_load_the_lab_to_show_its_help() -> None:
    script = "import sys, agent.cli.lab; print(*(name for name in sys.modules if name.startswith('agent.lab')))"
    assert (await run([sys.executable, "-c", script])).strip() == ""
