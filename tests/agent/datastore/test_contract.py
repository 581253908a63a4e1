"""What every datastore does, whatever is behind it. A new one joins by a `World` in `WORLDS`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from agent.datastore import Datastore
from agent.datastore.directory import DirectoryDatastore
from agent.datastore.fake import FakeDatastore
from agent.datastore.kubernetes.datastore import KubernetesDatastore
from agent.kubernetes.access import Access
from agent.kubernetes.client import Client
from agent.namespace import OWN_NAMESPACE
from agent.objects import BGPPeer, Key, Node
from agent.objects.kinds import KINDS, decode, key_of, kind_of
from tests.agent.datastore.following import Follower
from tests.kubernetes.cluster import Cluster


class World(Protocol):
    """A datastore and the hand that changes what is behind it."""

    store: Datastore
    always: frozenset[str]  # kinds of which there are always some

    def put(self, *documents: dict[str, Any]) -> None: ...
    def delete(self, *keys: Key) -> None: ...
    def list_again(self) -> None: ...
    def clean_up(self) -> None: ...


class FakeWorld:
    always = frozenset[str]()

    def __init__(self, *_: object) -> None:
        self.store = FakeDatastore()

    def put(self, *documents: dict[str, Any]) -> None:
        for document in documents:
            kind = kind_of(document)
            assert kind
            self.store.put(decode(kind, key_of(kind, document), document))
        if not self.store.health().is_synced:
            self.store.listed()

    def delete(self, *keys: Key) -> None:
        self.store.delete(*keys)

    def list_again(self) -> None:
        self.store.listed()

    def clean_up(self) -> None:
        """Nothing is left."""


class DirectoryWorld:
    always = frozenset[str]()

    def __init__(self, directory: Path, _: object) -> None:
        self._directory = directory
        self.store = DirectoryDatastore(directory, rescan_s=0.5)

    def put(self, *documents: dict[str, Any]) -> None:
        for document in documents:
            kind = kind_of(document)
            assert kind
            self._file(key_of(kind, document)).write_text(json.dumps(document))

    def delete(self, *keys: Key) -> None:
        for key in keys:
            self._file(key).unlink()

    def list_again(self) -> None:
        """It does so by itself."""

    def clean_up(self) -> None:
        """The directory goes by itself."""

    def _file(self, key: Key) -> Path:
        return self._directory / ("-".join(filter(None, key)) + ".json")


class KubernetesWorld:
    always = frozenset({"Namespace"})

    def __init__(self, _: Path, cluster: Cluster) -> None:
        self._cluster = cluster
        self._put: dict[Key, dict[str, Any]] = {}
        self.store = KubernetesDatastore(Client(Access(cluster.kubeconfig())), "n1", OWN_NAMESPACE)
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OWN_NAMESPACE}})

    def put(self, *documents: dict[str, Any]) -> None:
        for document in documents:
            kind = kind_of(document)
            assert kind
            key = key_of(kind, document)
            if key.namespace:
                document["metadata"]["namespace"] = key.namespace
            self._put[key] = document
            self._cluster.apply(document)

    def delete(self, *keys: Key) -> None:
        for key in keys:
            self._cluster.delete(self._put.pop(key))

    def list_again(self) -> None:
        self.store.relist()

    def clean_up(self) -> None:
        self.delete(*self._put)


WORLDS = (FakeWorld, DirectoryWorld, pytest.param(KubernetesWorld, marks=pytest.mark.kubernetes))


@pytest.fixture(params=WORLDS, ids=lambda world: world.__name__)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    cluster = request.getfixturevalue("cluster") if request.param is KubernetesWorld else None
    world: World = request.param(tmp_path, cluster)
    yield world
    await world.store.stop()
    world.clean_up()


def peer(name: str, asn: int = 65100, **more: Any) -> dict[str, Any]:
    spec = {"peer": {"address": "172.16.1.1"}, "peerASN": asn, **more}
    return {"apiVersion": "tortie.dev/v1alpha1", "kind": "BGPPeer", "metadata": {"name": name}, "spec": spec}


def node(name: str, *cidrs: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDRs": list(cidrs)}}


async def start(world: World, *documents: dict[str, Any]) -> Follower:
    world.put(*documents)
    await world.store.start()
    follower = Follower(world.store, world.always)
    await follower.until_synced()
    return follower


def asn_of(follower: Follower, name: str) -> object:
    item = follower.objects.get(Key("BGPPeer", "", name))
    return item.spec.peer_asn if isinstance(item, BGPPeer) else None


async def test_once_synced_everything_has_been_told(world: World) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bgp"}, "stringData": {"tor": "x"}}
    with_password = peer("a", passwordSecretRef={"name": "bgp", "key": "tor"})
    follower = await start(world, with_password, peer("b"), node("n1", "10.42.0.0/24", "fd42::/64"), secret)

    assert {str(key) for key in follower.objects} == {
        "BGPPeer a",
        "BGPPeer b",
        "Node n1",
        "Secret tortie-system/bgp",
    }
    assert follower.problems == ()
    assert world.store.health().is_synced
    assert world.store.health().error == ""


async def test_a_new_a_changed_and_a_deleted_object_are_told(world: World) -> None:
    follower = await start(world, peer("a"), peer("b"))

    world.put(peer("c"))
    await follower.until(lambda: "c" in follower.names)
    world.put(peer("a", 65101))
    await follower.until(lambda: asn_of(follower, "a") == 65101)
    world.delete(Key("BGPPeer", "", "b"))
    await follower.until(lambda: follower.names == {"a", "c"})


async def test_the_whole_object_is_told_not_what_is_new_in_it(world: World) -> None:
    follower = await start(world, node("n1", "10.42.0.0/24"))

    changed = node("n1", "10.42.0.0/24")
    changed["metadata"]["labels"] = {"rack": "a"}
    world.put(changed)
    await follower.until(lambda: len(follower.news) == 2)

    (item,) = follower.objects.values()
    wanted = KINDS["Node"].decode(changed)
    assert isinstance(item, Node)
    assert isinstance(wanted, Node)
    assert (item.key, item.metadata.labels, item.pod_cidrs) == (wanted.key, wanted.metadata.labels, wanted.pod_cidrs)


async def test_what_did_not_change_is_no_news(world: World) -> None:
    follower = await start(world, peer("a"), peer("b"))

    world.put(peer("a"))
    world.put(peer("b", 65101))
    await follower.until(lambda: asn_of(follower, "b") == 65101)

    assert sorted(key.name for key in follower.news) == ["a", "b", "b"]


async def test_a_slow_consumer_gets_the_last_word_alone(world: World) -> None:
    follower = await start(world, peer("a"))

    for asn in range(65000, 65050):
        world.put(peer("a", asn))
    world.put(peer("z"))
    await follower.until(lambda: "z" in follower.names and asn_of(follower, "a") == 65049)

    assert len([key for key in follower.news if key.name == "a"]) < 10


async def test_an_object_that_came_and_went_leaves_nothing(world: World) -> None:
    follower = await start(world, peer("a"))

    world.put(peer("b"))
    world.delete(Key("BGPPeer", "", "b"))
    world.put(peer("z"))
    await follower.until(lambda: "z" in follower.names)
    await follower.until(lambda: "b" not in follower.names)

    assert follower.names == {"a", "z"}


async def test_a_deletion_can_be_confirmed_by_another_full_list(world: World) -> None:
    follower = await start(world, peer("a"), peer("b"))

    world.delete(Key("BGPPeer", "", "a"), Key("BGPPeer", "", "b"))
    await follower.until(lambda: not follower.objects)
    lists = follower.full_lists
    world.list_again()
    await follower.until(lambda: follower.full_lists > lists)

    assert not follower.objects


async def test_batches_end_when_it_stops(world: World) -> None:
    follower = await start(world, peer("a"))

    await world.store.stop()

    assert await follower.ends()
