"""What docs/routers.md tells people to write works: real routers with these very files, two nodes of one rack."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.objects.kinds import KINDS, decode, key_of
from tests.felix.netns import WHY_NOT

pytestmark = [pytest.mark.kernel, pytest.mark.interop]

PAGE = (Path(__file__).parents[2] / "docs" / "routers.md").read_text()
DEADLINE_S = 60.0
NODES = [
    {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"n{number}", "labels": {"rack": "a"}},
        "spec": {"podCIDRs": [f"10.42.{number}.0/24", f"fd42:0:0:{number}::/64"]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": f"172.16.1.1{number}"},
                {"type": "InternalIP", "address": f"fd00:16:1::1{number}"},
            ]
        },
    }
    for number in (1, 2)
]
SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bgp"}, "stringData": {"tor": "correct-horse"}}


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout


@pytest.fixture
def rack() -> Iterator[dict[str, str]]:
    """A router whose bridge is the link of two nodes; namespaces by name."""
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    names = {name: f"doc{os.getpid()}{name}" for name in ("tor", "n1", "n2")}
    try:
        for name in names.values():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", names["tor"], "link", "add", "rack", "type", "bridge")
        ip("-n", names["tor"], "addr", "add", "172.16.1.1/24", "dev", "rack")
        ip("-n", names["tor"], "addr", "add", "fd00:16:1::1/64", "dev", "rack", "nodad")
        ip("-n", names["tor"], "link", "set", "rack", "up")
        for number in (1, 2):
            node = names[f"n{number}"]
            peer = ("peer", "name", f"n{number}", "netns", names["tor"])
            ip("link", "add", "eth0", "netns", node, "type", "veth", *peer)
            ip("-n", names["tor"], "link", "set", f"n{number}", "master", "rack", "up")
            ip("-n", node, "addr", "add", f"172.16.1.1{number}/24", "dev", "eth0")
            ip("-n", node, "addr", "add", f"fd00:16:1::1{number}/64", "dev", "eth0", "nodad")
            ip("-n", node, "link", "set", "eth0", "up")
        yield names
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@contextlib.contextmanager
def running(namespace: str, log: Path, *command: str) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(["ip", "netns", "exec", namespace, *command], stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


@contextlib.contextmanager
def frr(namespace: str, directory: Path) -> Iterator[None]:
    if not Path("/usr/lib/frr/bgpd").exists():
        pytest.skip("needs FRR (frr)")
    directory.chmod(0o755)
    shutil.chown(directory, "frr", "frr")
    (directory / "bgpd.conf").write_text(block("frr"))
    (directory / "zebra.conf").write_text("hostname tor\n")
    common = ["--log", "stdout", "--vty_socket", str(directory), "-z", f"{directory}/zserv.api"]
    programs = [
        ["/usr/lib/frr/" + name, *common, "-i", f"{directory}/{name}.pid", "-f", f"{directory}/{name}.conf"]
        for name in ("zebra", "bgpd")
    ]
    with running(namespace, directory / "zebra.log", *programs[0]):
        until((directory / "zserv.api").exists, "zebra answers")
        with running(namespace, directory / "bgpd.log", *programs[1]):
            yield
            refused = [line for line in (directory / "bgpd.log").read_text().splitlines() if "Unknown command" in line]
            assert refused == []


@contextlib.contextmanager
def bird(namespace: str, directory: Path) -> Iterator[None]:
    if shutil.which("bird") is None:
        pytest.skip("needs BIRD (bird2)")
    (directory / "bird.conf").write_text(block("bird"))
    with running(
        namespace, directory / "bird.log", "bird", "-f", "-c", f"{directory}/bird.conf", "-s", f"{directory}/s"
    ):
        yield


@contextlib.contextmanager
def agent(namespace: str, node: str, directory: Path) -> Iterator[Callable[..., Any]]:
    """Run an agent; what is yielded asks it something with the command line, for JSON."""
    tortie = str(Path(sys.executable).with_name("tortie"))
    run_dir = str(directory / node)
    where = ["--config", str(directory / "manifests"), "--run-dir", run_dir, "--listen", ""]

    def ask(*words: str) -> Any:
        command = [tortie, *words, "-o", "json", "--socket", f"{run_dir}/agent.sock"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return json.loads(done.stdout) if done.stdout.strip() else []

    with running(namespace, directory / f"{node}.log", tortie, "agent", "--node", node, *where):
        yield ask


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)  # between two looks


def states(ask: Callable[..., Any]) -> list[str]:
    return [peer["state"] for peer in ask("peers")]


def routes(namespace: str) -> set[str]:
    return {
        route["dst"]
        for option in ("-4", "-6")
        for route in json.loads(ip(option, "-n", namespace, "-j", "route", "show", "proto", "97"))
        if route.get("type") != "blackhole"
    }


@pytest.mark.parametrize("router", [frr, bird], ids=["FRR", "BIRD"])
def test_two_nodes_of_a_rack_reach_each_other_through_a_router_configured_as_the_page_says(
    rack: dict[str, str], tmp_path: Path, router: Callable[..., Any]
) -> None:
    manifests = tmp_path / "manifests"
    router_files = Path(tempfile.gettempdir()) / rack["tor"]  # where the user frr can get to
    manifests.mkdir()
    router_files.mkdir()
    documents = [*yaml.safe_load_all(block("yaml")), *NODES, SECRET]
    (manifests / "all.yaml").write_text(yaml.safe_dump_all(documents))
    try:
        with (
            router(rack["tor"], router_files),
            agent(rack["n1"], "n1", tmp_path) as first,
            agent(rack["n2"], "n2", tmp_path) as second,
        ):
            for ask in (first, second):
                until(lambda ask=ask: states(ask) == ["Established"] * 2, f"sessions: {ask('peers')}")
            until(lambda: routes(rack["n1"]) >= {"10.42.2.0/24", "fd42:0:0:2::/64"}, "n1 hears of n2's pods")
            until(lambda: routes(rack["n2"]) >= {"10.42.1.0/24", "fd42:0:0:1::/64"}, "n2 hears of n1's pods")
    finally:
        shutil.rmtree(router_files)


def test_the_manifests_of_the_page_are_right() -> None:
    for document in yaml.safe_load_all(block("yaml")):
        kind = KINDS[document["kind"]]
        decode(kind, key_of(kind, document), document)
