from __future__ import annotations

import re

import pytest

from policy.cidr import pack_address
from policy.compiler import Deleted, Update
from policy.ir import Endpoint, Outcome
from policy.nft import (
    COMMENT_BYTES,
    AddressRange,
    ElementChange,
    ElementVerdict,
    comment_text,
    endpoint_elements,
    render,
    render_change,
    render_elements,
)
from policy.nftskeleton import CHAINS
from policy.nftwalk import Table
from tests.policy.scenarios import (
    CHANGES,
    DB_IN,
    GOLDEN,
    SHOP,
    STATES,
    cluster_policy,
    engine_of,
    labels,
    namespace,
    network_policy,
    node,
    pod,
    texts,
)


@pytest.mark.parametrize("file", sorted(path.name for path in GOLDEN.glob("*.nft")))
def test_the_text_is_the_one_that_was_read_and_kept(file: str) -> None:
    assert texts()[file] == (GOLDEN / file).read_text(encoding="utf-8")


def test_every_scenario_is_kept() -> None:
    assert set(texts()) == {path.name for path in GOLDEN.glob("*.nft")}
    assert len(texts()) == len(STATES) + len(CHANGES)


def test_equal_objects_give_the_same_text_in_any_order() -> None:
    objects = STATES["three-tiers"]
    assert render(engine_of(objects).ruleset) == render(engine_of(reversed(objects)).ruleset)


def rule_lines(objects: list[Update]) -> list[str]:
    text = render(engine_of(objects).ruleset)
    return [line for body in re.findall(r"chain \S+ \{(.*?)\n  \}", text, re.DOTALL) for line in body.splitlines()]


def test_no_rule_has_an_anonymous_set_or_is_for_one_pod() -> None:
    crowd = [pod(f"shop/p{n}", f"10.42.1.{n}", app="db") for n in range(1, 200)]
    few, many = rule_lines([*SHOP, DB_IN]), rule_lines([*SHOP, *crowd, DB_IN])
    assert not [line for line in many if "{" in line and not line.strip().startswith("add @")]
    assert not [line for line in many if "10.42.1." in line]
    assert few == many


def test_pods_with_the_same_policies_share_a_chain() -> None:
    objects = [*SHOP, *(pod(f"shop/db-{n}", f"10.42.1.{100 + n}", app="db") for n in range(1, 50)), DB_IN]
    ruleset = engine_of(objects).ruleset
    assert len({each.ingress for each in ruleset.endpoints.values() if each.pod.startswith("shop/db-")}) == 2  # 4 and 6
    assert len(ruleset.chains) == 2


def long_policies(length: int) -> list[str]:
    return ["n" * (length - 1) + last for last in ("a", "b")]


@pytest.mark.parametrize("length", [63, 253])
def test_names_that_differ_in_their_last_letter_do_not_meet(length: int) -> None:
    one, other = long_policies(length)
    space = "s" * 63
    objects = [
        node("n1", 1),
        namespace(space),
        pod(f"{space}/one", "10.42.1.1", app="one"),
        pod(f"{space}/other", "10.42.1.2", app="other"),
        network_policy(f"{space}/{one}", podSelector=labels(app="one"), ingress=[{"ports": [{"port": 1}]}]),
        network_policy(f"{space}/{other}", podSelector=labels(app="other"), ingress=[{"ports": [{"port": 1}]}]),
    ]
    ruleset = engine_of(objects).ruleset
    text = render(ruleset)
    assert len(ruleset.chains) == 2
    comments = re.findall(r'comment "(.*?)"', text)
    assert max(map(len, comments)) <= COMMENT_BYTES
    assert len({each for each in comments if "rule 1" in each or "~" in each}) >= 2
    assert max(len(name) for name in re.findall(r"(?:chain|set|map) (\S+)", text)) <= 48


def test_a_comment_holds_nothing_that_ends_it() -> None:
    assert comment_text('a"b; }\n drop') == "a?b? ?? drop"
    cut = {comment_text("x" * 200 + last) for last in "ab"}
    assert len(cut) == 2
    assert {len(each) for each in cut} == {COMMENT_BYTES}


def test_a_named_port_of_a_cluster_policy_cannot_break_out_of_its_comment() -> None:
    rule = {"action": "Deny", "from": [{"namespaces": {}}], "protocols": [{"destinationNamedPort": '" ; } drop #'}]}
    text = render(engine_of([*SHOP, cluster_policy("bad", "Admin", 1, ingress=[rule])]).ruleset)
    table = Table()
    table.load(text)
    assert "drop #" not in re.sub(r'comment ".*?"', "", text)


