"""The image at work, as the chart runs it: two capabilities, a read-only root, seccomp, nothing of the host's.

`make test-image` builds the image and runs these. Of an image for another kind of machine (TORTIE_IMAGE) the tests of
its files can be run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent import __version__
from felix.namespaces import entered
from tests.chart.rendering import the
from tests.felix.netns import WHY_NOT
from tests.image import elf
from tests.image.podman import IMAGE, PODMAN, podman
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.node import AgentNode
from tests.kubernetes.relay import PORT

pytestmark = [pytest.mark.kernel, pytest.mark.image]

DEADLINE_S = 60.0
LARGEST_BYTES = 150_000_000
ARM64_PAGE_BYTES = 1 << 16

NODES = [
    {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"n{number}"},
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
OBJECTS = [
    *NODES,
    {
        "apiVersion": "tortie.dev/v1alpha1",
        "kind": "BGPConfiguration",
        "metadata": {"name": "default"},
        "spec": {"nodeMesh": {"passwordSecretRef": {"name": "bgp", "key": "mesh"}}},
    },
    {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bgp"}, "stringData": {"mesh": "correct horse"}},
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}},
    {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "db-0", "namespace": "shop", "labels": {"app": "db"}},
        "spec": {"nodeName": "n1"},
        "status": {"podIPs": [{"ip": "10.42.1.5"}, {"ip": "fd42:0:0:1::5"}], "phase": "Running"},
    },
    {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "db-in", "namespace": "shop"},
        "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"]},
    },
]


@pytest.fixture(autouse=True)
def _image() -> None:
    if shutil.which(PODMAN[0]) is None:
        pytest.skip(f"no {PODMAN[0]}")
    if subprocess.run([*PODMAN, "image", "exists", IMAGE], check=False).returncode:
        pytest.skip(f"no image {IMAGE}: make image")


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    """Two nodes on one link."""
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    names = (f"image{os.getpid()}a", f"image{os.getpid()}b")
    lines = [f"netns add {name}" for name in names]
    lines.append(f"link add eth0 netns {names[0]} type veth peer name eth0 netns {names[1]}")
    try:
        subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)
        for number, name in enumerate(names, 1):
            inside = [
                f"addr add 172.16.1.1{number}/24 dev eth0",
                f"addr add fd00:16:1::1{number}/64 dev eth0 nodad",
                "link set lo up",
                "link set eth0 up",
            ]
            subprocess.run(["ip", "-n", name, "-batch", "-"], input="\n".join(inside), text=True, check=True)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def options_of_the_chart(container: str, values: dict[str, Any]) -> list[str]:
    """Return what the chart asks a runtime for, as podman spells it."""
    pod = the("DaemonSet", values)["spec"]["template"]["spec"]
    (found,) = (each for each in (*pod["initContainers"], *pod["containers"]) if each["name"] == container)
    context = found["securityContext"]
    added = [option for name in context["capabilities"].get("add", ()) for option in ("--cap-add", name)]
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    limits = ["--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"]
    kept = ["--read-only", "--read-only-tmpfs=false", "--security-opt", "no-new-privileges"]
    return [*kept, "--cap-drop", "all", *added, *limits, "--volume", "/proc/sys/net:/host/proc/sys/net"]


def until(condition: Callable[[], Any], what: Callable[[], str]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)  # between two looks
    return found


def answer(namespace: str, path: str) -> str:
    with entered(namespace):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:9797{path}", timeout=5) as response:
                return str(response.read().decode())
        except OSError as error:
            return str(error)


def routes(namespace: str, option: str) -> set[str]:
    shown = subprocess.run(
        ["ip", option, "-n", namespace, "-j", "route", "show", "proto", "97"],
        capture_output=True,
        check=True,
    ).stdout
    return {route["dst"] for route in json.loads(shown)}


@contextlib.contextmanager
def neighbour(namespace: str, directory: Path) -> Iterator[None]:
    """Run an agent of this checkout in a namespace, as the other node."""
    tortie = Path(sys.executable).with_name("tortie")
    where = ["--config", str(directory / "manifests"), "--run-dir", str(directory / "run-there")]
    command = ["ip", "netns", "exec", namespace, str(tortie), "agent", "--node", "n2", *where]
    with (directory / "neighbour.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def places(namespace: str, directory: Path) -> list[str]:
    mounts = [f"{directory}/manifests:/etc/tortie:ro", f"{directory}/run:/run/tortie"]
    return ["--network", f"ns:/run/netns/{namespace}", *(option for mount in mounts for option in ("--volume", mount))]


@contextlib.contextmanager
def container(namespace: str, directory: Path) -> Iterator[str]:
    """Run the image's agent in a namespace, with what the chart gives it."""
    options = [*places(namespace, directory), *options_of_the_chart("agent", {})]
    arguments = ["agent", "--config", "/etc/tortie", "--node", "n1"]
    podman("run", "--detach", "--name", namespace, *options, IMAGE, *arguments)
    try:
        yield namespace
    finally:
        podman("rm", "--force", namespace)


