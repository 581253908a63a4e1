"""Asking a cluster's nodes from an administrator's machine: a real API server, and commands run for its pods."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from agent.fleet import FleetError, Located, NodeUnreachableError, Service
from agent.fleet.kubernetes import KubernetesFleet
from agent.kubernetes.access import Access
from agent.kubernetes.client import Client
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.kubelet import kubelet
from tests.kubernetes.node import TORTIE, WHY_NOT, AgentNode, until

pytestmark = pytest.mark.kubernetes

NAMESPACE = "look-system"


class World:
    """A cluster with nodes of ours, each with an agent's pod that says what the test wants."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.answers: dict[str, tuple[int, bytes, bytes] | None] = {}
        self.asked: list[tuple[str, list[str]]] = []
        self.sockets: dict[str, Path] = {}
        self.port = 0
        self._made: list[Mapping[str, Any]] = []

    async def execute(self, where: str, argv: Sequence[str]) -> tuple[int, bytes, bytes]:
        self.asked.append((where, list(argv)))
        pod = where.split("/")[1]
        if pod in self.sockets:
            environment = os.environ | {"TORTIE_SOCKET": str(self.sockets[pod])}
            process = await asyncio.create_subprocess_exec(
                TORTIE, *argv[1:], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment
            )
            output, errors = await process.communicate()
            return process.returncode or 0, output, errors
        answer = self.answers[pod]
        if answer is None:
            raise ConnectionAbortedError
        return answer

    def make(self, *documents: Mapping[str, Any]) -> None:
        self._made += documents
        self.cluster.apply(*documents)

    def node(self, name: str, *, phase: str = "Running", agent: bool = True, **more: Any) -> None:
        """Make a node, and an agent's pod on it."""
        document = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name},
            "status": {
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
            },
            **more,
        }
        self.make(document)
        if agent:
            labels = {"app.kubernetes.io/name": "tortie", "app.kubernetes.io/component": "agent"}
            self.pod(f"agent-{name}", name, NAMESPACE, container="agent", phase=phase, labels=labels)

    def pod(
        self, name: str, node: str, namespace: str, *, container: str = "c", phase: str = "Running", **more: Any
    ) -> None:
        self.make({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        self.make(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": namespace, **more},
                "spec": {"nodeName": node, "containers": [{"name": container, "image": "none"}]},
                "status": {"phase": phase, "podIP": "10.42.0.7", "podIPs": [{"ip": "10.42.0.7"}]},
            }
        )

    def clean(self) -> None:
        for document in reversed(self._made):
            if document["kind"] != "Namespace":
                self.cluster.delete(document)


@pytest.fixture
async def world(cluster: Cluster, tmp_path: Path) -> AsyncIterator[World]:
    built = World(cluster)
    async with kubelet(tmp_path, built.execute) as built.port:
        yield built
        built.clean()


@pytest.fixture
async def fleet(world: World) -> AsyncIterator[KubernetesFleet]:
    opened = KubernetesFleet(Client(Access(world.cluster.kubeconfig())), NAMESPACE)
    yield opened
    await opened.close()


async def test_a_command_is_run_in_the_agents_pod_of_a_node(world: World, fleet: KubernetesFleet) -> None:
    world.node("k1")
    world.answers["agent-k1"] = (1, b"x" * 5000, b"tortie: a warning\n")
    outcome = await fleet.run("k1", ["routes", "explain", "--", "10.42.1.0/24", "a b&c"])
    assert outcome == (1, b"x" * 5000, "tortie: a warning")
    argv = ["tortie", "routes", "explain", "--", "10.42.1.0/24", "a b&c"]
    assert world.asked == [(f"{NAMESPACE}/agent-k1/agent", argv)]
    world.answers["agent-k1"] = (0, b"fine", b"")
    assert (await fleet.run("k1", ["status"])).status == 0


async def test_nodes_without_an_agent_to_ask_say_why(world: World, fleet: KubernetesFleet) -> None:
    world.node("k1")
    world.node("k2", agent=False)
    world.node("k3", phase="Pending")
    found = await fleet.nodes()
    assert {name: found[name] for name in ("k1", "k2", "k3")} == {
        "k1": "",
        "k2": f"no agent pod is there in namespace {NAMESPACE}",
        "k3": "its agent's pod agent-k3 is Pending",
    }
    with pytest.raises(NodeUnreachableError, match=f"no agent pod is there in namespace {NAMESPACE}"):
        await fleet.run("k2", ["status"])


async def test_a_pod_that_runs_counts_while_another_is_on_its_way_out(world: World, fleet: KubernetesFleet) -> None:
    world.node("k1")
    labels = {"app.kubernetes.io/name": "tortie", "app.kubernetes.io/component": "agent"}
    world.pod("zz-old", "k1", NAMESPACE, container="agent", phase="Failed", labels=labels)
    assert (await fleet.nodes())["k1"] == ""


async def test_a_kubelet_that_dies_or_has_no_container_is_no_answer(world: World, fleet: KubernetesFleet) -> None:
    world.node("k1")
    world.answers["agent-k1"] = None
    with pytest.raises(NodeUnreachableError, match="the connection ended before the command did"):
        await fleet.run("k1", ["status"])
    world.answers["agent-k1"] = (-1, b"", b"")
    with pytest.raises(NodeUnreachableError, match="could not be run: container not found"):
        await fleet.run("k1", ["status"])


async def test_a_kubelet_that_is_not_there_is_no_answer(world: World, fleet: KubernetesFleet) -> None:
    world.port = 1
    world.node("k1")
    with pytest.raises(NodeUnreachableError, match="pod agent-k1 cannot be reached through its kubelet"):
        await fleet.run("k1", ["status"])


async def test_somebody_without_the_right_is_told_which_one(world: World) -> None:
    world.node("k1")
    token = world.cluster.token(NAMESPACE, "nobody")
    kubeconfig = world.cluster.kubeconfig(token, name="look-nobody")
    asked = KubernetesFleet(Client(Access(kubeconfig)), NAMESPACE)
    try:
        with pytest.raises(
            FleetError, match=r'list nodes: 403 Forbidden: .*cannot list resource "nodes"|list pods: 403'
        ):
            await asked.nodes()
        rights = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "look-list"},
            "rules": [{"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": ["list"]}],
        }
        world.make(
            rights,
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": "look-list"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "look-list"},
                "subjects": [{"kind": "ServiceAccount", "name": "nobody", "namespace": NAMESPACE}],
            },
        )
        message = f"commands in pod agent-k1 need the right to create pods/exec in namespace {NAMESPACE}"
        async with asyncio.timeout(30):
            while True:
                try:
                    await asked.run("k1", ["status"])
                except NodeUnreachableError as error:
                    if message in str(error):
                        break
                await asyncio.sleep(0.1)  # until the new right has arrived
    finally:
        await asked.close()


