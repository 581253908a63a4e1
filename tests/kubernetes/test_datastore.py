"""The datastore on a real API server, with what can happen to a connection, a server and an etcd.

No churn, no loss: every change is told once, whatever happened in between, and nothing else is.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agent import metrics
from agent.datastore.kubernetes.datastore import KubernetesDatastore
from agent.kubernetes.access import Access
from agent.kubernetes.client import Client
from agent.namespace import OWN_NAMESPACE
from agent.objects import BGPPeer, Key
from tests.agent.datastore.following import Follower
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.relay import Relay

pytestmark = [
    pytest.mark.kubernetes,
    # asyncio of Python 3.11 leaves what a TLS handshake was to use, if cancelled, to the garbage collector.
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <(socket|function _Sel):pytest.PytestUnraisableExceptionWarning"
    ),
]

ALWAYS = frozenset({"Namespace"})


def peer(name: str, asn: int = 65100, **more: Any) -> dict[str, Any]:
    spec = {"peer": {"address": "172.16.1.1"}, "peerASN": asn, **more}
    return {"apiVersion": "tortie.dev/v1alpha1", "kind": "BGPPeer", "metadata": {"name": name}, "spec": spec}


def pod(name: str, node: str, address: str, namespace: str = "default", **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "main", "image": "none"}],
            "terminationGracePeriodSeconds": 0,
        },
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    }


def policy(name: str, namespace: str = "default", **ingress: Any) -> dict[str, Any]:
    spec = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [ingress] if ingress else []}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


FROM_API = {"from": [{"podSelector": {"matchLabels": {"app": "api"}}}]}


@contextlib.contextmanager
def objects(cluster: Cluster, *documents: dict[str, Any]) -> Iterator[None]:
    """Have these as long as the block lasts."""
    cluster.apply(*documents)
    try:
        yield
    finally:
        cluster.delete(*documents)


@contextlib.asynccontextmanager
async def followed(
    cluster: Cluster, relay: Relay | None = None, kubeconfig: Path | None = None, **options: Any
) -> AsyncIterator[Follower]:
    """Follow the cluster from node n1, through a relay."""
    server = f"https://127.0.0.1:{relay.port}" if relay else ""
    access = Access(kubeconfig or cluster.kubeconfig(server=server, name="datastore"))
    store = KubernetesDatastore(Client(access), "n1", OWN_NAMESPACE, **options)
    await store.start()
    follower = Follower(store, ALWAYS)
    try:
        await follower.until_synced()
        yield follower
    finally:
        await store.stop()
        gc.collect()  # here, where it is known why a socket may be left


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so of which no batch tells."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - nobody sets an event for it
            await asyncio.sleep(0.05)


async def until_asn(follower: Follower, name: str, asn: int) -> None:
    def is_so() -> bool:
        item = follower.objects.get(Key("BGPPeer", "", name))
        return isinstance(item, BGPPeer) and item.spec.peer_asn == asn

    await follower.until(is_so)


@pytest.fixture
def relay(cluster: Cluster) -> Iterator[Relay]:
    with Relay.started(cluster.port) as relay:
        yield relay


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A control plane to break."""
    with Cluster.started(tmp_path / "own") as cluster:
        cluster.install_crds()
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OWN_NAMESPACE}})
        yield cluster


async def test_a_watch_that_breaks_goes_on_where_it_was(cluster: Cluster, relay: Relay) -> None:
    with objects(cluster, peer("a"), peer("b")):
        async with followed(cluster, relay) as follower:
            told = len(follower.news)

            for asn in (65001, 65002, 65003):
                relay.cut()
                cluster.apply(peer("a", asn))
                await until_asn(follower, "a", asn)

            assert {key.name for key in follower.news[told:]} == {"a"}
            assert follower.store.health().is_synced


async def test_a_server_that_was_away_is_caught_up_with_and_nothing_else_is_told(
    cluster: Cluster, relay: Relay
) -> None:
    with objects(cluster, peer("stays"), peer("goes"), peer("changes"), peer("comes")):
        cluster.delete(peer("comes"))
        async with followed(cluster, relay) as follower:
            told = len(follower.news)
            relay.close()
            await until(lambda: follower.store.health().error)
            assert follower.store.health().is_synced

            cluster.delete(peer("goes"))
            cluster.apply(peer("changes", 65007), peer("comes"))
            relay.open()
            await follower.until(lambda: "comes" in follower.names and "goes" not in follower.names)
            await until_asn(follower, "changes", 65007)

            assert sorted(key.name for key in follower.news[told:]) == ["changes", "comes", "goes"]
            await until(lambda: not follower.store.health().error)


