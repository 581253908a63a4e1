from __future__ import annotations

import itertools

import pytest

from policy.cidr import parse_block
from policy.policies import (
    CLUSTER_NETWORK_POLICY,
    NETWORK_POLICY,
    Action,
    BlockPeer,
    NodePeer,
    Notice,
    PodPeer,
    Policy,
    PolicyRef,
    PolicyRule,
    Selection,
    Tier,
    UnknownPeer,
)
from policy.selector import Operator, Requirement, Selector

EVERYTHING = Selector()
DB = Selector([Requirement("app", Operator.IN, ("db",))])
OPS = Selector([Requirement("team", Operator.IN, ("ops",))])


def policy(tier: Tier, priority: int, name: str, namespace: str = "") -> Policy:
    kind = NETWORK_POLICY if namespace else CLUSTER_NETWORK_POLICY
    ref = PolicyRef(kind, namespace, name)
    return Policy(ref, tier, priority, Selection(None, EVERYTHING, EVERYTHING), None, None)


@pytest.mark.parametrize(
    ("selection", "text"),
    [
        (Selection("shop", None, EVERYTHING), "ns shop"),
        (Selection("shop", None, DB), "ns shop, app=db"),
        (Selection(None, OPS, EVERYTHING), "ns team=ops"),
        (Selection(None, OPS, DB), "ns team=ops, app=db"),
        (Selection(None, EVERYTHING, EVERYTHING), "ns *"),
        (Selection(None, EVERYTHING, DB), "ns *, app=db"),
    ],
    ids=str,
)
def test_a_selection_reads_as_places_then_labels(selection: Selection, text: str) -> None:
    assert str(selection) == str(PodPeer(selection)) == text


def test_a_peer_of_the_own_namespace_does_not_repeat_it() -> None:
    assert str(PodPeer(Selection("shop", None, DB), is_own_namespace=True)) == "app=db"
    everybody = PodPeer(Selection("shop", None, EVERYTHING), is_own_namespace=True)
    assert str(everybody) == "every pod of the namespace"


@pytest.mark.parametrize(
    ("block", "exceptions", "text"),
    [
        ("10.0.0.0/8", (), "10.0.0.0/8"),
        ("10.0.0.0/8", ("10.1.0.0/16",), "10.0.0.0/8 except 10.1.0.0/16"),
        ("fd00::/8", ("fd01::/16", "fd02::/16"), "fd00::/8 except fd01::/16, fd02::/16"),
    ],
)
def test_a_block_names_its_exceptions(block: str, exceptions: tuple[str, ...], text: str) -> None:
    assert str(BlockPeer(parse_block(block), tuple(map(parse_block, exceptions)))) == text


def test_the_other_peers_read_as_what_they_are() -> None:
    assert str(NodePeer(OPS)) == "nodes team=ops"
    assert str(NodePeer(EVERYTHING)) == "nodes *"
    assert str(UnknownPeer("domainNames")) == "domainNames (not enforced)"


def test_a_policy_is_named_as_kubectl_takes_it() -> None:
    namespaced = PolicyRef(NETWORK_POLICY, "shop", "db-in")
    cluster = PolicyRef(CLUSTER_NETWORK_POLICY, "", "no-metadata")
    assert (namespaced.key, str(namespaced)) == ("shop/db-in", "NetworkPolicy shop/db-in")
    assert (cluster.key, str(cluster)) == ("no-metadata", "ClusterNetworkPolicy no-metadata")


def test_policies_of_one_name_in_two_places_are_two() -> None:
    names = {PolicyRef(NETWORK_POLICY, place, "db-in") for place in ("shop", "mall")}
    assert len(names | {PolicyRef(CLUSTER_NETWORK_POLICY, "", "db-in")}) == 3


def test_tiers_decide_one_after_the_other_then_priority_then_the_name() -> None:
    in_order = [
        policy(Tier.ADMIN, 0, "z"),
        policy(Tier.ADMIN, 5, "a"),
        policy(Tier.ADMIN, 5, "b"),
        policy(Tier.ADMIN, 1000, "a"),
        policy(Tier.NETWORK_POLICY, 0, "z", "mall"),
        policy(Tier.NETWORK_POLICY, 0, "a", "shop"),
        policy(Tier.BASELINE, 0, "a"),
    ]
    for shuffled in itertools.permutations(in_order[:4]):
        assert sorted([*in_order[4:], *shuffled], key=lambda each: each.precedence) == in_order


def test_a_rule_that_says_no_more_is_about_everything() -> None:
    assert PolicyRule(Action.DENY) == PolicyRule(Action.DENY, peers=None, ports=None, name="")
    assert PolicyRule(Action.DENY) != PolicyRule(Action.DENY, peers=())  # that matches nothing


def test_tiers_and_actions_are_worded_as_the_api_words_them() -> None:
    assert [tier.label for tier in sorted(Tier)] == ["Admin", "NetworkPolicy", "Baseline"]
    assert [Action("Accept"), Action("Deny"), Action("Pass")] == list(Action)


def test_a_notice_names_the_field_first() -> None:
    notice = Notice("spec.egress[0].to[1]", "domain names are not enforced; the rule denies")
    assert str(notice) == "spec.egress[0].to[1]: domain names are not enforced; the rule denies"
