"""A cluster of machines with the project installed by its chart: all of it real, but for the image.

    with Installed.started(directory) as installed:
        installed.cluster.kubectl("get", "pods", "-A")
        installed.machines["n1"].run("tortie", "peers")

One network namespace holds the control plane and a bridge; every machine has a link to it, with an address of either
family, or of one where the whole cluster is to have no other. What the chart makes is applied as it is, except that the
agent's image has no programs of its own: the DaemonSet is given /usr and the checkout from outside. So an edit is tried
by deleting the agents' pods, and nothing is built. kube-proxy serves Services, and agents reach the API server by one,
as on any cluster.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from agent.cni.install import PROGRAMS
from inet.prefix import Family
from tests.chart.rendering import hooks, objects
from tests.containerd.machine import PLUGIN_DIR
from tests.kubernetes import assets, kubeproxy, machine
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.images import Image, busybox, write_archive
from tests.kubernetes.machine import PAUSE, Machine

ROOT: Final = Path(__file__).parents[2]
ASSETS: Final = (*assets.SERVER, "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
BUSYBOX_IMAGE: Final = "tortie.test/busybox:1"
DEADLINE_S: Final = 120.0

_AGENT_IMAGE: Final = {"repository": "tortie.test/agent", "tag": "checkout"}
AGENT_TAG: Final = ":".join(_AGENT_IMAGE.values())
TORTIE: Final = Path(sys.executable).with_name("tortie")


class _Addresses(NamedTuple):
    """What a cluster has of one family."""

    network: str  # of the nodes: a number makes an address of it
    prefix: str
    pod_cidr: str
    service_cidr: str


_ADDRESSES: Final = {
    Family.IPV4: _Addresses("172.16.9.", "24", "10.42.0.0/16", "10.96.0.0/16"),
    Family.IPV6: _Addresses("fd16:9::", "64", "fd42::/48", "fd96::/112"),
}
BOTH: Final = tuple(Family)


def missing() -> str:
    """Return why there can be no such cluster here; empty if there can."""
    if reason := machine.missing() or assets.missing(*ASSETS):
        return reason
    if not all((PLUGIN_DIR / name).exists() for name in PROGRAMS):
        return f"needs {PLUGIN_DIR.relative_to(ROOT)}: make cni (needs Go)"
    return ""


class Installed:
    """The cluster. `name` begins the names of its network namespaces and of its machines' cgroups."""

    def __init__(self, cluster: Cluster, name: str, families: Sequence[Family] = BOTH) -> None:
        self.cluster = cluster
        self.name = name
        self.pod_cidrs = ",".join(_ADDRESSES[family].pod_cidr for family in families)
        self.machines: dict[str, Machine] = {}

    @classmethod
    @contextlib.contextmanager
    def started(
        cls,
        directory: Path,
        name: str,
        nodes: Sequence[str] = ("n1", "n2", "n3"),
        *,
        proxy: str = kubeproxy.MODES[0],
        families: Sequence[Family] = BOTH,
    ) -> Iterator[Self]:
        """Run a cluster for as long as the block lasts; every node in it is Ready. `proxy` is kube-proxy's mode."""
        with contextlib.ExitStack() as stack:
            stack.callback(clean_up, name, nodes)
            _link(name, nodes, families)
            services = ",".join(_ADDRESSES[family].service_cidr for family in families)
            where = {"namespace": name, "address": _addresses(1, families)[0], "service_cidrs": services}
            cluster = stack.enter_context(Cluster.started(directory, nodes=nodes, **where))
            installed = cls(cluster, name, families)
            cluster.start_controllers(("*",), installed.pod_cidrs)
            cluster.start_scheduler()
            images = directory / "images.tar"
            write_archive(images, [busybox(PAUSE, "/bin/sleep", "infinity"), busybox(BUSYBOX_IMAGE), _agent_image()])
            for number, node in enumerate(nodes):
                addresses = _addresses(11 + number, families)
                started = Machine.started(cluster, node, f"{name}-{node}", addresses, images)
                installed.machines[node] = stack.enter_context(started)
            installed.install()
            installed.install_proxy(proxy)
            installed.until(lambda: installed.ready() == set(nodes), "every node is Ready")
            installed.until_agents_are_ready()
            yield installed

    def install(self, **values: Any) -> None:
        """Apply what the chart makes, with further values perhaps."""
        values |= {"image": _AGENT_IMAGE}
        self.cluster.install_crds()
        self.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tortie-system"}})
        for each in objects(values):
            if each["kind"] == "DaemonSet":
                lend_programs(each["spec"]["template"]["spec"])
            self.cluster.apply(each)

    def test(self, **values: Any) -> tuple[str, str]:
        """Do what `helm test` does with what the chart makes; return the phase its pod ended in, and its log."""
        made = hooks(values | {"image": _AGENT_IMAGE})
        lend_programs(made[-1]["spec"])
        name = made[-1]["metadata"]["name"]
        look = ("-n", "tortie-system", "get", "pod", name, "-o", "jsonpath={.status.phase}")
        try:
            self.cluster.apply(*made)
            self.until(lambda: self.cluster.kubectl(*look) in {"Succeeded", "Failed"}, "the test ends", 2 * DEADLINE_S)
            return self.cluster.kubectl(*look), self.cluster.kubectl("-n", "tortie-system", "logs", name)
        finally:
            self.cluster.delete(*made)

    def install_proxy(self, mode: str) -> None:
        """Run kube-proxy on every node, in this mode."""
        program = self.cluster.programs / "kube-proxy"
        for each in kubeproxy.objects(
            mode, program=program, image=AGENT_TAG, server=self.cluster.url, pod_cidrs=self.pod_cidrs
        ):
            if each["kind"] == "DaemonSet":
                lend_programs(each["spec"]["template"]["spec"], program.parent)
            self.cluster.apply(each)

    def remove_proxy(self) -> None:
        """Run kube-proxy nowhere any more, and have no rule of it anywhere."""
        selected = ("-n", kubeproxy.NAMESPACE, "--selector", f"k8s-app={kubeproxy.NAME}")
        self.cluster.kubectl("delete", "daemonset", *selected)
        self.cluster.kubectl("wait", "--for=delete", "pod", *selected, f"--timeout={DEADLINE_S:.0f}s")
        for node in self.machines.values():
            node.run(str(self.cluster.programs / "kube-proxy"), "--cleanup")

    # Looking around

    @property
    def inside(self) -> list[str]:
        """What runs a command where the API server can be reached, when put before it."""
        return ["nsenter", f"--net=/run/netns/{self.name}"]

    @property
    def kubectl(self) -> list[str]:
        """What runs kubectl as the administrator."""
        return [*self.inside, str(self.cluster.programs / "kubectl"), f"--kubeconfig={self.cluster.kubeconfig()}"]

    @property
    def environment(self) -> dict[str, str]:
        """What a program of the administrator's has to know."""
        return os.environ | {"KUBECONFIG": str(self.cluster.kubeconfig())}

    def agents(self, node: str) -> set[str]:
        """Return the agents' pods of a node."""
        where = f"--field-selector=spec.nodeName={node}"
        return set(self.cluster.kubectl("-n", "tortie-system", "get", "pods", where, "-o", "name").split())

    def kill_agent(self, node: str) -> None:
        """End a node's agent as the kernel ends what uses too much memory; return when it runs again."""
        (name,) = self.agents(node)

        def restarts() -> int:
            count = "jsonpath={.status.containerStatuses[0].restartCount}"
            return int(self.cluster.kubectl("-n", "tortie-system", "get", name, "-o", count))

        before = restarts()
        run = self.machines[node].run
        run("kill", "-KILL", *run("pgrep", "-f", "--", "-m agent --log-level=").split())
        self.until(lambda: restarts() > before, "the agent is started again")

    def until_agents_are_ready(self) -> None:
        """Wait until every node has an agent, and every session is up."""
        limit = f"--timeout={DEADLINE_S:.0f}s"
        self.cluster.kubectl("-n", "tortie-system", "rollout", "status", "daemonset/tortie-agent", limit)

    def until_proxies_are_ready(self) -> None:
        """Wait until every node has the kube-proxy that was installed last."""
        limit = f"--timeout={DEADLINE_S:.0f}s"
        self.cluster.kubectl("-n", kubeproxy.NAMESPACE, "rollout", "status", f"daemonset/{kubeproxy.NAME}", limit)

    def status(self, node: str) -> str:
        """Return what `tortie status` says on a node, ready or not."""
        command = [*self.machines[node].inside, str(TORTIE), "status"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def ready(self) -> set[str]:
        """Return the nodes that are Ready."""
        nodes = self.cluster.request("GET", "/api/v1/nodes")["items"]
        return {
            node["metadata"]["name"]
            for node in nodes
            for condition in node["status"].get("conditions", ())
            if (condition["type"], condition["status"]) == ("Ready", "True")
        }

    def until(self, condition: Callable[[], object], what: str, within_s: float = DEADLINE_S) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline:
                seen = self.cluster.kubectl("get", "nodes,pods", "-A", "-o", "wide")
                raise TimeoutError(f"not within {within_s:g} s: {what}\n{seen}")
            time.sleep(0.1)  # between two looks


def clean_up(name: str, nodes: Sequence[str]) -> None:
    """Remove what outlives processes. Does nothing where there is nothing."""
    for each in (name, *(f"{name}-{node}" for node in nodes)):
        subprocess.run(["ip", "netns", "del", each], capture_output=True, check=False)
        machine.remove_cgroups(each)


def _addresses(number: int, families: Sequence[Family]) -> tuple[str, ...]:
    return tuple(f"{_ADDRESSES[family].network}{number}" for family in families)


def _link(name: str, nodes: Sequence[str], families: Sequence[Family]) -> None:
    """Make the network namespaces and what links them."""

    def ip(namespace: str, words: str) -> None:
        subprocess.run(["ip", "-n", namespace, *words.split()], check=True)

    def address(namespace: str, link: str, number: int) -> None:
        for family, each in zip(families, _addresses(number, families), strict=True):
            at_once = "nodad" if family is Family.IPV6 else ""
            ip(namespace, f"addr add {each}/{_ADDRESSES[family].prefix} dev {link} {at_once}")

    subprocess.run(["ip", "netns", "add", name], check=True)
    for words in ("link set lo up", "link add br0 type bridge", "link set br0 up"):
        ip(name, words)
    address(name, "br0", 1)
    for number, node in enumerate(nodes):
        namespace = f"{name}-{node}"
        subprocess.run(["ip", "netns", "add", namespace], check=True)
        ip(name, f"link add {node} type veth peer name eth0 netns {namespace}")
        ip(name, f"link set {node} master br0 up")
        for link in ("lo", "eth0"):
            ip(namespace, f"link set {link} up")
        address(namespace, "eth0", 11 + number)
        for gateway in _addresses(1, families):
            ip(namespace, f"route add default via {gateway}")


def _agent_image() -> Image:
    """Return an image that has the CNI plugins, and places for the rest."""
    files = {f"opt/cni/bin/{name}": PLUGIN_DIR / name for name in PROGRAMS}
    files["etc/passwd"] = Path("/etc/passwd")  # ExaBGP looks up who root is
    links = {name: f"usr/{name}" for name in ("bin", "lib", "lib64", "sbin")}
    links["opt/tortie/bin/python"] = sys.executable
    return Image(AGENT_TAG, [str(TORTIE)], files, links, path=f"{TORTIE.parent}:/usr/sbin:/usr/bin")


def lend_programs(pod: dict[str, Any], *others: Path) -> None:
    """Have every container of a pod see the programs of this computer, the checkout, and other directories."""
    needed = {Path("/usr"), ROOT, Path(sys.base_prefix), TORTIE.parents[1], *others}
    tops = [path for path in sorted(needed) if not any(other in path.parents for other in needed)]
    for number, path in enumerate(tops):
        pod.setdefault("volumes", []).append(
            {"name": f"lent-{number}", "hostPath": {"path": str(path), "type": "Directory"}}
        )
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            mounts = container.setdefault("volumeMounts", [])
            mounts.append({"name": f"lent-{number}", "mountPath": str(path), "readOnly": True})
