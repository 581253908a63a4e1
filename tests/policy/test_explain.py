from __future__ import annotations

import msgspec
import pytest

from policy.cidr import pack_address
from policy.compiler import Update
from policy.evaluator import Packet, evaluate
from policy.explain import Explanation, combine, explain, render_explanation
from policy.resident import Resident
from tests.policy.scenarios import (
    DB_IN,
    NODE,
    SHOP,
    cluster_policy,
    engine_of,
    labels,
    network_policy,
    pod,
)

DB, FRONT, API, PROBE, STRANGER = map(
    pack_address, ("10.42.1.9", "10.42.1.7", "10.42.2.3", "10.42.2.4", "203.0.113.100")
)


def story(source: bytes, destination: bytes, port: int | None, *policies: Update, protocol: int = 6) -> Explanation:
    engine = engine_of([*SHOP, *policies])
    return explain(evaluate(engine.ruleset, Packet(source, destination, protocol, port)), engine.who)


def text(*arguments: object, **keywords: int) -> list[str]:
    return render_explanation(story(*arguments, **keywords)).splitlines()


def test_a_denial_names_the_policy_and_what_each_rule_missed() -> None:
    missed = (
        "from ns team=ops: namespace shop has team=web; "
        "from 203.0.113.0/24 except 203.0.113.64/26: 10.42.1.7 is outside; "
        "from 2001:db8::/32: 10.42.1.7 is of the other family"
    )
    assert text(FRONT, DB, 5432, DB_IN) == [
        "DENIED   shop/front (10.42.1.7, n1) → shop/db-0 (10.42.1.9, n1) 5432/TCP",
        "  egress   allowed  no policy selects the pod",
        "  ingress  DENIED   NetworkPolicy shop/db-in selects the pod; none of its rules matches:",
        "                   rule 1  from app=api: front has app=front   port 5432/TCP ok",
        f"                   rule 2  {missed}   port pg/TCP ok",
    ]


def test_an_allowed_packet_names_the_rule() -> None:
    assert text(API, DB, 5432, DB_IN) == [
        "ALLOWED  shop/api (10.42.2.3, n2) → shop/db-0 (10.42.1.9, n1) 5432/TCP",
        "  ingress  allowed  NetworkPolicy shop/db-in rule 1: from app=api   port 5432/TCP",
    ]


def test_every_tier_on_the_way_is_told() -> None:
    pass_on = {"name": "hand on", "action": "Pass", "from": [{"namespaces": {}}]}
    told = text(
        PROBE,
        DB,
        80,
        cluster_policy("first", "Admin", 1, ingress=[pass_on]),
        cluster_policy(
            "last", "Baseline", 1, ingress=[{"action": "Deny", "from": [{"namespaces": labels(team="ops")}]}]
        ),
    )
    assert told[1:] == [
        "  ingress  passed   ClusterNetworkPolicy first rule 1 (hand on): from ns *   every port",
        "  ingress  DENIED   ClusterNetworkPolicy last rule 1: from ns team=ops   every port",
    ]


def test_misses_of_every_kind() -> None:
    policy = network_policy(
        "shop/in",
        podSelector=labels(app="db"),
        ingress=[
            {
                "from": [
                    {"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.64/26"]}},
                    {"podSelector": {}},
                ]
            },
            {"from": [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}}]},
            {
                "ports": [
                    {"port": "pg"},
                    {"port": "dns", "protocol": "UDP"},
                    {"port": "http"},
                    {"port": 1, "endPort": 9},
                ]
            },
        ],
    )
    (tier,) = story(STRANGER, DB, 80, policy).tiers
    first, second, third = tier.rules
    assert [part.found for part in first.peers] == [
        "203.0.113.100 is in the exception 203.0.113.64/26",
        "203.0.113.100 is no pod",
    ]
    assert [(part.text, part.found) for part in third.ports] == [
        ("port pg/TCP", "db-0 has it at 5432/TCP"),
        ("port dns/UDP", "db-0 has it at 53/UDP"),
        ("port http/TCP", "db-0 has none"),
        ("ports 1-9/TCP", ""),
    ]
    assert [part.found for part in second.peers] == ["203.0.113.100 is no pod"]


def test_what_comes_after_the_deciding_rule_is_not_told() -> None:
    policy = network_policy("shop/in", podSelector=labels(app="db"), ingress=[{"ports": [{"port": 1}]}, {}, {}])
    _, tier = story(FRONT, DB, 80, policy).tiers
    assert [rule.matches for rule in tier.rules] == [False, True]


