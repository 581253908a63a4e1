"""A node: a network namespace with a link, a relay to the API server, and `tortie agent` as a process in it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from agent.cli.client import ask
from agent.report import StatusReport
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.relay import PORT, Relay

TORTIE = str(Path(sys.executable).with_name("tortie"))
DEADLINE_S = 60.0
WHY_NOT = "" if os.geteuid() == 0 else "needs root for network namespaces"

_ACCOUNT = "/run/secrets/kubernetes.io/serviceaccount"
_NUMBERS = itertools.count()


def until(condition: Callable[[], object], what: object, within_s: float = DEADLINE_S) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.05)  # between two looks


class AgentNode:
    """`name` is the Node's name; the namespace has the address 172.16.9.1 and fd16:9::1 on a link `eth0`."""

    def __init__(self, cluster: Cluster, directory: Path, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.namespace = f"tk8s{os.getpid()}n{next(_NUMBERS)}"
        self.run_dir = directory / "run"
        self.log = directory / "log"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.relay: Relay

    @classmethod
    @contextlib.contextmanager
    def built(cls, cluster: Cluster, directory: Path, name: str = "n1") -> Iterator[Self]:
        """Make the namespace and the relay; `start` starts the agent."""
        node = cls(cluster, directory, name)
        with contextlib.ExitStack() as stack:
            subprocess.run(["ip", "netns", "add", node.namespace], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "del", node.namespace], check=True)
            for words in ("link set lo up", "link add eth0 type veth peer name uplink", "link set uplink up",
                          "link set eth0 up", "addr add 172.16.9.1/24 dev eth0",
                          "addr add fd16:9::1/64 dev eth0 nodad"):  # fmt: skip
                subprocess.run(["ip", "-n", node.namespace, *words.split()], check=True)
            node.relay = stack.enter_context(Relay.started(cluster.port, node.namespace))
            stack.callback(node.kill)
            yield node

    def manifest(self, **spec: Any) -> dict[str, Any]:
        """Return the Node object."""
        addresses = [{"type": "InternalIP", "address": each} for each in ("172.16.9.1", "fd16:9::1")]
        spec = spec or {"podCIDRs": ["10.42.9.0/24", "fd42:0:0:9::/64"], "podCIDR": "10.42.9.0/24"}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name},
            "spec": spec,
            "status": {"addresses": addresses},
        }

    def start(self, token: str = "", **environment: str) -> None:
        """Start the agent, as the administrator unless there is a token."""
        kubeconfig = self.write_kubeconfig(token)
        argv = ["ip", "netns", "exec", self.namespace, TORTIE, "agent", "--kubeconfig", str(kubeconfig)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*argv, "--node", self.name, "--run-dir", str(self.run_dir)], stderr=log, env=os.environ | environment
            )

    def start_in_pod(self, account: Path) -> None:
        """Start the agent as in a pod whose service account has these files (token, ca.crt, namespace)."""
        mounted = f'mount -t tmpfs none /run && mkdir -p {_ACCOUNT} && mount --bind {account} {_ACCOUNT} && exec "$@"'
        argv = ["ip", "netns", "exec", self.namespace, "unshare", "--mount", "sh", "-c", mounted, "sh", TORTIE, "agent"]
        there = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(PORT)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*argv, "--node", self.name, "--run-dir", str(self.run_dir)], stderr=log, env=os.environ | there
            )

    def write_kubeconfig(self, token: str = "") -> Path:
        """Write what the agent reads its access from, again perhaps, and return where it is."""
        words = {"token": token} if token else {}
        return self.cluster.kubeconfig(**words, server=f"https://127.0.0.1:{PORT}", name=self.namespace)

    @property
    def pid(self) -> int:
        """The agent's process."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End the agent without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def status(self) -> StatusReport | None:
        """Return what it says of itself; None as long as nobody answers."""
        try:
            return ask(self.run_dir / "agent.sock", "status", StatusReport)
        except Exception:  # noqa: BLE001 - it is not there yet
            return None

    def until(self, accept: Callable[[StatusReport], object], what: str) -> StatusReport:
        """Wait until its status is as wanted, and return that."""
        found: list[StatusReport] = []

        def is_so() -> bool:
            assert self._process is None or self._process.poll() is None, self.log.read_text()[-2000:]
            status = self.status()
            if status is not None and accept(status):
                found.append(status)
            return bool(found)

        until(is_so, lambda: f"{what}: {self.status()}\n{self.log.read_text()[-2000:]}")
        return found[0]

    def until_in_force(self) -> StatusReport:
        """Wait until its own routes are in the kernel."""
        return self.until(
            lambda status: status.pod_cidrs and status.routes_installed and not status.routes_pending, "up"
        )

    def events(self) -> list[dict[str, Any]]:
        """Return the log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def routes(self) -> str:
        """Return our routes in the kernel, both families."""
        shown = [
            subprocess.run(
                ["ip", *family, "-n", self.namespace, "route", "show", "proto", "97"],
                check=True, capture_output=True, text=True,
            ).stdout
            for family in ([], ["-6"])
        ]  # fmt: skip
        return "".join(shown)

    def table(self) -> str:
        """Return our nftables table; empty where there is none."""
        argv = ["ip", "netns", "exec", self.namespace, "nft", "list", "table", "inet", "tortie"]
        return subprocess.run(argv, check=False, capture_output=True, text=True).stdout

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        """Fail if any route, nexthop or rule changes in the kernel before the block ends."""
        heard = self._directory / "heard"
        inside = ["ip", "netns", "exec", self.namespace]
        with heard.open("wb") as file:
            listeners = [
                subprocess.Popen([*inside, *words], stdout=file, stderr=file)
                for words in (["ip", "monitor", "route", "nexthop"], ["nft", "monitor"])
            ]
        try:
            self._say("first", heard)
            yield
            self._say("last", heard)  # it is heard last: so all that came before was heard, too
        finally:
            for each in listeners:
                each.kill()
                each.wait()
        _, _, during = heard.read_text().partition("first_word")
        lines = [
            line
            for line in during.splitlines()
            if not any(word in line for word in ("_word", "192.0.2.99", "# ", "table local"))
        ]
        assert not [line for line in lines if line.strip()], during

    def _say(self, which: str, heard: Path) -> None:
        """Change something by hand until that is heard: a listener takes a moment to begin."""
        inside = ["ip", "netns", "exec", self.namespace]
        count = heard.read_text().count("192.0.2.99")

        def is_heard() -> bool:
            for verb in ("add", "delete"):
                subprocess.run([*inside, "ip", "route", verb, "192.0.2.99/32", "dev", "eth0"], check=True)
                subprocess.run([*inside, "nft", verb, "table", "inet", f"{which}_word"], check=True)
            text = heard.read_text()
            return f"{which}_word" in text and text.count("192.0.2.99") > count

        until(is_heard, heard.read_text)
