"""The agent as a process, on the kernel of a namespace of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.cli.client import ask
from agent.report import StatusReport

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
]
TORTIE = str(Path(sys.executable).with_name("tortie"))
NODES = """
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.42.0.0/24, "fd42::/64"]}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}, {type: InternalIP, address: "fd00::1"}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
spec: {podCIDRs: [10.42.1.0/24, "fd42:0:0:1::/64"]}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}, {type: InternalIP, address: "fd00::2"}]}
"""


def until(accept: Callable[[], object], what: str, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not accept():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)  # between two looks


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    name = f"td{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    for words in ("link set lo up", "link add v0 type veth peer name v1", "link set v1 up", "link set v0 up",
                  "addr add 192.168.0.1/24 dev v0", "addr add fd00::1/64 dev v0 nodad"):  # fmt: skip
        subprocess.run(["ip", "-n", name, *words.split()], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


class Process:
    """One `tortie agent`."""

    def __init__(self, namespace: str, tmp_path: Path, node: str = "n1", **environment: str) -> None:
        self.namespace = namespace
        self.config = tmp_path / "config"
        self.run_dir = tmp_path / "run"
        self.log = tmp_path / "log"
        self.config.mkdir(exist_ok=True)
        argv = ["ip", "netns", "exec", namespace, TORTIE, "agent", "--config", str(self.config), "--node", node]
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                [*argv, "--run-dir", str(self.run_dir)], stderr=log, env=os.environ | environment
            )

    def status(self) -> StatusReport | None:
        try:
            return ask(self.run_dir / "agent.sock", "status", StatusReport)
        except Exception:  # noqa: BLE001 - it is not there yet
            return None

    def until(self, accept: Callable[[StatusReport], object], what: str) -> StatusReport:
        until(lambda: (status := self.status()) is not None and accept(status), f"{what}: {self.status()}")
        status = self.status()
        assert status is not None
        return status

    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.log.read_text().splitlines() if line.startswith("{")]

    def kernel(self) -> str:
        shown = subprocess.run(
            ["ip", "-n", self.namespace, "route", "show", "proto", "97"], check=True, capture_output=True
        )
        shown6 = subprocess.run(
            ["ip", "-6", "-n", self.namespace, "route", "show", "proto", "97"], check=True, capture_output=True
        )
        return (shown.stdout + shown6.stdout).decode()


@pytest.fixture
def agent(namespace: str, tmp_path: Path) -> Iterator[Process]:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "nodes.yaml").write_text(NODES)
    process = Process(namespace, tmp_path)
    yield process
    process.popen.kill()
    process.popen.wait()


def test_it_comes_up_with_its_own_routes_and_says_what_it_waits_for(agent: Process) -> None:
    status = agent.until(lambda status: status.speaker_running, "speaker running")
    assert status.pod_cidrs == ["10.42.0.0/24", "fd42::/64"]
    assert status.waiting_for == ["192.168.0.2", "fd00::2"]
    assert "blackhole 10.42.0.0/24" in agent.kernel()
    assert "blackhole fd42::/64" in agent.kernel()


STOP_S = 2
"""What is promised. It is half a second's work."""


def test_sigterm_ends_it_within_two_seconds_and_leaves_the_routes(agent: Process) -> None:
    agent.until(lambda status: status.speaker_running, "speaker running")
    agent.popen.send_signal(signal.SIGTERM)
    assert agent.popen.wait(timeout=STOP_S) == 0
    assert "blackhole 10.42.0.0/24" in agent.kernel()
    assert not (agent.run_dir / "agent.sock").exists()
    assert agent.events()[-1] == "agent.stopped"


def is_heard(process: Process) -> bool:
    """Whether SIGTERM has a handler."""
    (caught,) = re.findall(r"SigCgt:\t(\w+)", Path(f"/proc/{process.popen.pid}/status").read_text())
    return bool(int(caught, 16) >> signal.SIGTERM - 1 & 1)


def is_running(process: Process, program: str) -> bool:
    found = [Path(f"/proc/{pid}/cmdline") for pid in pids_in(process.namespace)]
    with contextlib.suppress(OSError):  # one that has ended meanwhile
        return any(program in path.read_text() for path in found)
    return False


MOMENTS: dict[str, tuple[Callable[[Process], bool], signal.Signals]] = {
    "the command line begins": (is_heard, signal.SIGTERM),
    "the agent's own process begins": (lambda it: is_running(it, "-m\0agent"), signal.SIGINT),
    "the agent is put together": (lambda it: it.run_dir.exists(), signal.SIGTERM),
    "it answers": (lambda it: (it.run_dir / "agent.sock").exists(), signal.SIGINT),
    "ExaBGP begins": (lambda it: is_running(it, "server.py"), signal.SIGTERM),
    "the bridge begins": (lambda it: is_running(it, "bridge.py"), signal.SIGINT),
}


def everything_in_the_kernel(namespace: str) -> list[str]:
    routes = ["ip route show table all proto 97", "ip -6 route show table all proto 97", "ip nexthop"]
    enter, found = ["ip", "netns", "exec", namespace], list[str]()
    for look in (*routes, "ip -d link", "ip address", "nft -s list ruleset"):
        shown = subprocess.run([*enter, *look.split()], check=True, capture_output=True, text=True)
        found += shown.stdout.splitlines()
    return found