def test_an_address_change_in_a_set_is_an_element_and_nothing_else() -> None:
    engine = engine_of([*SHOP, DB_IN])
    engine.apply(pod("shop/api", "10.42.2.33", place="n2", app="api"))
    change = render_change(engine.flush())
    assert (change.structure, change.removal) == ("", "")
    (name4,) = {each.set for each in change.elements if each.set.startswith("pods4")}
    assert [each for each in change.elements if each.set == name4] == [
        ElementChange(name4, pack_address("10.42.2.3"), is_added=False),
        ElementChange(name4, pack_address("10.42.2.33"), is_added=True),
    ]


def test_what_points_to_a_new_chain_comes_after_the_chain() -> None:
    engine = engine_of(SHOP)
    engine.apply(DB_IN)
    change = render_change(engine.flush())
    added = [each for each in change.elements if each.is_added]
    pointed_to = {each.verdict.chain for each in added if each.verdict}
    assert {f"ingress{digit}_policy" in chain for digit in "46" for chain in pointed_to} == {True, False}
    assert all(chain in change.structure for chain in pointed_to - CHAINS.keys())
    table = Table()
    table.load(render(engine_of(SHOP).ruleset))
    before = {name: dict(each.elements) for name, each in table.sets.items()}
    table.load(change.structure)
    assert all(table.sets[name].elements == elements for name, elements in before.items())


def test_what_a_restricted_pod_may_do_freely_goes_by_the_chains_that_reset_unknown_connections() -> None:
    free, judged_in, judged_out, judged_at_node = (
        Endpoint(b"\n*\1\7", "shop/front", egress=egress, ingress=ingress, own_node=own_node)
        for egress, ingress, own_node in (
            (Outcome.ALLOW,) * 3,
            (Outcome.ALLOW, "in", Outcome.ALLOW),
            ("out", Outcome.ALLOW, Outcome.ALLOW),
            ("out", Outcome.ALLOW, "node"),
        )
    )
    assert said_of(free) == {"from_pod4": "goto egress_ok", "to_pod4": "accept"}
    assert said_of(judged_in) == {"from_pod4": "goto reset_egress", "to_pod4": "jump in"}
    assert said_of(judged_out) == {"from_pod4": "jump out", "to_pod4": "goto reset_ingress"}
    assert said_of(judged_at_node) == {
        "from_pod4": "jump out",
        "to_pod4": "goto reset_ingress",
        "to_node4": "jump node",
        "from_node4": "goto reset_node",
    }


def said_of(endpoint: Endpoint) -> dict[str, str]:
    return {each.set: str(each.verdict) for each in endpoint_elements(endpoint)}


def test_nothing_changed_writes_nothing() -> None:
    engine = engine_of([*SHOP, DB_IN])
    for each in [*SHOP, DB_IN]:
        engine.apply(each)
    delta = engine.flush()
    assert not delta
    assert render_change(delta) == ("", (), "")


def test_elements_as_text() -> None:
    four, six = pack_address("10.0.0.1"), pack_address("fd00::1")
    changes = [
        ElementChange("a", four, is_added=False),
        ElementChange("a", six, is_added=False),
        ElementChange("a", AddressRange(four, pack_address("10.0.0.9")), is_added=True),
        ElementChange("b", (six, 17, 53), is_added=True),
        ElementChange("c", four, is_added=True, verdict=ElementVerdict("jump", "x"), comment="shop/a"),
        ElementChange("c", six, is_added=True, verdict=ElementVerdict("accept")),
    ]
    assert render_elements(changes).splitlines() == [
        "delete element inet tortie a { 10.0.0.1, fd00::1 }",
        "add element inet tortie a { 10.0.0.1-10.0.0.9 }",
        "add element inet tortie b { fd00::1 . udp . 53 }",
        'add element inet tortie c { 10.0.0.1 comment "shop/a" : jump x, fd00::1 : accept }',
    ]


def test_a_pod_that_goes_takes_its_elements_along() -> None:
    engine = engine_of([*SHOP, DB_IN])
    engine.apply(Deleted("Pod", "shop", "db-0"))
    change = render_change(engine.flush())
    assert {each.is_added for each in change.elements} == {False}
    assert "delete chain" in change.removal