async def test_the_node_of_a_pod_is_found_by_name_and_address(world: World, fleet: KubernetesFleet) -> None:
    world.node("k1", agent=False)
    world.node("k2", agent=False)
    world.pod("front", "k1", "look-shop")
    found = [Located("Pod", "look-shop/front", "k1", ("10.42.0.7",))]
    for end in ("look-shop/front", "front", "10.42.0.7"):
        assert await fleet.locate(end) == found
    assert await fleet.locate("look-shop/back") == []
    assert await fleet.locate("node:k2") == [Located("Node", "k2", "k2")]
    world.pod("front", "k2", "look-other")
    assert {each.node for each in await fleet.locate("front")} == {"k1", "k2"}, "it may be either"


async def test_a_service_address_is_found_with_who_serves_it(world: World, fleet: KubernetesFleet) -> None:
    """The server gives addresses out; of its ranges it tells since Kubernetes 1.33."""
    world.make({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "look-shop"}})
    meta = {"name": "db", "namespace": "look-shop"}
    ports = [{"name": "sql", "port": 5432, "targetPort": 15432}]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": ports}}
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": meta | {"labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4",
        "ports": [{"name": "sql", "port": 15432}],
        "endpoints": [
            {"addresses": ["10.42.0.9"], "targetRef": {"kind": "Pod", "name": "db-0", "namespace": "look-shop"}}
        ],
    }
    world.make(service, slice_)
    address = world.cluster.get(service)["spec"]["clusterIP"]
    assert await fleet.service_at(address) == Service(
        "look-shop/db", "", ("look-shop/db-0",), {"5432/TCP": "15432/TCP"}
    )
    world.cluster.delete(slice_)
    world.cluster.delete(service)
    found = await fleet.service_at(address)
    assert found is not None
    assert found.name == ""
    assert ip_address(address) in ip_network(found.cidr)
    assert await fleet.service_at("192.0.2.1") == Service()


