"""A machine of a cluster: a real containerd and a real kubelet, in namespaces of their own.

The network namespace has a link `eth0` into the cluster's. Processes, mounts, host name and cgroups are the machine's
own as well (`machine.sh` is its first process): two kubelets on one computer do not see each other, what they write is
below one directory, and all of it ends with the first process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import yaml

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.images import BUSYBOX

_FIRST_PROCESS: Final = Path(__file__).with_name("machine.sh")
_CGROUPS: Final = Path("/sys/fs/cgroup")
PAUSE: Final = "tortie.test/pause:1"
_END_S: Final = 30.0

_CONTAINERD: Final = f"""
version = 2
[plugins."io.containerd.grpc.v1.cri"]
disable_tcp_service = true
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
"""
_KUBELET: Final = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
    "cgroupDriver": "cgroupfs",
    "failCgroupV1": False,
    "failSwapOn": False,
    "localStorageCapacityIsolation": False,
    "oomScoreAdj": 0,  # less than that needs CAP_SYS_RESOURCE
    # Nobody but the cluster can reach it.
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    # A disk that is nearly full is not what is looked at.
    "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
    "imageGCHighThresholdPercent": 100,
    "maxPods": 110,
    "syncFrequency": "10s",
    "nodeStatusUpdateFrequency": "4s",
    "shutdownGracePeriod": "0s",
}


def missing() -> str:
    """Return why there can be no machine here; empty if there can."""
    if os.geteuid() != 0:
        return "needs root"
    programs = ("containerd", "ctr", "runc", "nsenter", "unshare", "ip", "nft", "openssl")
    lacking = [each for each in programs if shutil.which(each) is None]
    if not BUSYBOX.exists():
        lacking.append("busybox-static")
    if lacking:
        return f"needs {', '.join(lacking)}: make setup"
    if not (_CGROUPS / "memory" / "cgroup.procs").exists():
        return f"needs cgroup v1 with its controllers below {_CGROUPS}"
    return ""


class Machine:
    """One machine, named as its Node object."""

    def __init__(self, cluster: Cluster, name: str, namespace: str, addresses: tuple[str, ...]) -> None:
        self.name = name
        self.namespace = namespace
        self.addresses = addresses
        self.disk = cluster.directory / name
        self._cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextlib.contextmanager
    def started(
        cls, cluster: Cluster, name: str, namespace: str, addresses: tuple[str, ...], images: Path
    ) -> Iterator[Self]:
        """Run a machine for as long as the block lasts. Its network namespace is there, with all links."""
        machine = cls(cluster, name, namespace, addresses)
        machine.disk.mkdir()
        (machine.disk / "images.tar").hardlink_to(images)
        try:
            machine.start()
            yield machine
        finally:
            machine.stop()

    def start(self) -> None:
        """Start it, on the disk it had if it ran before."""
        (self.disk / "containerd.toml").write_text(_CONTAINERD)
        (self.disk / "kubelet.yaml").write_text(yaml.safe_dump(_KUBELET))
        (self.disk / "addresses").write_text(",".join(self.addresses))
        shutil.copy(self._cluster.kubeconfig(f"{self.name}-token", name=self.name), self.disk / "kubeconfig")
        _make_cgroups(self.namespace)
        join = 'for each in /sys/fs/cgroup/*/"$0"; do echo $$ >"$each/cgroup.procs"; done; exec "$@"'
        apart = ["--cgroup", "--mount", "--uts", "--ipc", "--pid", "--mount-proc", "--fork", "--kill-child"]
        command = [
            *("setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", join, self.namespace),
            *("nsenter", f"--net=/run/netns/{self.namespace}", "unshare", *apart),
            *("sh", str(_FIRST_PROCESS), self.name, str(self.disk), str(self._cluster.programs)),
        ]
        with (self.disk / "machine.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def stop(self) -> None:
        """Take its power away. All of its processes have ended by then."""
        if self._process is not None:
            for first in self._first() or [self._process.pid]:
                os.kill(first, signal.SIGKILL)  # it ends when all others have, and then the one that waits for it
            self._process.wait(_END_S)
            self._process = None

    def _first(self) -> list[int]:
        assert self._process is not None
        pid = self._process.pid
        with contextlib.suppress(OSError):
            return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    @property
    def inside(self) -> list[str]:
        """What runs a command there, when put before it."""
        (first,) = self._first()
        return ["nsenter", "-t", str(first), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]

    def run(self, *command: str) -> str:
        """Run a command there and return what it prints."""
        done = subprocess.run([*self.inside, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}{done.stdout}"
        return done.stdout


def _cgroups(name: str) -> list[Path]:
    return [top / name for top in _CGROUPS.iterdir() if (top / "cgroup.procs").exists()]


def _make_cgroups(name: str) -> None:
    """Make a cgroup in every hierarchy."""
    for group in _cgroups(name):
        group.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # empty in a new one, and then nothing can run there
            if (group / setting).exists():
                (group / setting).write_text((group.parent / setting).read_text())


def remove_cgroups(name: str) -> None:
    """Remove a machine's cgroups once its processes have ended."""
    for group in _cgroups(name):
        for path, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(path).rmdir()
