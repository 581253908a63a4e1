from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from policy.cidr import holds_address
from policy.compiler import Update
from policy.evaluator import Packet, evaluate
from policy.explain import explain
from policy.ir import Outcome, Ruleset
from policy.nft import render
from policy.nftwalk import Table, Traffic
from tests.policy.clusters import HERE, clusters, engine_of, packets
from tests.policy.oracle import Oracle


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
        if packet.source not in engine.ruleset.facts.addresses:
            walk = table.walk(crossing(engine.ruleset, packet))
            assert (walk.verdict == "accept") is oracle.allows(packet)


@given(clusters(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_story_agrees_with_the_verdict(objects: dict[tuple[str, str], Update], chance: random.Random) -> None:
    engine = engine_of(objects.values())
    for packet in packets(objects.values(), chance, 50):
        verdict = evaluate(engine.ruleset, packet)
        story = explain([verdict], engine.who)
        assert (story.verdict == "allow") is (verdict.outcome is Outcome.ALLOW)
        for tier in story.tiers:
            for rule in tier.rules:
                has_peer = not rule.peers or any(each.matches for each in rule.peers)
                has_port = not rule.ports or any(each.matches for each in rule.ports)
                assert rule.matches is (has_peer and has_port), rule
