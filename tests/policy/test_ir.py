from __future__ import annotations

from itertools import combinations

from inet.prefix import Family
from policy.ir import (
    Direction,
    NamedPorts,
    Outcome,
    Rule,
    cidr_set,
    make_chain,
    named_port_set,
    node_set,
    pod_set,
    port_set,
)
from policy.policies import Action, PolicyRef, PolicyRule, Selection, Tier
from policy.selector import EVERYTHING, Operator, Requirement, Selector, selector_of_labels

V4, V6 = Family.IPV4, Family.IPV6


def test_different_sets_have_different_names() -> None:
    by_key = Selector([Requirement("shop", Operator.EXISTS)])
    refs = [
        pod_set(V4, Selection("shop", None, EVERYTHING)),  # the namespace shop
        pod_set(V4, Selection(None, by_key, EVERYTHING)),  # namespaces with a label shop
        pod_set(V6, Selection("shop", None, EVERYTHING)),
        pod_set(V4, Selection(None, EVERYTHING, by_key)),
        node_set(V4, by_key),
        named_port_set(V4, NamedPorts(None, "http", 6)),
        named_port_set(V4, NamedPorts(None, "http", None)),
        named_port_set(V4, NamedPorts(Selection("shop", None, EVERYTHING), "http", 6)),
        named_port_set(V4, NamedPorts(None, "http', 6)", 6)),
        cidr_set(V4, ((1, 2),)),
        cidr_set(V4, ((1, 2), (4, 5))),
        cidr_set(V6, ((1, 2),)),
        port_set(((1, 2), (4, 5))),
    ]
    for one, other in combinations(refs, 2):
        assert one.name != other.name
        assert one != other
    assert max(len(each.name) for each in refs) <= 32


def test_what_is_the_same_has_the_same_name_wherever_it_is_written() -> None:
    one = Selection(None, selector_of_labels({"a": "1", "b": "2"}), EVERYTHING)
    expressions = [Requirement("b", Operator.IN, ("2",)), Requirement("a", Operator.IN, ("1",))]
    assert pod_set(V4, one) == pod_set(V4, Selection(None, Selector(expressions), EVERYTHING))


def test_names_are_the_same_in_every_process_and_release() -> None:
    # A restart writes nothing only if names stay. Whoever changes this renames every set in every kernel once.
    assert pod_set(V4, Selection("shop", None, EVERYTHING)).name == "pods4_951b6fd4b3e86d2a589e"


def test_a_chain_is_named_after_all_that_it_does() -> None:
    def rule(number: int, action: Action = Action.ACCEPT, name: str = "a") -> dict[PolicyRef, tuple[Rule, ...]]:
        ref = PolicyRef("NetworkPolicy", "shop", name)
        return {ref: (Rule(ref, number, PolicyRule(action), ()),)}

    tier = Tier.NETWORK_POLICY
    nobody = PolicyRef("NetworkPolicy", "shop", "nobody")
    chains = [
        make_chain(V4, Direction.INGRESS, tier, rule(1), Outcome.DENY),
        make_chain(V6, Direction.INGRESS, tier, rule(1), Outcome.DENY),
        make_chain(V4, Direction.EGRESS, tier, rule(1), Outcome.DENY),
        make_chain(V4, Direction.INGRESS, Tier.ADMIN, rule(1), Outcome.DENY),
        make_chain(V4, Direction.INGRESS, tier, rule(2), Outcome.DENY),
        make_chain(V4, Direction.INGRESS, tier, rule(1, Action.DENY), Outcome.DENY),
        make_chain(V4, Direction.INGRESS, tier, rule(1, name="b"), Outcome.DENY),
        make_chain(V4, Direction.INGRESS, tier, rule(1), Outcome.ALLOW),
        make_chain(V4, Direction.INGRESS, tier, rule(1), "another"),
        make_chain(V4, Direction.INGRESS, tier, {**rule(1), nobody: ()}, Outcome.DENY),
    ]
    assert len({each.name for each in chains}) == len(chains)
    assert chains[0] == make_chain(V4, Direction.INGRESS, tier, rule(1), Outcome.DENY)