def sysctl(name: str) -> str:
    return subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=True).stdout.strip()


@contextlib.contextmanager
def two_nodes(namespaces: tuple[str, str], directory: Path) -> Iterator[str]:
    """Run the image on one node and an agent of this checkout on the other; what is yielded names the container."""
    for name in ("manifests", "run", "run-there"):
        (directory / name).mkdir()
    (directory / "manifests" / "all.yaml").write_text(yaml.safe_dump_all(OBJECTS))
    with neighbour(namespaces[1], directory), container(namespaces[0], directory) as name:
        until_ready(name, namespaces[0])
        yield name


def until_ready(name: str, namespace: str) -> None:
    until(
        lambda: answer(namespace, "/readyz") == "ok\n",
        lambda: f"{answer(namespace, '/readyz')}; {podman('logs', name)}",
    )


def table(namespace: str) -> str:
    """Return the table as the node's own nft lists it."""
    with entered(namespace):
        return subprocess.run(
            ["nft", "list", "table", "inet", "tortie"], capture_output=True, text=True, check=True
        ).stdout


def test_an_agent_in_its_container_routes_and_enforces_and_leaves_everything_when_it_stops(
    namespaces: tuple[str, str], tmp_path: Path
) -> None:
    here, there = namespaces
    with two_nodes(namespaces, tmp_path) as name:
        status = json.loads(podman("exec", name, "tortie", "status", "-o", "json"))
        peers = json.loads(podman("exec", name, "tortie", "peers", "-o", "json"))
        seen_inside = podman("exec", name, "nft", "list", "table", "inet", "tortie")
        learned = [
            (option, f"{net}/{length}") for option, net, length in (("-4", "10.42.2.0", 24), ("-6", "fd42:0:0:2::", 64))
        ]

        assert (status["ready"], status["version"]) == (True, __version__)
        assert {peer["state"] for peer in peers} == {"Established"}
        assert "10.42.1.5" in seen_inside
        assert "fd42:0:0:1::5" in seen_inside
        for option, prefix in learned:
            assert prefix in routes(here, option)
        with entered(here):
            assert sysctl("net.ipv4.nexthop_compat_mode") == "0"

        podman("stop", "--time", "20", name)

        assert json.loads(podman("inspect", name))[0]["State"]["ExitCode"] == 0
        for option, prefix in learned:
            assert prefix in routes(here, option)
        for option, prefix in (("-4", "10.42.1.0/24"), ("-6", "fd42:0:0:1::/64")):
            assert prefix in routes(there, option), "the neighbour did not keep what a restarting agent announced"
        assert "10.42.1.5" in table(here)

    options = [*places(here, tmp_path), *options_of_the_chart("cleanup", {"cleanup": True})]
    podman("run", "--rm", *options, IMAGE, "cleanup", "--run-dir=/run/tortie")

    assert routes(here, "-4") | routes(here, "-6") == set()
    with entered(here):
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
        assert "tortie" not in tables
        assert sysctl("net.ipv4.nexthop_compat_mode") == "1"


def test_an_agent_in_its_container_adopts_what_it_left_and_repairs_it(
    namespaces: tuple[str, str], tmp_path: Path
) -> None:
    here, _ = namespaces
    with two_nodes(namespaces, tmp_path) as name:
        before = table(here)

        podman("kill", "--signal", "KILL", name)
        podman("start", name)
        until_ready(name, here)
        assert table(here) == before

        with entered(here):
            subprocess.run(["nft", "flush", "chain", "inet", "tortie", "forward"], check=True)
            subprocess.run(["ip", "route", "del", "10.42.2.0/24", "proto", "97"], check=True)
        until(lambda: table(here) == before, lambda: table(here))
        until(lambda: "10.42.2.0/24" in routes(here, "-4"), lambda: podman("logs", name))


def test_the_plugins_are_installed_without_any_capability(tmp_path: Path) -> None:
    for name in ("bin", "run"):
        (tmp_path / name).mkdir()
    mounts = [f"{tmp_path}/bin:/host/opt/cni/bin", f"{tmp_path}/run:/run/tortie"]
    volumes = [option for mount in mounts for option in ("--volume", mount)]
    (installer,) = the("DaemonSet")["spec"]["template"]["spec"]["initContainers"]
    options = ["--network", "none", *options_of_the_chart("install-cni", {}), *volumes]

    podman("run", "--rm", *options, IMAGE, *installer["args"])

    installed = {path.name for path in (tmp_path / "bin").iterdir() if not path.name.startswith(".")}
    assert installed == {"bandwidth", "host-local", "loopback", "portmap", "ptp", "tortie-cni"}
    environment = {"CNI_COMMAND": "VERSION", "PATH": os.environ["PATH"]}
    for name in installed:  # on the node, with the node's C library
        done = subprocess.run([tmp_path / "bin" / name], env=environment, capture_output=True, text=True, check=True)
        assert "1.0.0" in json.loads(done.stdout)["supportedVersions"]