async def test_a_restarted_server_and_a_compacted_etcd_cost_a_list_and_change_nothing(own_cluster: Cluster) -> None:
    cluster = own_cluster
    cluster.apply(peer("a"), peer("b"), peer("c"), policy("web", **FROM_API), pod("p", "n9", "10.42.9.9", app="api"))
    async with followed(cluster) as follower:
        told, lists = len(follower.news), follower.full_lists

        await asyncio.to_thread(cluster.stop, "kube-apiserver")
        await asyncio.to_thread(cluster.start_api)
        for number in range(200):  # so that where we were is no longer among what the server remembers
            cluster.apply(peer("b", 65200 + number))
        await asyncio.to_thread(cluster.stop, "kube-apiserver")
        cluster.compact()
        await asyncio.to_thread(cluster.start_api)
        cluster.apply(peer("c", 65001))
        await until_asn(follower, "c", 65001)
        await until_asn(follower, "b", 65399)
        await follower.until(lambda: follower.full_lists > lists)

        assert {key.name for key in follower.news[told:]} == {"b", "c"}


async def test_an_etcd_restored_from_a_backup_is_believed(own_cluster: Cluster) -> None:
    """The server lets watches go on from where they were, ahead of it, and says nothing until it is there."""
    cluster = own_cluster
    etcd, backup = cluster.directory / "etcd", cluster.directory / "backup"
    cluster.apply(peer("stays"), peer("changes"), pod("p", "n1", "10.42.9.9", app="api"))

    def restart(step: Callable[[], object]) -> None:
        cluster.stop("kube-apiserver")
        cluster.stop("etcd")
        step()
        cluster.start_etcd()
        cluster.start_api()

    await asyncio.to_thread(restart, lambda: shutil.copytree(etcd, backup))
    async with followed(cluster) as follower:
        for number in range(100):
            cluster.apply(peer("changes", 65200 + number))
        cluster.apply(peer("lost"))
        cluster.delete(pod("p", "n1", "10.42.9.9"))
        await until_asn(follower, "changes", 65299)
        await follower.until(lambda: "lost" in follower.names and "p" not in follower.names)
        told = len(follower.news)

        def restore() -> None:
            shutil.rmtree(etcd)
            backup.rename(etcd)

        await asyncio.to_thread(restart, restore)
        cluster.apply(peer("stays", 65001))
        await follower.until(lambda: "lost" not in follower.names and "p" in follower.names)
        await until_asn(follower, "changes", 65100)
        await until_asn(follower, "stays", 65001)
        assert {key.name for key in follower.news[told:]} == {"lost", "p", "changes", "stays"}


async def test_a_server_seconds_away_is_only_slow(cluster: Cluster, relay: Relay) -> None:
    relay.delay_s = 0.7  # of every piece: a handshake alone has three
    with objects(cluster, peer("a")):
        async with followed(cluster, relay) as follower:
            cluster.apply(peer("a", 65001))
            await until_asn(follower, "a", 65001)
            assert follower.store.health().error == ""


async def test_a_server_that_hangs_is_noticed_by_its_silence_and_goes_on_where_it_was(
    own_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernel keeps the connections alive, and takes new ones."""
    own_cluster.apply(peer("stays"), peer("changes"))
    monkeypatch.setattr("agent.datastore.kubernetes.reflector.FIRST_SILENCE_S", 10.0)
    async with followed(own_cluster) as follower:
        told = len(follower.news)
        own_cluster.signal("kube-apiserver", signal.SIGSTOP)
        try:
            await until(lambda: "no answer in time" in follower.store.health().error)
        finally:
            own_cluster.signal("kube-apiserver", signal.SIGCONT)
        await asyncio.to_thread(own_cluster.apply, peer("changes", 65007))
        await until_asn(follower, "changes", 65007)
        await until(lambda: follower.store.health().error == "")
        assert [key.name for key in follower.news[told:]] == ["changes"]


async def test_pods_of_other_nodes_are_read_while_a_policy_speaks_of_pods(cluster: Cluster) -> None:
    ours, theirs = pod("ours", "n1", "10.42.1.1", app="web"), pod("theirs", "n2", "10.42.2.1", app="api")
    with objects(cluster, ours, theirs, policy("none")):
        async with followed(cluster, narrow_after_s=0.0, confirm_after_s=0.2) as follower:
            assert follower.names == {"ours", "none"}

            with objects(cluster, policy("web", **FROM_API)):
                await follower.until(lambda: "web" in follower.names)
                assert "theirs" in follower.names
                told = [key.name for key in follower.news]
                assert told.index("theirs") <= told.index("web")

            await follower.until(lambda: follower.names == {"ours", "none"})


async def test_secrets_are_read_when_named_and_forgotten_when_not(cluster: Cluster) -> None:
    def secret(name: str) -> dict[str, Any]:
        metadata = {"name": name, "namespace": OWN_NAMESPACE}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"tor": "x"}}

    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OWN_NAMESPACE}})
    named = peer("a", passwordSecretRef={"name": "named", "key": "tor"})
    with objects(cluster, secret("named"), secret("other"), named):
        async with followed(cluster) as follower:
            assert follower.names == {"a", "named"}

            cluster.apply(peer("a", passwordSecretRef={"name": "later", "key": "tor"}))
            await follower.until(lambda: "named" not in follower.names)
            with objects(cluster, secret("later")):
                await follower.until(lambda: "later" in follower.names)


async def test_a_kind_that_is_installed_later_is_noticed(own_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.datastore.kubernetes.reflector.NOT_SERVED_S", (0.2, 0.3))
    definition = cluster_policy_definition()
    item = {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "late"},
        "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "ingress": []},
    }
    async with followed(own_cluster) as follower:
        assert follower.problems == ()
        await asyncio.to_thread(own_cluster.define, definition)
        own_cluster.apply(item)
        await follower.until(lambda: "late" in follower.names)

        item["spec"]["priority"] = -3
        own_cluster.apply(item)
        await follower.until(lambda: bool(follower.problems))
        assert "The last good version stays in force." in str(follower.problems[0])
        assert "late" in follower.names
        item["spec"]["priority"] = 4
        own_cluster.apply(item)
        await follower.until(lambda: not follower.problems)


def cluster_policy_definition() -> dict[str, Any]:
    """ClusterNetworkPolicy without the upstream schema: what is wrong with one is then for the agent to find."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1alpha2", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "clusternetworkpolicies", "singular": "clusternetworkpolicy", "kind": "ClusterNetworkPolicy"}
    group = "policy.networking.k8s.io"
    approved = {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/network-policy-api/pull/300"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names['plural']}.{group}", "annotations": approved},
        "spec": {"group": group, "scope": "Cluster", "names": names, "versions": [version]},
    }


