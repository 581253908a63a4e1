"""Objects on their way to the parts of an agent, and what is told of those that are not in force."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent import intake
from agent.cni.links import FakePodLinks
from agent.cni.node import NO_RUNTIME, NodeCni, NodeFacts
from agent.cni.podnetwork import PodNetwork
from agent.configurator import Configurator
from agent.datastore.fake import FakeDatastore
from agent.draining import Draining
from agent.drops import DropWatch
from agent.enforcement import NodePolicy
from agent.intake import Intake
from agent.lab.wait import eventually
from agent.mtu import OWNER
from agent.objects.problem import Problem
from agent.view import View
from bgp.config import BgpConfig, Node
from bgp.peering import Plan
from felix.nft.enforcement import Content
from tests.agent.idle_network import idle_network
from tests.agent.objects_of_nodes import node_object
from tests.agent.policy_world import FakePolicyKernel, manifest
from tests.agent.routing_world import World


class Stage:
    """An intake with all that it serves, and where its objects come from."""

    def __init__(self, world: World, directory: Path) -> None:
        self.datastore = FakeDatastore(node_object(1), node_object(2))
        self.policy = NodePolicy("n1", FakePolicyKernel())
        self.network = idle_network(world.routing, self.policy)
        drops = DropWatch("n1", self.policy.engine, None)
        configurator = Configurator("n1", "x", world.routing, Draining(world.routing, directory / "drain.json"))
        links = FakePodLinks()
        facts = NodeFacts(lambda: world.routing.own_prefixes, lambda: 1500, lambda: True, frozenset, lambda: False)
        self.cni = NodeCni(NO_RUNTIME, directory, PodNetwork(self.policy, links), links, facts)
        self.intake = Intake(self.datastore, self.policy, self.network, configurator, cni=self.cni)
        parts = (world.routing, self.policy, drops, self.datastore)
        self.view = View("n1", *parts, network=self.network, problems=self.intake.problems)

    @property
    def problems(self) -> list[str]:
        return self.view.status().problems

    async def until(self, accept: Callable[[], object], what: str) -> None:
        await eventually(accept, within_s=20, what=what)


@pytest.fixture
async def stage(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setattr(intake, "LOOK_S", 0.05)
    built = Stage(world, tmp_path)
    running = asyncio.create_task(built.intake.run())
    yield built
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_every_part_gets_to_know_what_it_goes_by(world: World, stage: Stage) -> None:
    stage.datastore.put(manifest("Namespace", "x"))
    stage.datastore.listed()
    await stage.until(lambda: world.routing.plan, "routing")
    assert world.host(2) in world.speaker.sessions
    assert stage.network.around.others
    assert stage.network.around.namespaces.keys() == {"x"}
    assert stage.cni._wake.is_set()


async def test_policy_is_told_of_policies(stage: Stage) -> None:
    stage.datastore.put(manifest("NetworkPolicy", "p", "x", spec={"podSelector": {}, "policyTypes": ["Ingress"]}))
    stage.datastore.listed()
    await stage.until(lambda: stage.policy.count == 1, "policy")


async def test_what_is_wrong_with_objects_is_shown_while_it_is_and_logged_once(stage: Stage) -> None:
    bad = Problem(kind="BGPPeer", name="tor", field="spec.peerASN", message="0 is no AS number")
    with capture_logs() as logs:
        stage.datastore.set_problems(bad)
        stage.datastore.listed()
        await stage.until(lambda: stage.problems, "the problem")
        stage.datastore.put(node_object(3))
        await stage.until(lambda: len(stage.network.around.nodes) == 3, "the next batch")
    assert stage.problems == [str(bad)]
    assert stage.view.objections() == [bad]
    assert [line["problem"] for line in logs if line["event"] == "object.problem"] == [str(bad)]
    stage.datastore.set_problems()
    await stage.until(lambda: not stage.problems, "it is mended")


async def test_what_the_kernel_refuses_is_logged_before_the_next_change_of_objects(stage: Stage) -> None:
    stage.datastore.listed()
    await stage.until(stage.cni._wake.is_set, "objects")
    stage.policy.contribute(OWNER, Content({"clamp": "jump nowhere"}, {}))
    with capture_logs() as logs:
        writing = asyncio.create_task(stage.policy.run())
        refused = f"{OWNER} is not in force"
        await stage.until(lambda: any(line.get("problem", "").startswith(refused) for line in logs), "the log")
        writing.cancel()


async def test_what_is_missing_is_a_problem_that_no_object_has(stage: Stage) -> None:
    stage.datastore.delete(node_object(1).key)
    stage.datastore.listed()
    await stage.until(lambda: stage.problems, "the problem")
    assert stage.problems == ["there is no Node object n1: nothing is done until there is one"]
    assert stage.view.objections() == []


async def test_nodes_that_come_one_after_the_other_within_moments_are_few_changes(
    world: World, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured: list[int] = []
    configure = world.routing.configure

    async def counted(config: BgpConfig, node: Node) -> Plan:
        configured.append(len(config.nodes))
        return await configure(config, node)

    monkeypatch.setattr(world.routing, "configure", counted)
    monkeypatch.setattr(intake, "GATHERING_S", 0.5)
    stage.datastore.listed()
    for number in range(3, 203):
        stage.datastore.put(node_object(number))
        await asyncio.sleep(0)  # an event of its own
    await stage.until(lambda: configured and configured[-1] == 202, "all nodes")
    assert len(configured) <= 3
