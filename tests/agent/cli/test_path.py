from __future__ import annotations

import msgspec
import pytest

from agent.path import assemble
from agent.pathreport import NodeFacts
from tests.agent.cli.asking import World, said, world_of
from tests.agent.test_path import NO, on_n1, on_n2, story

world = pytest.fixture(world_of)


def test_the_picture(world: World) -> None:
    run, fleet = world(on_n1(), {"n2": said(on_n2(policy=story(NO, verdict="deny")))})
    status, text = run("path", "shop/front", "shop/db-0", "5432/TCP")
    assert status == 1
    assert text.splitlines() == [
        "shop/front eth0 ── vetha n1   policy: egress allowed by shop/out #1",
        "  │  10.42.1.0/24 from BGPPeer/tor-1 (eBGP 65100 65002), multipath 1 of 2, direct, MTU 1500",
        "n1 eth0 ── 172.16.1.1 (BGPPeer/tor-1) ── n2",
        "  │  10.42.1.9 dev vethb   policy: ingress DENIED by NetworkPolicy shop/in: no rule matches      ✗ ends here",
        "shop/db-0",
    ]
    assert fleet.asked == [("n2", ("path", "--only-here", "--", "10.42.0.7", "10.42.1.9", "5432/TCP"))]
    assert fleet.is_closed


def test_a_way_that_works_ends_with_status_0_and_json_is_the_journey(
    world: World,
) -> None:
    run, _ = world(on_n1(), {"n2": said(on_n2())})
    status, text = run("path", "shop/front", "shop/db-0", "5432/TCP", "-o", "json")
    assert status == 0
    assert msgspec.json.decode(text) == msgspec.json.decode(msgspec.json.encode(assemble([on_n1(), on_n2()], {})))


def test_what_tells_ways_apart_is_passed_on(world: World) -> None:
    run, fleet = world(on_n1(), {"n2": said(on_n2())})
    run("path", "shop/front", "shop/db-0", "5432/TCP", "--source-port", "40000", "--family", "ipv4")
    assert fleet.asked[0][1][:6] == ("path", "--only-here", "--family", "ipv4", "--source-port", "40000")


def test_only_here_is_what_the_agent_said(world: World) -> None:
    run, fleet = world(on_n1(), {})
    status, text = run("path", "shop/front", "shop/db-0", "5432/TCP", "--only-here")
    assert (status, msgspec.json.decode(text, type=NodeFacts)) == (0, on_n1())
    assert fleet.asked == []


def test_answers_that_are_lost_are_drawn_and_end_with_status_1(world: World) -> None:
    lost = msgspec.structs.replace(on_n2().back, error="there is no route")
    run, _ = world(on_n1(), {"n2": said(on_n2(back=lost))})
    status, text = run("path", "shop/front", "shop/db-0", "5432/TCP")
    assert status == 1
    assert "✗ answers do not come back  n2: 10.42.0.7: there is no route" in text
