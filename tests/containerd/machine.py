"""A machine with a container runtime: containerd, our agent and the CNI plugins in one network namespace.

containerd lives in a mount namespace too, where /run/netns and /var/lib/cni are its own: what it makes is seen nowhere
else. `reboot` takes away what a power failure takes: processes, links, everything in /run.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import yaml

from agent.cni.conflist import FILE_NAME
from agent.cni.install import PROGRAMS
from tests.containerd.cri import CriError, Runtime
from tests.kubernetes.images import ARCHITECTURE

ROOT: Final = Path(__file__).parents[2]
PLUGIN_DIR: Final = ROOT / "cni" / "bin"
BUSYBOX: Final = Path("/bin/busybox")
PAUSE: Final = "tortie.test/pause:1"
DEADLINE_S: Final = 60.0
# `tortie`, but that its agent waits a second where it would wait for minutes. It becomes itself, for that is what
# starts the agent.
_IN_HASTE: Final = """
import os, sys
import agent.__main__ as process
if process.OPTIONS in os.environ:
    from agent.cni import leases, node
    leases.LeakWatch.__init__.__defaults__ = (1.0,)
    node.LOOK_INTERVAL_S = 1.0
    process.main()
else:
    replace = os.execve
    os.execve = lambda program, _, environment: replace(program, [program, *sys.orig_argv[1:]], environment)
    from agent.cli.main import main
    main()
"""


def missing() -> str:
    """Return why there can be no machine here; empty if there can."""
    if os.geteuid() != 0:
        return "needs root"
    programs = [each for each in ("containerd", "ctr", "runc", "nsenter", "ip", "nft") if shutil.which(each) is None]
    if programs or not BUSYBOX.exists():
        return f"needs {', '.join([*programs, str(BUSYBOX)])}: make setup"
    if not all((PLUGIN_DIR / name).exists() for name in PROGRAMS):
        return f"needs {PLUGIN_DIR.relative_to(ROOT)}: make cni (needs Go)"
    return ""


def run(*command: str, stdin: bytes = b"") -> str:
    """Run a command and return what it wrote."""
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.decode()}{done.stdout.decode()}")
    return done.stdout.decode()


def _pause_image() -> bytes:
    """Return an image that docker would save: busybox, asleep."""

    def pack(files: Mapping[str, tuple[bytes, int]]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, (content, mode) in files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), mode
                archive.addfile(entry, io.BytesIO(content))
        return buffer.getvalue()

    layer = pack({"bin/sleep": (BUSYBOX.read_bytes(), 0o755)})
    config = {
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": {"Entrypoint": ["/bin/sleep", "infinity"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [PAUSE], "Layers": ["layer.tar"]}]
    files = {"config.json": config, "manifest.json": manifest}
    return pack(
        {"layer.tar": (layer, 0o644)} | {name: (json.dumps(each).encode(), 0o644) for name, each in files.items()}
    )


def run_as_kubelets_do(machine: Machine, name: str, **config: Any) -> str:
    """Start a pod's sandbox; what fails is tried again with a new one."""
    deadline = time.monotonic() + 120
    attempt = 0
    while True:
        try:
            return machine.runtime.run(name, attempt=attempt, **config)
        except CriError:
            if time.monotonic() > deadline:
                raise
            attempt += 1
            time.sleep(1)


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


