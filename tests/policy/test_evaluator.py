from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.cidr import holds_address
from policy.compiler import Update
from policy.evaluator import Packet, evaluate
from policy.explain import explain
from policy.ir import Endpoint, Outcome, Ruleset
from policy.nft import render
from policy.nftwalk import Table, Traffic
from tests.policy.clusters import HERE, clusters, engine_of, packets
from tests.policy.oracle import Oracle

pytestmark = [
    pytest.mark.no_cover,  # many times the ways of the tests beside it: to trace each costs as much again
    pytest.mark.timeout(600),
]


def crossing(ruleset: Ruleset, packet: Packet) -> Traffic:
    """How a packet that nobody forged crosses the node: pods' addresses come from pods' interfaces."""
    local = {
        address
        for address in (packet.source, packet.destination)
        if address in ruleset.endpoints or holds_address(ruleset.facts.pod_cidrs, address)
    }
    return Traffic(
        *packet,
        is_from_pod=packet.source in local,
        is_to_pod=packet.destination in local,
        is_to_node=packet.destination in ruleset.facts.addresses,
        is_from_node=packet.source in ruleset.facts.addresses,
    )


@given(clusters(), st.randoms(use_true_random=False))
@settings(max_examples=120, deadline=None)
def test_ir_and_text_say_what_kubernetes_says(objects: dict[tuple[str, str], Update], chance: random.Random) -> None:
    oracle = Oracle(objects.values(), HERE)
    engine = engine_of(objects.values())
    table = Table()
    table.load(render(engine.ruleset))
    for packet in packets(objects.values(), chance, 150):
        verdict = evaluate(engine.ruleset, packet)
        assert (verdict.outcome is Outcome.ALLOW) is oracle.allows(packet)
        walk = table.walk(crossing(engine.ruleset, packet))
        assert (walk.verdict == "accept") is oracle.allows(packet)


@given(clusters(), st.randoms(use_true_random=False))
@settings(max_examples=120, deadline=None)
def test_a_restricted_pod_has_no_part_in_the_middle_of_an_unknown_connection(
    objects: dict[tuple[str, str], Update], chance: random.Random
) -> None:
    ruleset = engine_of(objects.values()).ruleset
    table = Table()
    table.load(render(ruleset))
    for packet in packets(objects.values(), chance, 150):
        protocol = chance.choice((6, 132))
        middle = crossing(ruleset, packet)._replace(protocol=protocol, port=80, is_first=False)
        with_node = middle.is_to_node or middle.is_from_node
        ends = [each for end in packet[:2] if (each := ruleset.endpoints.get(end)) is not None]
        is_to_itself = packet.source == packet.destination
        if not is_to_itself and any(_is_restricted(each, with_node=with_node) for each in ends):
            assert table.walk(middle).verdict != "accept"


def _is_restricted(endpoint: Endpoint, *, with_node: bool) -> bool:
    if with_node:
        return endpoint.own_node is not Outcome.ALLOW
    return any(target is not Outcome.ALLOW for target in endpoint.targets)


@given(clusters(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_story_agrees_with_the_verdict(objects: dict[tuple[str, str], Update], chance: random.Random) -> None:
    engine = engine_of(objects.values())
    for packet in packets(objects.values(), chance, 50):
        verdict = evaluate(engine.ruleset, packet)
        story = explain(verdict, engine.who)
        assert (story.verdict == "allow") is (verdict.outcome is Outcome.ALLOW)
        for tier in story.tiers:
            for rule in tier.rules:
                has_peer = not rule.peers or any(each.matches for each in rule.peers)
                has_port = not rule.ports or any(each.matches for each in rule.ports)
                assert rule.matches is (has_peer and has_port), rule