def test_one_that_is_stopped_while_it_starts_ends_well_and_leaves_what_the_one_before_it_left(
    agent: Process, tmp_path: Path
) -> None:
    (agent.config / "policy.yaml").write_text(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: nothing, namespace: shop}\n"
        "spec: {podSelector: {}}\n"
    )
    agent.until(lambda status: status.speaker_running and status.policy.in_kernel, "the one before")
    agent.popen.send_signal(signal.SIGTERM)
    agent.popen.wait(timeout=30)
    left = everything_in_the_kernel(agent.namespace)
    for moment, (has_come, number) in MOMENTS.items():
        shutil.rmtree(agent.run_dir, ignore_errors=True)  # the first moments come before it
        agent.log.unlink()
        process = Process(agent.namespace, tmp_path)
        try:
            until(lambda: has_come(process), moment)  # noqa: B023 - called here and now
            process.popen.send_signal(number)
            assert process.popen.wait(timeout=30) == 0, moment
        finally:
            process.popen.kill()
            process.popen.wait()
        assert [line for line in process.log.read_text().splitlines() if not line.startswith("{")] == [], moment
        until(lambda: not pids_in(agent.namespace), f"every process of it gone: {moment}")
        assert everything_in_the_kernel(agent.namespace) == left, moment


def test_its_files_and_sockets_are_its_owners_alone(agent: Process) -> None:
    agent.until(lambda status: status.speaker_running, "speaker running")
    open_to_others = [path for path in (agent.run_dir, *agent.run_dir.iterdir()) if path.stat().st_mode & 0o077]
    assert open_to_others == []


def test_nothing_of_it_is_left_when_it_is_killed(agent: Process) -> None:
    agent.until(lambda status: status.speaker_running, "speaker running")
    agent.popen.kill()
    agent.popen.wait()
    until(lambda: not pids_in(agent.namespace), "every process of the agent gone")


def pids_in(namespace: str) -> list[str]:
    return subprocess.run(["ip", "netns", "pids", namespace], check=True, capture_output=True).stdout.decode().split()


def test_a_second_agent_on_the_node_is_refused(agent: Process, tmp_path: Path) -> None:
    agent.until(lambda status: status.speaker_running, "speaker running")
    second = Process(agent.namespace, tmp_path / "second" if (tmp_path / "second").mkdir() is None else tmp_path)
    assert second.popen.wait(timeout=60) == 2
    text = second.log.read_text()
    assert text == (
        f"tortie: another tortie agent runs on this node already (process {agent.popen.pid}); "
        "stop it first (one agent for each node)\n"
    )


def test_without_its_node_object_it_waits_and_says_so(namespace: str, tmp_path: Path) -> None:
    process = Process(namespace, tmp_path, node="n9")
    try:
        (process.config / "nodes.yaml").write_text(NODES)
        wanted = "there is no Node object n9: nothing is done until there is one"
        status = process.until(lambda status: wanted in status.problems, "the problem")
        assert not status.ready
        (process.config / "n9.yaml").write_text(
            "apiVersion: v1\nkind: Node\nmetadata: {name: n9}\nspec: {podCIDRs: [10.42.9.0/24]}\n"
            "status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}\n"
        )
        process.until(lambda status: status.pod_cidrs == ["10.42.9.0/24"], "the node")
    finally:
        process.popen.kill()
        process.popen.wait()


def test_a_node_object_that_goes_leaves_everything_as_it_was(agent: Process) -> None:
    agent.until(lambda status: status.speaker_running, "speaker running")
    (agent.config / "nodes.yaml").unlink()
    status = agent.until(lambda status: status.problems, "the problem")
    assert status.problems == ["Node n1 is gone: its last version stays in force"]
    assert "blackhole 10.42.0.0/24" in agent.kernel()


def test_a_bad_manifest_harms_itself_alone(agent: Process) -> None:
    agent.until(lambda status: status.speaker_running, "speaker running")
    (agent.config / "bad.yaml").write_text(
        "apiVersion: tortie.dev/v1alpha1\nkind: BGPPeer\nmetadata: {name: x}\n"
        "spec: {peer: {address: 192.168.0.9}, peerASM: 1}\n"
    )
    status = agent.until(lambda status: status.problems, "the problem")
    assert "unknown field" in status.problems[0]
    assert status.sessions_configured == 2


TELL_OF_SLOW_CALLBACKS = """
import sys, time
from asyncio import events

def waited():  # for a processor, in seconds: the second number
    with open("/proc/thread-self/schedstat") as file:
        return int(file.read().split()[1]) / 1e9

def run(handle, real=events.Handle._run):
    began = time.monotonic() - waited()
    real(handle)
    took = time.monotonic() - waited() - began
    if took > 0.3:
        print(f"slow: {handle!r} took {took:.3f} s", file=sys.stderr, flush=True)

events.Handle._run = run
"""
"""What asyncio's debug mode does, without the time for which a busy machine did not let the agent run."""


def test_nothing_blocks_the_event_loop(namespace: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(TELL_OF_SLOW_CALLBACKS)
    process = Process(namespace, tmp_path, PYTHONPATH=str(tmp_path))
    try:
        (process.config / "nodes.yaml").write_text(NODES)
        process.until(lambda status: status.speaker_running, "speaker running")
        many = "".join(
            f"---\napiVersion: v1\nkind: Node\nmetadata: {{name: m{number}}}\n"
            f"spec: {{podCIDRs: [10.43.{number}.0/24]}}\n"
            f"status: {{addresses: [{{type: InternalIP, address: 192.168.1.{number}}}]}}\n"
            for number in range(1, 100)
        )
        (process.config / "more.yaml").write_text(many)
        process.until(lambda status: status.sessions_configured == 101, "101 sessions")
        process.popen.send_signal(signal.SIGTERM)
        process.popen.wait(timeout=30)
        assert [line for line in process.log.read_text().splitlines() if line.startswith("slow: ")] == []
    finally:
        process.popen.kill()
        process.popen.wait()
