from __future__ import annotations

import pytest

from agent.objects.policy_objects import update_of
from agent.policy_flows import denied, doubtful
from inet.prefix import Family
from policy.compiler import Deleted
from tests.agent.policy_world import PolicyWorld, manifest


@pytest.fixture(params=list(Family), ids=lambda family: family.label)
def world(request: pytest.FixtureRequest) -> PolicyWorld:
    world = PolicyWorld(request.param)
    for item in (*world.base(), world.pod("a", 2, app="a"), world.pod("b", 3, app="b"), world.pod("c", 4, app="c")):
        tell(world, item)
    world.policy.engine.flush()
    return world


def tell(world: PolicyWorld, item: object) -> set[bytes]:
    """Take over an object; return whose connections are in doubt after it."""
    update = item if isinstance(item, Deleted) else update_of(item)
    assert update is not None
    world.policy.engine.apply(update)
    delta = world.policy.engine.flush()
    return doubtful(world.policy.engine.ruleset, delta)


def test_a_new_policy_puts_the_connections_of_its_pods_in_doubt_and_no_others(world: PolicyWorld) -> None:
    assert tell(world, world.allow("p", {"app": "b"}, {"app": "a"})) == {world.address(3)}


def test_who_is_let_in_besides_puts_nothing_in_doubt_and_who_is_no_longer_does(world: PolicyWorld) -> None:
    tell(world, world.allow("p", {"app": "b"}, {"app": "a"}))
    assert tell(world, world.pod("c", 4, app="a")) == set()
    assert tell(world, world.pod("c", 4, app="c")) == {world.address(3)}


def test_whoever_is_newly_denied_or_passed_on_is_in_doubt(world: PolicyWorld) -> None:
    for number, action in enumerate(("Deny", "Pass")):
        rule = {"action": action, "from": [{"pods": {"podSelector": {"matchLabels": {"app": f"new-{number}"}}}}]}
        subject = {"pods": {"podSelector": {"matchLabels": {"app": "b"}}}}
        spec = {"tier": "Admin", "priority": number, "subject": subject, "ingress": [rule]}
        tell(world, manifest("ClusterNetworkPolicy", f"p{number}", spec=spec))
        assert tell(world, world.pod("c", 4, app=f"new-{number}")) == {world.address(3)}


def test_what_a_chain_goes_on_to_counts_as_its_own(world: PolicyWorld) -> None:
    tell(world, world.allow("p", {"app": "b"}, {"app": "a"}))
    rule = {"action": "Accept", "from": [{"pods": {"podSelector": {"matchLabels": {"app": "z"}}}}]}
    spec = {"tier": "Admin", "priority": 1, "subject": {"pods": {"podSelector": {}}}, "ingress": [rule]}
    tell(world, manifest("ClusterNetworkPolicy", "admin", spec=spec))
    assert tell(world, world.pod("a", 2, app="no-more")) >= {world.address(3)}


def test_a_pod_that_comes_has_no_connections_to_doubt(world: PolicyWorld) -> None:
    assert tell(world, world.pod("d", 5, app="d")) == set()


def test_connections_that_could_not_begin_now_are_denied(world: PolicyWorld) -> None:
    tell(world, world.allow("p", {"app": "b"}, {"app": "a"}, ports=[{"port": 80}]))
    allowed, by_peer, by_port, other = world.flow(2, 3), world.flow(4, 3), world.flow(2, 3, 81), world.flow(3, 2)
    ruleset = world.policy.engine.ruleset
    assert denied(ruleset, [allowed, by_peer, by_port, other], ()) == [by_peer, by_port]


def test_what_has_an_address_of_the_node_itself_is_its_own(world: PolicyWorld) -> None:
    tell(world, world.allow("p", {"app": "b"}))
    ruleset = world.policy.engine.ruleset
    assert denied(ruleset, [world.flow(1, 3)], ()) == [world.flow(1, 3)]
    assert denied(ruleset, [world.flow(1, 3)], {world.address(1)}) == []