async def test_what_agents_wrote_down_is_read_page_by_page(
    world: World, fleet: KubernetesFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.fleet.kubernetes.PAGE", 2)
    for number in range(5):
        world.make(
            {
                "apiVersion": "tortie.dev/v1alpha1",
                "kind": "NodeRoutingStatus",
                "metadata": {"name": f"look-{number}"},
                "status": {"localASN": 64512 + number},
            }
        )
    found = await fleet.recorded() or ()
    mine = {each.status.name: each.status.status.local_asn for each in found if each.status.name.startswith("look-")}
    assert mine == {f"look-{number}": 64512 + number for number in range(5)}


@pytest.mark.kernel
@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
async def test_a_real_agent_is_asked_through_the_api_server(world: World, tmp_path: Path) -> None:
    with AgentNode.built(world.cluster, tmp_path) as node:
        world.node("n1", **{key: value for key, value in node.manifest().items() if key == "spec"})
        world.make({**node.manifest(), "status": node.manifest()["status"]})
        world.pod(
            "agent-n1", "n1", "tortie-system", container="agent",
            labels={"app.kubernetes.io/name": "tortie", "app.kubernetes.io/component": "agent"},
        )  # fmt: skip
        # The kubelet is on loopback, whatever the node's own address.
        world.cluster.request(
            "PATCH",
            "/api/v1/nodes/n1/status",
            {
                "status": {
                    "addresses": [{"type": "Hostname", "address": "127.0.0.1"}, *node.manifest()["status"]["addresses"]]
                }
            },
            content_type="application/merge-patch+json",
        )
        world.sockets["agent-n1"] = node.run_dir / "agent.sock"
        await asyncio.to_thread(node.start)
        await asyncio.to_thread(node.until_in_force)

        async def tortie(*words: str) -> tuple[int, str]:
            process = await asyncio.create_subprocess_exec(
                TORTIE, *words, "--kubeconfig", str(world.cluster.kubeconfig()),
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            output, errors = await process.communicate()
            return process.returncode or 0, output.decode() + errors.decode()

        status, text = await tortie("routes", "installed", "--node", "n1", "-o", "json")
        assert [row["prefix"] for row in json.loads(text)] == ["10.42.9.0/24", "fd42:0:0:9::/64"]
        assert status == 0
        status, text = await tortie("status", "--node", "n1")
        assert text.startswith("n1: ")
        assert "AS 64512, router id 172.16.9.1" in text
        record = {"apiVersion": "tortie.dev/v1alpha1", "kind": "NodeRoutingStatus", "metadata": {"name": "n1"}}

        def is_written() -> bool:
            try:
                return bool(world.cluster.get(record)["status"]["conditions"])
            except Exception:  # noqa: BLE001 - not yet
                return False

        await asyncio.to_thread(until, is_written, "its status is written down")
        status, text = await tortie("status", "--all-nodes", "-o", "json")
        (mine,) = [each for each in json.loads(text) if each["node"] == "n1"]
        assert (mine["answer"]["localASN"], mine["answer"]["routesInstalled"]) == (64512, 2)
        status, text = await tortie("path", "node:n1", "10.42.9.7", "--node", "n1", "-o", "json")
        assert (status, json.loads(text)["verdict"]) == (1, "dropped"), text
        status, text = await tortie("policy", "explain", "node:n1", "10.42.9.7", "80", "-o", "json")
        story = json.loads(text)
        assert (status, story["verdict"]) == (0, "allow"), text
        assert story["reasons"] == ["a node always reaches its own pods"]
        address = world.cluster.get(
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kubernetes", "namespace": "default"}}
        )["spec"]["clusterIP"]
        for words in (("path", "node:n1", address), ("policy", "explain", "node:n1", address)):
            status, text = await tortie(*words, "443/TCP", "-o", "json")
            assert (status, json.loads(text)["verdict"]) == (2, "unknown"), text
            assert f"{address} is the address of Service default/kubernetes" in text
        world.cluster.delete(record)
