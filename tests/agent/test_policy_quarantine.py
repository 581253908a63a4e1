from __future__ import annotations

import pytest

from agent.objects.policy_objects import update_of
from agent.policy_quarantine import Quarantine
from felix.nft.table import Refusal
from inet.prefix import Family
from policy.compiler import Deleted, Engine
from policy.policies import Action, Policy
from tests.agent.policy_world import PolicyWorld, manifest


class World:
    """An engine with one pod, and what is heard of its policies."""

    def __init__(self) -> None:
        self.world = PolicyWorld(Family.IPV4)
        self.engine: Engine = self.world.policy.engine
        self.quarantine = Quarantine()
        for item in (*self.world.base(), self.world.pod("b", 3, app="b")):
            update = update_of(item)
            assert update is not None
            self.engine.apply(update)

    def hear(self, name: str, port: int) -> Policy:
        found = update_of(self.world.allow(name, {"app": "b"}, {"app": "a"}, ports=[{"port": port}]))
        assert isinstance(found, Policy)
        self.take(found)
        return found

    def take(self, policy: Policy) -> None:
        self.quarantine.hear(policy)
        self.engine.apply(policy)
        self.engine.flush()

    def refusal(self, name: str, line: str = "") -> Refusal:
        """Return a refusal of the chain, or of the line of it that a policy's rule is in."""
        chain = next(each for each in self.engine.ruleset.chains.values() if each.family is Family.IPV4)
        return Refusal(
            chain.name, "no", f'tcp dport 1 accept comment "NetworkPolicy x/{name} rule 1"' if name else line
        )


@pytest.fixture
def world() -> World:
    return World()


def test_the_policy_of_a_refused_line_is_put_aside_and_closed(world: World) -> None:
    world.hear("good", 80)
    world.quarantine.succeeded()
    bad = world.hear("bad", 81)
    (closed,) = world.quarantine.isolate(world.engine.ruleset, [world.refusal("bad")])
    assert (closed.ref, closed.subject, closed.ingress, closed.egress) == (bad.ref, bad.subject, (), None)
    assert world.quarantine.problems == [
        "NetworkPolicy x/bad: the kernel refuses it: " + str(world.refusal("bad"))
        + ". Until it is changed, its pods get nothing that it speaks about."
    ]  # fmt: skip


def test_a_policy_that_was_good_goes_back_to_what_it_said(world: World) -> None:
    before = world.hear("p", 80)
    world.quarantine.succeeded()
    world.hear("p", 81)
    assert world.quarantine.isolate(world.engine.ruleset, [world.refusal("p")]) == [before]


def test_only_what_is_new_is_blamed(world: World) -> None:
    world.hear("old", 80)
    world.quarantine.succeeded()
    assert world.quarantine.isolate(world.engine.ruleset, [world.refusal("old")]) == []
    new = world.hear("new", 81)
    (closed,) = world.quarantine.isolate(world.engine.ruleset, [world.refusal("", "chain x {")])
    assert closed.ref == new.ref


def test_a_policy_is_put_aside_once_and_tried_again_when_it_is_released_or_changed(world: World) -> None:
    bad = world.hear("bad", 80)
    world.quarantine.isolate(world.engine.ruleset, [world.refusal("bad")])
    assert world.quarantine.isolate(world.engine.ruleset, [world.refusal("bad")]) == []
    assert world.quarantine.release() == [bad]
    assert world.quarantine.problems == []
    assert world.quarantine.isolate(world.engine.ruleset, [world.refusal("bad")]) != []
    world.hear("bad", 81)
    assert world.quarantine.problems == []


def test_a_policy_that_is_deleted_is_forgotten(world: World) -> None:
    bad = world.hear("bad", 80)
    world.quarantine.isolate(world.engine.ruleset, [world.refusal("bad")])
    world.quarantine.hear(Deleted(*bad.ref))
    world.quarantine.succeeded()
    assert (world.quarantine.problems, world.quarantine.release()) == ([], [])


def test_a_cluster_policy_is_closed_by_a_rule(world: World) -> None:
    rule = {"action": "Accept", "to": [{"networks": ["10.0.0.0/8"]}]}
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": [rule]}
    policy = update_of(manifest("ClusterNetworkPolicy", "all", spec=spec))
    assert isinstance(policy, Policy)
    world.take(policy)
    (closed,) = world.quarantine.isolate(world.engine.ruleset, [world.refusal("", "chain x {")])
    assert closed.ingress is None
    assert [each.action for each in closed.egress or ()] == [Action.DENY]
