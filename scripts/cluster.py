"""A Kubernetes cluster on this machine: three nodes with kubelet and containerd, Tortie installed. `make cluster`.

    scripts/cluster.py up [MODE]  start it, and say how to look around; MODE is kube-proxy's: nftables or iptables
    scripts/cluster.py down       end it; nothing of it is left

What it is made of: tests/kubernetes/installed.py. A process that `up` leaves behind holds it: all of it ends with that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.kubernetes import kubeproxy  # noqa: E402 - not installed
from tests.kubernetes.installed import BUSYBOX_IMAGE, TORTIE, Installed, clean_up, missing  # noqa: E402 - not installed

NAME: Final = "tortie-cluster"
NODES: Final = ("n1", "n2", "n3")
DIRECTORY: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tortie" / "cluster"
LIMIT_S: Final = 300.0

PODS: Final = "".join(
    f"""apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers: [{{name: main, image: {BUSYBOX_IMAGE}, command: [httpd, -f, -p, "80"]}}]
---
"""
    for name, node in zip("abc", NODES, strict=True)
)


def up(proxy: str) -> int:
    """Start the cluster, if there is none, and wait until it can be used."""
    if reason := missing():
        print(f"cluster: {reason}", file=sys.stderr)
        return 2
    if holder() is None:
        down()
        DIRECTORY.mkdir(parents=True)
        with (DIRECTORY / "log").open("wb") as log:
            command = [sys.executable, __file__, "hold", proxy]
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + LIMIT_S
        print("cluster: starting ...", flush=True)
        while not (DIRECTORY / "ready").exists():
            time.sleep(0.2)
            if process.poll() is not None or time.monotonic() > deadline:
                with contextlib.suppress(FileNotFoundError):  # somebody has ended it meanwhile
                    print((DIRECTORY / "log").read_text()[-3000:], file=sys.stderr)
                down()
                return 1
    print((DIRECTORY / "ready").read_text(), end="")
    return 0


def hold(proxy: str) -> int:
    """Run the cluster until somebody ends it."""
    (DIRECTORY / "pid").write_text(str(os.getpid()))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with Installed.started(DIRECTORY / "state", NAME, NODES, proxy=proxy) as installed:
        installed.cluster.kubectl("apply", "-f", "-", stdin=PODS)
        installed.cluster.kubectl("expose", "pod", "b", "--port=80")
        installed.cluster.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")
        inside = " ".join(installed.inside)
        kubeconfig = installed.cluster.kubeconfig()
        write_command("kubectl", f'exec {" ".join(installed.kubectl)} "$@"')
        write_command("tortie", f'KUBECONFIG={kubeconfig} exec {inside} {TORTIE} "$@"')
        cases = "\n".join(
            f"    {node}) in='{' '.join(machine.inside)}' ;;" for node, machine in installed.machines.items()
        )
        write_command(
            "on",
            f"""case ${{1-}} in
{cases}
    *) echo "usage: on NODE COMMAND..." >&2; exit 2 ;;
esac
shift
exec $in env PATH={TORTIE.parent}:$PATH "$@\"""",
        )
        partial = DIRECTORY / ".ready"
        partial.write_text(f"""\
Three nodes are Ready, with the pods a, b and c. Look around:

    export PATH={DIRECTORY}/bin:$PATH
    kubectl get nodes,pods -A -o wide
    kubectl get noderoutingstatuses
    kubectl exec a -- ping -c 1 $(kubectl get pod c -o jsonpath='{{.status.podIP}}')
    kubectl exec a -- wget -S -O- $(kubectl get service b -o jsonpath='{{.spec.clusterIP}}')
    tortie peers --all-nodes
    on n1 tortie routes installed      or any other command, such as: on n1 nft list table inet tortie
    kubectl -n tortie-system logs daemonset/tortie-agent

Agents run from this checkout: `kubectl -n tortie-system delete pods --all` tries an edit.
Images of pods: {BUSYBOX_IMAGE}; there is no registry. `make cluster-down` ends it.
""")
        partial.rename(DIRECTORY / "ready")
        while True:
            signal.pause()


def write_command(name: str, script: str) -> None:
    """Write a command for people."""
    path = DIRECTORY / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def holder() -> int | None:
    """Return the process that holds the cluster."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((DIRECTORY / "pid").read_text())
        if Path(__file__).name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    return None


def down() -> int:
    """End the cluster, if there is one, and remove what is left of it."""
    if (pid := holder()) is not None:
        deadline = time.monotonic() + LIMIT_S
        os.kill(pid, signal.SIGTERM)
        while holder() is not None:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
    clean_up(NAME, NODES)
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    return 0


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["up", *modes] if not modes or modes in [[each] for each in kubeproxy.MODES]:
            sys.exit(up(*modes or kubeproxy.MODES[:1]))
        case ["hold", mode]:
            sys.exit(hold(mode))
        case ["down"]:
            sys.exit(down())
        case _:
            sys.exit(__doc__)