@pytest.mark.kubernetes
def test_an_agent_in_its_container_takes_its_objects_from_an_api_server(cluster: Cluster, tmp_path: Path) -> None:
    with AgentNode.built(cluster, tmp_path) as node:
        kubeconfig = cluster.kubeconfig(server=f"https://127.0.0.1:{PORT}", name=node.namespace)
        mounts = [f"{kubeconfig}:{kubeconfig}:ro", f"{cluster.certificate}:{cluster.certificate}:ro"]
        volumes = [option for mount in mounts for option in ("--volume", mount)]
        options = ["--network", f"ns:/run/netns/{node.namespace}", *options_of_the_chart("agent", {}), *volumes]
        run_dir = ["--volume", f"{tmp_path}/run:/run/tortie"]
        (tmp_path / "run").mkdir()
        arguments = ["agent", "--kubeconfig", str(kubeconfig), "--node", "n1"]
        try:
            podman("run", "--detach", "--name", node.namespace, *options, *run_dir, IMAGE, *arguments)
            cluster.apply(node.manifest())
            node.until_in_force()
            assert "blackhole fd42:0:0:9::/64" in node.routes()
        finally:
            podman("rm", "--force", node.namespace)
            cluster.delete(node.manifest())


def exported(directory: Path) -> Path:
    """Return an archive of the image's files."""
    made = podman("create", IMAGE).strip()
    try:
        archive = directory / "image.tar"
        podman("export", "--output", str(archive), made)
    finally:
        podman("rm", made)
    return archive


def test_the_image_is_small_and_has_nothing_to_run_but_what_is_needed(tmp_path: Path) -> None:
    with tarfile.open(exported(tmp_path)) as tar:
        files = {member.name: member for member in tar.getmembers()}

    assert sum(member.size for member in files.values()) <= LARGEST_BYTES
    programs = {
        Path(name).name
        for name, member in files.items()
        if {"bin", "sbin"} & set(Path(name).parts) and not member.isdir()
    }
    assert programs == {
        *("bandwidth", "host-local", "loopback", "portmap", "ptp", "tortie-cni"),
        *("bin", "sbin", "nft", "setpriv", "tortie"),
        *("python", "python3", "python3.11"),
    }
    assert not [name for name in files if name.endswith((".pyx", ".c", ".deb")) or "/pip/" in name]
    assert not [name for name, member in files.items() if member.mode & 0o6000 and member.isfile()]
    assert {name for name in files if name.startswith("var/lib/dpkg/status.d/")}


def test_programs_and_libraries_are_for_the_machine_that_the_image_says_it_is_for(tmp_path: Path) -> None:
    arch = json.loads(podman("inspect", IMAGE))[0]["Architecture"]
    found = {}
    with tarfile.open(exported(tmp_path)) as tar:
        for member in tar:
            if member.isfile() and (file := tar.extractfile(member)) and (read := elf.read(file.read())):
                found[member.name] = read

    assert len(found) > 50
    assert {name for name, each in found.items() if each.machine != elf.MACHINES[arch]} == set()
    if arch == "arm64":  # whose kernels have pages of 4, 16 or 64 KiB
        assert {name for name, each in found.items() if each.page_bytes < ARM64_PAGE_BYTES} == set()


def test_every_program_of_the_image_starts() -> None:
    run = ["run", "--rm", "--network", "none", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"]
    assert podman(*run, IMAGE, "version") == f"tortie {__version__}\n"
    assert podman(*run, "--entrypoint", "/usr/sbin/nft", IMAGE, "--version").startswith("nftables v1.")
    assert "util-linux" in podman(*run, "--entrypoint", "/usr/bin/setpriv", IMAGE, "--version")
    for plugin in ("loopback", "ptp", "host-local", "portmap", "bandwidth", "tortie-cni"):
        spoken = podman(*run, "--entrypoint", f"/opt/cni/bin/{plugin}", "--env", "CNI_COMMAND=VERSION", IMAGE)
        assert "1.1.0" in json.loads(spoken)["supportedVersions"], plugin
    for module in ("exabgp.application.main", "kubernetes.aio.config", "agent.daemon", "agent.lab.lab"):
        podman(*run, "--entrypoint", "/opt/tortie/bin/python", IMAGE, "-I", "-c", f"import {module}")


def test_the_pod_that_waits_after_a_cleanup_ends_when_it_is_told_to() -> None:
    (waiting,) = the("DaemonSet", {"cleanup": True})["spec"]["template"]["spec"]["containers"]
    program, *arguments = waiting["command"]
    limits = ["--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"]
    name = podman("run", "--detach", "--network", "none", *limits, "--entrypoint", program, IMAGE, *arguments).strip()
    try:
        until(lambda: json.loads(podman("inspect", name))[0]["State"]["Running"], lambda: "it runs")
        podman("stop", "--time", "20", name)
        assert json.loads(podman("inspect", name))[0]["State"]["ExitCode"] == 0
    finally:
        podman("rm", "--force", name)
