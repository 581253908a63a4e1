from __future__ import annotations

from dataclasses import replace

import pytest

from inet.prefix import Family
from policy.cidr import pack_address
from policy.compiler import Deleted, Engine, Update
from policy.evaluator import Packet, evaluate
from policy.ir import Outcome, SetKind
from policy.objects import Pod
from policy.policies import Policy
from policy.selector import decode_selector
from tests.policy.clusters import footprint
from tests.policy.scenarios import (
    DB_IN,
    SHOP,
    cluster_policy,
    engine_of,
    labels,
    namespace,
    network_policy,
    node,
    pod,
)

DB, FRONT, API, PROBE = map(pack_address, ("10.42.1.9", "10.42.1.7", "10.42.2.3", "10.42.2.4"))
DB6, API6 = map(pack_address, ("fd42:0:0:1::9", "fd42:0:0:2::3"))
NODE = pack_address("172.16.0.1")


def allows(engine: Engine, source: bytes, destination: bytes, port: int | None, protocol: int = 6) -> bool:
    engine.flush()
    return evaluate(engine.ruleset, Packet(source, destination, protocol, port)).outcome is Outcome.ALLOW


def test_only_policies_that_select_a_pod_of_this_node_are_compiled() -> None:
    elsewhere = network_policy("ops/closed")  # its one pod is on another node
    engine = engine_of([*SHOP, elsewhere])
    assert not engine.ruleset.chains
    assert not engine.ruleset.sets
    engine.apply(
        network_policy("shop/of-api", podSelector=labels(app="api"), ingress=[{"from": [{"podSelector": {}}]}])
    )
    assert not engine.flush()


def test_a_policy_isolates_only_the_pods_it_selects() -> None:
    engine = engine_of([*SHOP, DB_IN])
    endpoints = {each.pod: each for each in engine.ruleset.endpoints.values()}
    assert endpoints["shop/front"].ingress is Outcome.ALLOW
    assert endpoints["shop/db-0"].egress is Outcome.ALLOW
    assert allows(engine, API, DB, 5432)
    assert allows(engine, API6, DB6, 5432)
    assert not allows(engine, API, DB, 5433)
    assert not allows(engine, FRONT, DB, 5432)
    assert allows(engine, FRONT, API, 1)


def test_named_ports_ranges_and_whole_protocols() -> None:
    engine = engine_of([*SHOP, DB_IN])
    assert allows(engine, PROBE, DB, 5432)  # pg, of this pod
    assert allows(engine, PROBE, DB, 8010)
    assert not allows(engine, PROBE, DB, 8011)
    assert allows(engine, PROBE, DB, 1, protocol=17)
    assert not allows(engine, PROBE, DB, None, protocol=1)  # ports leave out ICMP
    engine.apply(pod("shop/db-0", "10.42.1.9", app="db", ports=[{"name": "pg", "containerPort": 7777}]))
    assert not allows(engine, PROBE, DB, 5432)
    assert allows(engine, PROBE, DB, 7777)


def test_exceptions_of_a_block_are_out_unless_another_peer_has_them() -> None:
    engine = engine_of([*SHOP, DB_IN])
    stranger, excepted = map(pack_address, ("203.0.113.1", "203.0.113.100"))
    assert allows(engine, stranger, DB, 9000)
    assert not allows(engine, excepted, DB, 9000)
    engine.apply(
        network_policy(
            "shop/also", podSelector=labels(app="db"), ingress=[{"from": [{"ipBlock": {"cidr": "203.0.113.100/32"}}]}]
        )
    )
    assert allows(engine, excepted, DB, 9000)


def test_a_block_matches_pods_too() -> None:
    policy = network_policy(
        "shop/net", podSelector=labels(app="db"), ingress=[{"from": [{"ipBlock": {"cidr": "10.42.2.0/30"}}]}]
    )
    engine = engine_of([*SHOP, policy])
    assert allows(engine, API, DB, 1)
    assert not allows(engine, PROBE, DB, 1)


