"""Runs a conflist as container runtimes do, and says what each plugin took.

A program of its own, which `bench.cni` starts in the network namespace of a node: JSON in, JSON out, a `Job` on a line
of standard input and its `Outcome` on a line of standard output, until there is no more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

OWN: Final = "tortie-cni"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod to wire: its network namespace is a file."""

    name: str
    uid: str
    container: str
    netns: str


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of an ADD: all plugins one after the other, ours among them, and the CPU time of ours and of the rest."""

    whole: float
    own: float
    own_cpu: float
    other_cpu: float


def run(command: str, plugins: Sequence[Mapping[str, Any]], head: Mapping[str, Any], bin_dir: Path, pod: Pod) -> Took:
    """Run a list of plugins for one pod. Raises RuntimeError with a plugin's words."""
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": pod.container,
        "CNI_NETNS": pod.netns,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(bin_dir),
        "PATH": os.environ["PATH"],
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={pod.name};K8S_POD_UID={pod.uid}",
    }
    result: dict[str, Any] = {}
    own = own_cpu = other_cpu = 0.0
    began = time.monotonic()
    for plugin in plugins if command == "ADD" else reversed(plugins):
        conf = {**plugin, **head, **result}
        before = time.monotonic()
        said, cpu = _run(bin_dir / plugin["type"], environment, json.dumps(conf).encode())
        if plugin["type"] == OWN:
            own += time.monotonic() - before
            own_cpu += cpu
        else:
            other_cpu += cpu
        if command == "ADD":
            result = {"prevResult": json.loads(said)}
    return Took(time.monotonic() - began, own, own_cpu, other_cpu)


def _run(program: Path, environment: Mapping[str, str], conf: bytes) -> tuple[bytes, float]:
    """Return what a plugin said, and the CPU seconds that it used, with those that it ran itself."""
    process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert process.stdin is not None  # noqa: S101 - asked for
    assert process.stdout is not None  # noqa: S101 - asked for
    with process.stdin, process.stdout:
        process.stdin.write(conf)
        process.stdin.close()
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{environment['CNI_COMMAND']} {program.name} {environment['CNI_NETNS']}: {said.decode()}")
    return said, used.ru_utime + used.ru_stime


def main() -> None:
    """Wire pods or take them away, so many at a time."""
    for line in sys.stdin:
        job = json.loads(line)
        pods = [Pod(**each) for each in job["pods"]]
        with ThreadPoolExecutor(job["at_a_time"]) as pool:
            took = list(
                pool.map(
                    lambda pod, job=job: run(job["command"], job["plugins"], job["head"], Path(job["bin_dir"]), pod),
                    pods,
                )
            )
        print(json.dumps([asdict(each) for each in took]), flush=True)


if __name__ == "__main__":
    main()