class Machine:
    """One machine. Every method blocks."""

    def __init__(self, directory: Path, name: str, cidrs: tuple[str, ...]) -> None:
        self.name = name
        self.cidrs = cidrs
        self.disk, self.volatile = directory / "disk", directory / "volatile"
        self.manifests, self.conf = self.disk / "manifests", self.disk / "net.d"
        self.leases = self.disk / "networks"
        self.run_dir = self.volatile / "tortie"
        self._bin = self.disk / "bin"
        self._containerd: subprocess.Popen[bytes] | None = None
        self._agent: subprocess.Popen[bytes] | None = None
        self.runtime: Runtime
        for each in (self.manifests, self.conf, self.leases, self._bin, self.disk / "containerd", self.disk / "logs"):
            each.mkdir(parents=True)
        for plugin in PROGRAMS:
            shutil.copy2(PLUGIN_DIR / plugin, self._bin)

    @classmethod
    @contextlib.contextmanager
    def started(cls, directory: Path, name: str, cidrs: tuple[str, ...]) -> Iterator[Self]:
        """Start a machine, and take all of it away in the end."""
        machine = cls(directory, name, cidrs)
        try:
            machine.give_node()
            machine.boot()
            machine.start_agent()
            machine.eventually(machine.runtime.network_ready, "a runtime that is ready for pods")
            yield machine
        finally:
            machine.power_off()
            machine.remove_cgroups()

    # Power

    def boot(self) -> None:
        """Start containerd in a network namespace of its own."""
        self.volatile.mkdir(exist_ok=True)
        run("ip", "netns", "add", self.name)
        for command in ("link set lo up", "link add up0 type veth peer name up1", "link set up0 up", "link set up1 up"):
            run("ip", "-n", self.name, *command.split())
        for program in ("iptables", "ip6tables"):  # as the kubelet says that there is one (KEP-3178)
            self.inside(program, "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
        self.start_containerd()

    def power_off(self) -> None:
        """Kill everything, at once."""
        self.kill_agent()
        self.kill_containerd()
        for pid in self._descendants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.eventually(lambda: not self._descendants(), "an end of all processes")
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)
        shutil.rmtree(self.volatile, ignore_errors=True)

    def reboot(self) -> None:
        """Lose power, and start again."""
        self.power_off()
        self.boot()
        self.start_agent()

    def _descendants(self) -> set[int]:
        """Return shims and what they started: those that have our socket's path on the command line, and children."""
        parents, found = {}, set()
        mark = str(self.volatile).encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    status = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                    if status[0] == "Z":
                        continue
                    parents[int(entry.name)] = int(status[1])
                    if (
                        mark in (entry / "cmdline").read_bytes()
                        and b"containerd-shim" in (entry / "cmdline").read_bytes()
                    ):
                        found.add(int(entry.name))
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return found

    @property
    def cgroup(self) -> str:
        return f"/{self.name}"

    def remove_cgroups(self) -> None:
        for top in (*Path("/sys/fs/cgroup").iterdir(), Path("/sys/fs/cgroup")):
            below = top / self.name
            if below.is_dir():
                for path, _, _ in os.walk(below, topdown=False):
                    with contextlib.suppress(OSError):
                        Path(path).rmdir()

    # containerd

    def start_containerd(self) -> None:
        """Start containerd and wait until it answers."""
        socket = self.volatile / "containerd.sock"
        config = self.disk / "containerd.toml"
        config.write_text(f"""
version = 2
root = "{self.disk}/containerd"
state = "{self.volatile}/containerd"
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
disable_tcp_service = true
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{self._bin}"
conf_dir = "{self.conf}"
[debug]
level = "debug"
""")
        (self.disk / "cni-cache").mkdir(exist_ok=True)
        script = (
            'mkdir -p /var/lib/cni && mount --bind "$1" /var/lib/cni && mount -t tmpfs none /run/netns'
            ' && exec containerd -c "$2"'
        )
        command = ["nsenter", f"--net=/run/netns/{self.name}", "unshare", "-m", "sh", "-c", script, "sh"]
        with (self.disk / "containerd.log").open("ab") as log:
            self._containerd = subprocess.Popen(
                [*command, str(self.disk / "cni-cache"), str(config)], stdout=log, stderr=log, start_new_session=True
            )
        self.runtime = Runtime(socket, self.cgroup, self.disk / "logs")
        self.runtime.wait(DEADLINE_S)
        ctr = ["ctr", "--address", str(socket), "-n", "k8s.io", "images"]
        if PAUSE not in run(*ctr, "ls", "-q"):
            run(*ctr, "import", "-", stdin=_pause_image())

    @property
    def containerd_pid(self) -> int:
        """The process id of containerd, which must run."""
        assert self._containerd is not None
        return self._containerd.pid

    def kill_containerd(self) -> None:
        """Kill containerd alone: its shims and their pods go on."""
        if self._containerd is not None:
            self.runtime.close()
            self._containerd.kill()
            self._containerd.wait()
            self._containerd = None

    def lose_runtime_state(self) -> None:
        """Have the runtime know nothing of the pods it started; their processes go on."""
        self.kill_containerd()
        shutil.rmtree(self.disk / "containerd")
        (self.disk / "containerd").mkdir()
        self.start_containerd()

    def crash(self, sandbox: str) -> None:
        """Take away a pod's processes and its network namespace, and tell nobody."""
        path = self.runtime.netns(sandbox)
        (shim,) = (each for each in self._descendants() if sandbox in _command_line(each))
        for each in (shim, self.runtime.pid(sandbox)):
            os.kill(each, signal.SIGKILL)
        run("nsenter", "-t", str(self.containerd_pid), "-m", "umount", path)
        run("nsenter", "-t", str(self.containerd_pid), "-m", "rm", path)

    # The agent

    @property
    def agent_pid(self) -> int:
        """The process id of the agent, which must run."""
        assert self._agent is not None
        return self._agent.pid

    @property
    def agent_runs(self) -> bool:
        """Whether there is an agent."""
        return self._agent is not None

    def start_agent(self, *, in_haste: bool = False) -> None:
        """Start the agent; it may take a moment until it serves. One in haste waits seconds where others do minutes."""
        tortie = [sys.executable, "-c", _IN_HASTE] if in_haste else [str(Path(sys.executable).with_name("tortie"))]
        command = [
            *("nsenter", f"--net=/run/netns/{self.name}", *tortie, "agent"),
            *("--config", str(self.manifests), "--node", self.name, "--run-dir", str(self.run_dir), "--listen", ""),
            *("--cni-conf-dir", str(self.conf), "--cni-state-dir", str(self.leases), "--log-level", "debug"),
        ]
        with (self.disk / "agent.log").open("ab") as log:
            self._agent = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)

    def stop_agent(self) -> None:
        """Stop the agent as an upgrade does."""
        self._end_agent(signal.SIGTERM)

    def kill_agent(self) -> None:
        """Kill the agent."""
        self._end_agent(signal.SIGKILL)

    @contextlib.contextmanager
    def agent_hanging(self) -> Iterator[None]:
        """Let the agent do nothing meanwhile, as a machine without memory does."""
        assert self._agent is not None
        self._agent.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._agent.send_signal(signal.SIGCONT)

    def _end_agent(self, number: int) -> None:
        if self._agent is not None:
            self._agent.send_signal(number)
            self._agent.wait(DEADLINE_S)
            self._agent = None

    # Objects

    def give_node(self, cidrs: tuple[str, ...] = ()) -> None:
        """Write the Node object."""
        self._write(
            "node",
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": self.name},
                "spec": {"podCIDRs": list(cidrs or self.cidrs)},
                "status": {
                    "addresses": [{"type": "InternalIP", "address": each} for each in ("172.16.1.11", "fd16::11")]
                },
            },
        )

    def give_pods(self, *names: str, **labels: str) -> None:
        """Write objects of pods that nobody has started: without addresses."""
        for name in names:
            self._write(
                f"pod-{name}",
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": name, "namespace": "shop", "uid": f"uid-{name}", "labels": labels},
                    "spec": {"nodeName": self.name},
                },
            )

    def give_policy(self, name: str, spec: dict[str, Any]) -> None:
        """Write a NetworkPolicy."""
        metadata = {"name": name, "namespace": "shop"}
        document = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}
        self._write(f"policy-{name}", document)

    def _write(self, name: str, document: dict[str, Any]) -> None:
        partial = self.manifests / f".{name}"
        partial.write_text(yaml.safe_dump(document))
        partial.replace(self.manifests / f"{name}.yaml")

    def take_all(self) -> None:
        """Delete every object but the Node."""
        for path in self.manifests.glob("po*.yaml"):
            path.unlink()

    # Looking

    def conflist(self) -> dict[str, Any]:
        """Return the conflist."""
        found: dict[str, Any] = json.loads((self.conf / FILE_NAME).read_text())
        return found

    def cached_result(self, sandbox: str) -> dict[str, Any]:
        """Return what an ADD ended with, as the runtime keeps it."""
        path = self.disk / "cni-cache" / "results" / f"tortie-{sandbox}-eth0"
        found: dict[str, Any] = json.loads(path.read_text())["result"]
        return found

    def leased(self) -> set[str]:
        """Return the addresses that host-local has given."""
        return {
            each.name for each in (self.leases / "tortie").glob("*") if each.name[0].isalnum() and "l" not in each.name
        }

    def ip(self, *command: str) -> str:
        """Run ip on the machine."""
        return run("ip", "-n", self.name, *command)

    def inside(self, *command: str) -> str:
        """Run a command in the machine's network namespace."""
        return run("nsenter", f"--net=/run/netns/{self.name}", *command)

    def plugin(self, name: str) -> Path:
        """Return a CNI plugin's program."""
        return self._bin / name

    def newest_netns(self) -> str:
        """Return the network namespace that containerd made last, by its path there."""
        there = f"nsenter -t {self.containerd_pid} -m ls -t /run/netns".split()
        return f"/run/netns/{run(*there).split()[0]}"

    def reaches_from_netns(self, path: str, address: str) -> bool:
        """Return whether an address is reached from a namespace of a pod that has no process yet."""
        command = f"nsenter -t {self.containerd_pid} -m nsenter --net={path} ping -c 1 -W 1 {address}"
        return subprocess.run(command.split(), capture_output=True, check=False).returncode == 0

    def reaches(self, pid: int, address: str, tries: int = 1) -> bool:
        """Return whether the network namespace of a process reaches an address."""
        done = subprocess.run(
            ["nsenter", "-t", str(pid), "-n", "ping", "-c", str(tries), "-W", "1", "-i", "0.2", address],
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    def log(self, name: str = "agent") -> str:
        """Return what agent or containerd have written."""
        return (self.disk / f"{name}.log").read_text(errors="replace")

    def eventually(self, condition: Any, what: str, within_s: float = DEADLINE_S) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline:
                log = self.log() if (self.disk / "agent.log").exists() else ""
                raise TimeoutError(f"not within {within_s:g} s: {what}\n{log[-3000:]}")
            time.sleep(0.05)