def test_a_label_that_should_not_be_there() -> None:
    peer = {"podSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}}
    policy = network_policy("shop/in", podSelector=labels(app="db"), ingress=[{"from": [peer]}])
    _, tier = story(FRONT, DB, 80, policy).tiers
    assert tier.rules[0].peers[0].found == "front has label app"


def test_nodes_as_peers() -> None:
    deny = {"action": "Deny", "to": [{"nodes": labels(rack="b")}]}
    (tier,) = story(FRONT, pack_address("172.16.0.1"), 22, cluster_policy("n", "Admin", 1, egress=[deny])).tiers
    assert tier.direction == "node"
    assert [part.found for part in tier.rules[0].peers] == ["node n1 has rack=a"]
    (tier,) = story(FRONT, PROBE, 22, cluster_policy("n", "Admin", 1, egress=[deny])).tiers
    assert [part.found for part in tier.rules[0].peers] == ["probe is no node"]


def test_what_is_no_policys_doing_has_its_reason() -> None:
    nobody = pack_address("10.42.1.200")
    assert story(FRONT, nobody, 80).reasons == ("the destination is of this node's pod addresses, but no pod's here",)
    assert story(pack_address("172.16.0.1"), DB, 80).reasons == ("a node always reaches its own pods",)
    assert story(nobody, DB, 80).verdict == "deny"
    assert story(PROBE, API, 80).reasons == ("no pod of this node has a part in it",)


def test_the_sets_that_matched_are_named_with_the_member() -> None:
    (tier,) = story(API, DB, 5432, DB_IN).tiers
    (name,) = tier.sets
    assert name.endswith("(ns shop, app=api) holds 10.42.2.3")
    assert tier.chain.startswith("ingress4_policy_")
    assert tier.decided_by == "NetworkPolicy shop/db-in rule 1"


def test_both_ends_nodes_tell_one_story() -> None:
    packet = Packet(FRONT, API, 6, 80)
    objects = [*SHOP, network_policy("shop/closed", podSelector=labels(app="api"))]
    here, there = engine_of(objects), engine_of(objects, "n2")
    parts = {
        name: [explain(evaluate(each.ruleset, packet), each.who, name)] for name, each in (("n1", here), ("n2", there))
    }
    whole = combine(parts)
    assert whole.verdict == "deny"
    assert [(tier.node, tier.direction, tier.action) for tier in whole.tiers] == [
        ("n1", "egress", "Accept"),
        ("n2", "ingress", "Deny"),
    ]


def part(verdict: str, source: str = "10.42.0.7", destination: str = "10.42.1.9", *, name: str = "") -> Explanation:
    return Explanation(verdict, Resident(source, name=name), Resident(destination), "TCP", 80, (), ())


@pytest.mark.parametrize(
    ("verdicts", "missing", "whole"),
    [
        (("allow", "allow"), (), "allow"),
        (("allow", "deny"), (), "deny"),
        (("allow",), ("n2",), "unknown"),
        (("deny",), ("n2",), "deny"),
    ],
)
def test_one_no_is_enough_and_a_yes_takes_everybody(
    verdicts: tuple[str, ...], missing: tuple[str, ...], whole: str
) -> None:
    assert combine({f"n{i}": [part(each)] for i, each in enumerate(verdicts)}, missing).verdict == whole


def test_what_no_policy_decided_is_said_with_the_node_that_says_so() -> None:
    told = {"n1": msgspec.structs.replace(part("allow"), reasons=("no pod of this node has a part in it",))}
    assert combine({"n1": [told["n1"]]}).reasons == ("no pod of this node has a part in it",)
    told["n2"] = msgspec.structs.replace(part("deny"), reasons=("no pod's here",))
    whole = combine({node: [each] for node, each in told.items()})
    assert whole.reasons == ("n2: no pod's here",), "n1 is a bystander"


def test_the_story_has_the_names_of_whoever_knows_them() -> None:
    assert combine({"n1": [part("allow")], "n2": [part("allow", name="x/a")]}).source.name == "x/a"


def test_a_family_that_gets_another_verdict_is_told_of_whichever_end_says_so() -> None:
    six = {"source": "fd42::7", "destination": "fd42:0:0:1::9"}
    told = combine({"n1": [part("allow"), part("allow", **six)], "n2": [part("allow"), part("deny", **six)]})
    assert (told.verdict, told.reasons) == ("allow", ("IPv6 (fd42::7 → fd42:0:0:1::9) is DENIED",))
    told = combine({"n1": [part("deny"), part("allow", **six)], "n2": [part("allow"), part("deny", **six)]})
    assert (told.verdict, told.reasons) == ("deny", ())


def test_it_goes_to_json_as_it_is() -> None:
    told = msgspec.json.decode(msgspec.json.encode(story(FRONT, DB, 5432, DB_IN)))
    assert told["verdict"] == "deny"
    assert told["source"]["name"] == "shop/front"
    assert told["tiers"][1]["decidedBy"] == ""
    assert told["tiers"][1]["rules"][0]["peers"][0]["found"] == "front has app=front"
    assert told["source"]["node"] == NODE


def test_a_pod_of_an_unknown_namespace_is_said_to_be() -> None:
    engine = engine_of([*SHOP, DB_IN, pod("new/a", "10.42.2.50", place="n2")])
    told = explain(evaluate(engine.ruleset, Packet(pack_address("10.42.2.50"), DB, 6, 5432)), engine.who)
    assert told.tiers[0].rules[0].peers[0].found == "namespace new is not known"
