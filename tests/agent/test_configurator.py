"""What routing is made to do by objects that come, change and go."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent import configurator
from agent.configurator import Configurator
from agent.draining import TAINT, Draining
from agent.namespace import OWN_NAMESPACE
from agent.objects.model import Key
from felix.monitor import AddressChanged
from tests.agent.objects_of_nodes import batch, node_object
from tests.agent.policy_world import manifest
from tests.agent.routing_world import World


@pytest.fixture
def made(world: World, tmp_path: Path) -> Configurator:
    return Configurator("n1", "tortie-system", world.routing, Draining(world.routing, tmp_path / "drain.json"))


async def test_objects_become_sessions(world: World, made: Configurator) -> None:
    await made.take(batch(node_object(1), node_object(2)))
    assert world.host(2) in world.speaker.sessions
    assert made.problems == []


async def test_nothing_is_done_before_all_there_is_has_been_read(world: World, made: Configurator) -> None:
    await made.take(batch(node_object(1), full_lists=0))
    assert world.routing.plan is None
    await made.take(batch(node_object(2), full_lists=1))
    assert world.host(2) in world.speaker.sessions


async def test_a_node_that_is_gone_takes_its_sessions_along(world: World, made: Configurator) -> None:
    await made.take(batch(node_object(1), node_object(2), node_object(3)))
    await made.take(batch(gone=(node_object(3),)))
    assert {session.origin for session in world.speaker.sessions.values()} == {"mesh/n2"}


async def test_what_is_policys_alone_is_no_news_for_routing(
    world: World, made: Configurator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await made.take(batch(node_object(1), node_object(2)))
    monkeypatch.setattr(world.routing, "configure", None)  # to be called by nobody
    await made.take(batch(manifest("Namespace", "x")))
    await made.take(batch(gone=(manifest("Namespace", "x"),)))


async def test_without_its_own_node_object_nothing_begins_and_the_reason_is_told(
    world: World, made: Configurator
) -> None:
    await made.take(batch(node_object(2)))
    assert world.routing.plan is None
    assert made.problems == ["there is no Node object n1: nothing is done until there is one"]


async def test_a_node_whose_own_object_goes_stays_as_it_was(world: World, made: Configurator) -> None:
    await made.take(batch(node_object(1), node_object(2)))
    await made.take(batch(gone=(node_object(1),)))
    assert world.host(2) in world.speaker.sessions
    assert made.problems == ["Node n1 is gone: its last version stays in force"]


async def test_a_complaint_stands_until_it_is_met(world: World, made: Configurator) -> None:
    del world
    peer = {"peer": {"address": "10.0.0.9"}, "peerASN": 65000}
    wanting = manifest("BGPPeer", "tor", apiVersion="tortie.dev/v1alpha1", spec=peer)
    await made.take(batch(node_object(1), wanting))
    (problem,) = made.problems
    assert "this node has no route to 10.0.0.9" in str(problem)
    await made.take(batch(gone=(wanting,)))
    assert made.problems == []


async def test_a_complaint_that_the_kernel_meets_is_gone_before_the_next_object_comes(
    world: World, made: Configurator
) -> None:
    router = world.host(9)
    peer = {"peer": {"address": str(router)}, "peerASN": 65000}
    await made.take(batch(node_object(1), manifest("BGPPeer", "tor", apiVersion="tortie.dev/v1alpha1", spec=peer)))
    assert [f"this node has no route to {router}" in str(each) for each in made.problems] == [True]
    world.resolver.addresses.add(world.host(1))
    world.resolver.sources[router, None] = world.host(1)
    world.monitor.tell(AddressChanged(1))
    await world.settle()
    assert router in world.speaker.sessions
    assert made.problems == []


async def test_a_session_whose_secret_may_not_be_read_says_so_and_comes_up_once_it_may(
    world: World, made: Configurator
) -> None:
    key, why = Key("Secret", OWN_NAMESPACE, "bgp"), '403 Forbidden: secrets "bgp" is forbidden'
    mesh = {"nodeMesh": {"passwordSecretRef": {"name": "bgp", "key": "mesh"}}}
    wish = manifest("BGPConfiguration", "default", apiVersion="tortie.dev/v1alpha1", spec=mesh)
    await made.take(batch(node_object(1), node_object(2), wish, unreadable={key: why}))
    peer = world.routing.peers[world.host(2)]
    assert peer.reason == f"Secret bgp cannot be read: {why}"
    assert [peer.reason in str(each) for each in made.problems] == [True]
    await made.take(batch())
    assert peer.reason == "Secret bgp does not exist"
    await made.take(batch(manifest("Secret", "bgp", OWN_NAMESPACE, stringData={"mesh": "hush"})))
    assert peer.reason == "connecting"
    assert made.problems == []


async def test_deletions_that_a_second_listing_repeats_are_meant(
    world: World, made: Configurator, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirmed: list[int] = []
    monkeypatch.setattr(world.routing, "confirm_full_list", lambda: confirmed.append(1))
    await made.take(batch(node_object(1)))
    await made.take(batch(node_object(2)))
    assert len(confirmed) == 1
    await made.take(batch(full_lists=2))
    assert len(confirmed) == 2


async def test_the_taint_of_the_node_object_drains_it(world: World, made: Configurator) -> None:
    tainted = manifest(
        "Node",
        "n1",
        spec={"podCIDRs": ["10.42.1.0/24"], "taints": [{"key": "tortie.dev/drain", "effect": "NoSchedule"}]},
        status={"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]},
    )
    await made.take(batch(tainted))
    assert world.routing.drain.wishes.keys() == {TAINT}
    await made.take(batch(node_object(1)))
    assert world.routing.drain.wishes == {}


async def test_the_speaker_starts_when_there_is_something_to_say_and_is_tried_until_it_does(
    world: World, made: Configurator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configurator, "SPEAKER_RETRY_S", 0.0)
    world.speaker.start_error = "no such file"
    with capture_logs() as logs:
        running = asyncio.create_task(made.run())
        await asyncio.sleep(0)
        assert logs == []
        await made.take(batch(node_object(1)))
        await world.settle()
        assert {line["reason"] for line in logs if line["event"] == "speaker.failed"} == {"no such file"}
    world.speaker.start_error = ""
    await asyncio.wait_for(running, 20)
    assert world.speaker.started