def in_parallel(cluster: Cluster, documents: list[tuple[str, dict[str, Any]]]) -> None:
    """Create many objects, each at a path."""
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda each: cluster.request("POST", *each), documents))


def requests(verb: str) -> float:
    """Return how many requests about NetworkPolicies were sent."""
    labels = {"verb": verb, "resource": "networkpolicies.networking.k8s.io"}
    return metrics.REGISTRY.get_sample_value("tortie_api_requests_total", labels) or 0.0


@pytest.fixture
def paging_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A control plane as it is by default before Kubernetes 1.34: it streams no lists."""
    with Cluster.started(tmp_path / "paging", api_flags=["--feature-gates=WatchList=false"]) as cluster:
        cluster.install_crds()
        yield cluster


async def test_a_server_that_streams_no_lists_is_read_in_pages_and_watched_from_there(paging_cluster: Cluster) -> None:
    cluster = paging_cluster
    count = 1100  # three pages
    path = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
    await asyncio.to_thread(in_parallel, cluster, [(path, policy(f"x{n}")) for n in range(count)])
    before = requests("list")
    async with followed(cluster) as follower:
        assert len(follower.names) == count
        told = len(follower.news)
        cluster.delete(policy("x7"))
        cluster.apply(peer("late"))
        await follower.until(lambda: "late" in follower.names and "x7" not in follower.names)
        assert sorted(key.name for key in follower.news[told:]) == ["late", "x7"]
        assert requests("list") - before == 3


@pytest.mark.timeout(240)
async def test_a_burst_of_pods_is_no_more_than_they_are(own_cluster: Cluster) -> None:
    """Created bound to nodes; each then gets its address from its kubelet, which here is a second request."""
    own_cluster.apply(policy("web", **FROM_API))
    count = 10_000
    async with followed(own_cluster) as follower:
        made = [("/api/v1/namespaces/default/pods", pod(f"p{n}", f"n{n % 50}", "", app="x")) for n in range(count)]
        for _, each in made:
            del each["status"]
        burst = asyncio.create_task(asyncio.to_thread(in_parallel, own_cluster, made))
        async with asyncio.timeout(200):
            while len(follower.names) <= count:
                await follower.take()
        await burst
        assert len(follower.news) == len(follower.names)


@pytest.mark.usefixtures("_controller_manager")
async def test_a_namespace_deleted_with_a_thousand_policies_is_gone_whole(own_cluster: Cluster) -> None:
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "doomed"}}
    own_cluster.apply(space)
    own_cluster.start_controllers(("namespace-controller",))
    path = "/apis/networking.k8s.io/v1/namespaces/doomed/networkpolicies"
    await asyncio.to_thread(in_parallel, own_cluster, [(path, policy(f"x{n}", "doomed")) for n in range(1000)])
    async with followed(own_cluster) as follower:
        assert len(follower.names) == 1000
        began = time.monotonic()
        own_cluster.delete(space)
        async with asyncio.timeout(90):
            while follower.names:
                assert time.monotonic() - began < 90
                await follower.take()
