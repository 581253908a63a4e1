"""Runs a conflist as container runtimes do, and says what each plugin took.

A program of its own, which `bench.cni` starts in the network namespace of a node. In: JSON on standard input, see
`main`. Out: JSON, for each pod the seconds of its ADD and of our plugin's part in it.
"""

from __future__ import annotations

import json
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
    """Seconds of an ADD: all plugins one after the other, and ours among them."""

    whole: float
    own: float


def run(command: str, plugins: Sequence[Mapping[str, Any]], head: Mapping[str, Any], bin_dir: Path, pod: Pod) -> Took:
    """Run a list of plugins for one pod. Raises RuntimeError with a plugin's words."""
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": pod.container,
        "CNI_NETNS": pod.netns,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(bin_dir),
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={pod.name};K8S_POD_UID={pod.uid}",
    }
    result: dict[str, Any] = {}
    began = time.monotonic()
    own = 0.0
    for plugin in plugins if command == "ADD" else reversed(plugins):
        conf = {**plugin, **head, **result}
        before = time.monotonic()
        done = subprocess.run(
            [bin_dir / plugin["type"]],
            input=json.dumps(conf).encode(),
            env=environment,
            capture_output=True,
            check=False,
        )
        if plugin["type"] == OWN:
            own += time.monotonic() - before
        if done.returncode:
            raise RuntimeError(f"{command} {plugin['type']} {pod.name}: {done.stdout.decode()}{done.stderr.decode()}")
        if command == "ADD":
            result = {"prevResult": json.loads(done.stdout)}
    return Took(time.monotonic() - began, own)


def main() -> None:
    """Wire all pods, so many at a time; then take them away."""
    job = json.load(sys.stdin)
    conflist = json.loads(Path(job["conflist"]).read_text(encoding="utf-8"))
    plugins = [each for each in conflist["plugins"] if job["own"] or each["type"] != OWN]
    head = {"cniVersion": conflist["cniVersion"], "name": conflist["name"]}
    pods = [Pod(**each) for each in job["pods"]]
    bin_dir = Path(job["bin_dir"])
    with ThreadPoolExecutor(job["at_a_time"]) as pool:
        took = list(pool.map(lambda pod: run("ADD", plugins, head, bin_dir, pod), pods))
        list(pool.map(lambda pod: run("DEL", plugins, head, bin_dir, pod), pods))
    json.dump([asdict(each) for each in took], sys.stdout)


if __name__ == "__main__":
    main()