def test_a_whole_family_needs_no_set() -> None:
    policy = network_policy(
        "shop/v4", podSelector=labels(app="db"), ingress=[{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]
    )
    engine = engine_of([*SHOP, policy])
    assert not engine.ruleset.sets
    assert allows(engine, API, DB, 1)
    assert not allows(engine, API6, DB6, 1)


def test_the_blocks_of_a_rule_are_one_set_of_disjoint_intervals() -> None:
    blocks = ["10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/8", "9.0.0.0/9"]
    policy = network_policy(
        "shop/net", podSelector=labels(app="db"), ingress=[{"from": [{"ipBlock": {"cidr": each}} for each in blocks]}]
    )
    (ref,) = engine_of([*SHOP, policy]).ruleset.sets.values()
    assert ref.kind is SetKind.CIDRS
    first, last = int.from_bytes(pack_address("10.0.0.0")), int.from_bytes(pack_address("11.255.255.255"))
    assert (first, last) in ref.intervals
    assert len(ref.intervals) == 2


def test_a_node_always_reaches_its_pods_and_network_policy_leaves_the_way_back() -> None:
    policies = [network_policy("shop/closed", policyTypes=["Ingress", "Egress"])]
    engine = engine_of([*SHOP, *policies])
    assert allows(engine, NODE, DB, 5432)
    assert allows(engine, DB, NODE, 10250)
    assert not allows(engine, pack_address("172.16.0.2"), DB, 5432)  # another node is a stranger
    assert not allows(engine, DB, pack_address("172.16.0.2"), 10250)


def test_cluster_policies_speak_about_the_own_node_when_they_name_nodes_or_networks() -> None:
    deny = {"action": "Deny", "to": [{"nodes": {}}]}
    accept = {
        "action": "Accept",
        "to": [{"networks": ["172.16.0.1/32"]}],
        "protocols": [{"tcp": {"destinationPort": {"number": 10250}}}],
    }
    engine = engine_of([*SHOP, cluster_policy("nodes", "Admin", 5, egress=[accept, deny])])
    assert allows(engine, DB, NODE, 10250)
    assert not allows(engine, DB, NODE, 22)
    assert not allows(engine, DB, pack_address("172.16.0.2"), 22)
    assert allows(engine, NODE, DB, 22)
    pods_only = cluster_policy("nodes", "Admin", 5, egress=[{"action": "Deny", "to": [{"namespaces": {}}]}])
    engine.apply(pods_only)
    assert allows(engine, DB, NODE, 22)
    assert {each.own_node for each in engine.ruleset.endpoints.values()} == {Outcome.ALLOW}


@pytest.mark.parametrize(
    ("admin", "np", "baseline", "expected"),
    [
        ("Accept", False, "Deny", True),
        ("Deny", True, "Accept", False),
        ("Pass", True, "Deny", True),
        ("Pass", False, "Accept", False),
        ("Pass", None, "Deny", False),
        ("Pass", None, "Accept", True),
        (None, False, "Accept", False),
        (None, None, "Pass", True),
        (None, None, None, True),
    ],
)
def test_tiers_decide_in_order(*, admin: str | None, np: bool | None, baseline: str | None, expected: bool) -> None:
    objects: list[Update] = [*SHOP]
    everyone = [{"namespaces": {}}]
    if admin:
        objects.append(cluster_policy("admin", "Admin", 1, ingress=[{"action": admin, "from": everyone}]))
    if np is not None:
        objects.append(network_policy("shop/np", ingress=[{}] if np else []))
    if baseline:
        objects.append(cluster_policy("base", "Baseline", 1, ingress=[{"action": baseline, "from": everyone}]))
    assert allows(engine_of(objects), PROBE, DB, 1) is expected


def test_lower_priorities_go_first_and_names_break_ties() -> None:
    def policy(name: str, priority: int, action: str) -> Update:
        return cluster_policy(name, "Admin", priority, ingress=[{"action": action, "from": [{"namespaces": {}}]}])

    engine = engine_of([*SHOP, policy("b", 10, "Deny"), policy("c", 20, "Accept")])
    assert not allows(engine, PROBE, DB, 1)
    engine.apply(policy("c", 5, "Accept"))
    assert allows(engine, PROBE, DB, 1)
    engine.apply(policy("a", 5, "Deny"))
    assert not allows(engine, PROBE, DB, 1)


def test_a_pod_is_closed_until_its_namespace_is_known() -> None:
    engine = engine_of([node("n1", 1), pod("new/a", "10.42.1.1")])
    address = pack_address("10.42.1.1")
    assert not engine.ruleset.endpoints
    assert not allows(engine, PROBE, address, 1)
    assert not allows(engine, address, PROBE, 1)
    engine.apply(namespace("new"))
    assert allows(engine, PROBE, address, 1)


@pytest.mark.parametrize(
    "changed",
    [
        Pod("shop", "db-0", {"app": "db"}, (DB,), node="n1", completed=True),
        Pod("shop", "db-0", {"app": "db"}, (DB,), node="n1", host_network=True),
        Pod("shop", "db-0", {"app": "db"}, (DB,), node="n2"),
        Pod("shop", "db-0", {"app": "db"}, (), node="n1"),
        Deleted("Pod", "shop", "db-0"),
    ],
    ids=["completed", "host network", "elsewhere", "no address", "deleted"],
)
def test_a_pod_that_is_no_endpoint_of_this_node_leaves_nothing(changed: Update) -> None:
    engine = engine_of([*SHOP, DB_IN])
    engine.apply(changed)
    engine.flush()
    assert DB not in engine.ruleset.endpoints
    assert not engine.ruleset.chains
    assert not engine.ruleset.sets


def test_of_two_pods_with_one_address_the_one_that_stays_has_it() -> None:
    old = Pod("shop", "a-old", {"app": "front"}, (DB,), node="n1", terminating=True)
    engine = engine_of([*SHOP, DB_IN, old])
    assert engine.ruleset.endpoints[DB].pod == "shop/db-0"
    engine.apply(Deleted("Pod", "shop", "db-0"))
    engine.flush()
    assert engine.ruleset.endpoints[DB].pod == "shop/a-old"
    assert engine.ruleset.endpoints[DB].ingress is Outcome.ALLOW


def test_many_updates_of_one_object_are_one_change() -> None:
    engine = engine_of([*SHOP, DB_IN])
    for n in range(1000):
        engine.apply(network_policy("shop/db-in", podSelector=labels(app="db"), ingress=[{"ports": [{"port": 1 + n}]}]))
    delta = engine.flush()
    assert len(delta.chains_added) == len(delta.chains_removed) == 2
    engine.apply(pod("ops/probe", "10.42.2.4", place="n2", app="api"))
    engine.apply(DB_IN)
    engine.flush()
    for _ in range(1000):
        engine.apply(pod("ops/probe", "10.42.2.4", place="n2"))
        engine.apply(pod("ops/probe", "10.42.2.4", place="n2", app="api"))
    assert not engine.flush()


def test_chains_of_one_family_know_nothing_of_the_other() -> None:
    ruleset = engine_of([*SHOP, DB_IN]).ruleset
    for chain in ruleset.chains.values():
        assert {ref.family for ref in chain.sets} <= {chain.family, None}
    only_v4 = engine_of([*SHOP[:4], pod("shop/db-0", "10.42.1.9", app="db"), DB_IN]).ruleset
    assert {chain.family for chain in only_v4.chains.values()} == {Family.IPV4}


def test_a_policy_selector_that_grows_keeps_its_chain() -> None:
    engine = engine_of([*SHOP, DB_IN])
    before = set(engine.ruleset.chains)
    engine.apply(network_policy("shop/other", podSelector=labels(app="nobody")))
    assert not engine.flush()
    engine.apply(pod("shop/db-1", "10.42.1.10", app="db"))
    delta = engine.flush()
    assert set(engine.ruleset.chains) == before
    assert not delta.chains_added


def test_policies_edited_over_and_over_leave_nothing_behind() -> None:
    assert isinstance(DB_IN, Policy)
    engine = engine_of([*SHOP, DB_IN])
    before = footprint(engine)
    for n in range(20):
        # The same rules for other reasons, other rules, and a label of its own to look for.
        subject = {"matchExpressions": [{"key": "app", "operator": "In", "values": ["db", f"app-{n}"]}]}
        peer = {"podSelector": {"matchExpressions": [{"key": f"key-{n}", "operator": "Exists"}]}}
        for version in (
            replace(DB_IN, subject=DB_IN.subject._replace(pods=decode_selector(subject, "", []))),
            network_policy("shop/db-in", podSelector=labels(app="db"), ingress=[{"from": [peer]}]),
            DB_IN,
        ):
            engine.apply(version)
            engine.flush()
    assert footprint(engine) == before


def test_a_policy_that_selects_no_pod_of_this_node_any_more_keeps_no_rules() -> None:
    engine = engine_of([*SHOP, DB_IN])
    assert footprint(engine)["_Compiled._rules"]
    engine.apply(Deleted("Pod", "shop", "db-0"))
    engine.flush()
    assert not footprint(engine)["_Compiled._rules"]
    engine.apply(pod("shop/db-0", "10.42.1.9", "fd42:0:0:1::9", app="db"))
    engine.flush()
    assert not allows(engine, PROBE, DB, 5432)


def test_what_an_address_belongs_to() -> None:
    engine = engine_of([*SHOP, DB_IN])
    assert str(engine.who(DB)) == "shop/db-0 (10.42.1.9, n1)"
    assert str(engine.who(API)) == "shop/api (10.42.2.3, n2)"
    assert str(engine.who(NODE)) == "n1 (172.16.0.1)"
    assert str(engine.who(pack_address("192.0.2.1"))) == "192.0.2.1"
