from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from agent.cli import path as path_command
from agent.cli.client import RefusedError, UnreachableError
from agent.cli.main import app
from agent.fleet import FleetError, Outcome
from agent.fleet.fake import FakeFleet
from agent.path import assemble
from agent.pathreport import End, NodeFacts
from tests.agent.test_path import NO, A, B, on_n1, on_n2, story

Run = Callable[..., tuple[int, str]]


def said(facts: NodeFacts) -> Outcome:
    return Outcome(0, msgspec.json.encode(facts))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Run, FakeFleet]]:
    """`tortie` where the agent here says one thing, and those of the cluster another."""

    def build(
        here: NodeFacts | Exception, there: Mapping[str, Outcome | str] | None = None, **more: Any
    ) -> tuple[Run, FakeFleet]:
        fleet = FakeFleet(there or {}, **more)

        def ask(*_: object, **__: str) -> NodeFacts:
            if isinstance(here, Exception):
                raise here
            return here

        async def open_fleet(_: object) -> FakeFleet:
            if there is None:
                raise FleetError("there is no cluster to ask")
            return fleet

        monkeypatch.setattr(path_command, "ask", ask)
        monkeypatch.setattr(path_command, "open_fleet", open_fleet)

        def run(*words: str) -> tuple[int, str]:
            result = CliRunner().invoke(app, ["path", *words], env={"COLUMNS": "300"})
            return result.exit_code, result.output

        return run, fleet

    return build


def test_the_picture(world: Callable[..., tuple[Run, FakeFleet]]) -> None:
    run, fleet = world(on_n1(), {"n2": said(on_n2(policy=story(NO, verdict="deny")))})
    status, text = run("shop/front", "shop/db-0", "5432/TCP")
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
    world: Callable[..., tuple[Run, FakeFleet]],
) -> None:
    run, _ = world(on_n1(), {"n2": said(on_n2())})
    status, text = run("shop/front", "shop/db-0", "5432/TCP", "-o", "json")
    assert status == 0
    assert msgspec.json.decode(text) == msgspec.json.decode(msgspec.json.encode(assemble([on_n1(), on_n2()], {})))


def test_what_tells_ways_apart_is_passed_on(world: Callable[..., tuple[Run, FakeFleet]]) -> None:
    run, fleet = world(on_n1(), {"n2": said(on_n2())})
    run("shop/front", "shop/db-0", "5432/TCP", "--source-port", "40000", "--family", "ipv4")
    assert fleet.asked[0][1][:6] == ("path", "--only-here", "--family", "ipv4", "--source-port", "40000")


def test_a_node_that_cannot_be_asked_ends_with_status_2(world: Callable[..., tuple[Run, FakeFleet]]) -> None:
    run, _ = world(on_n1(), {"n2": "no agent pod is there"})
    status, text = run("shop/front", "shop/db-0", "5432/TCP")
    assert status == 2
    assert "n2 was not asked: no agent pod is there" in text


def test_without_a_cluster_the_part_of_this_node_is_shown(world: Callable[..., tuple[Run, FakeFleet]]) -> None:
    run, _ = world(on_n1())
    status, text = run("shop/front", "shop/db-0")
    assert status == 2
    assert "n2 was not asked: there is no cluster to ask" in text


def test_without_an_agent_here_the_one_of_the_source_is_asked(world: Callable[..., tuple[Run, FakeFleet]]) -> None:
    there = {"n1": said(on_n1()), "n2": said(on_n2())}
    run, fleet = world(UnreachableError("no agent at /run/tortie/agent.sock"), there, pods={"shop/front": "n1"})
    status, _ = run("shop/front", "shop/db-0", "5432/TCP")
    assert status == 0
    assert fleet.asked[0] == ("n1", ("path", "--only-here", "--", "shop/front", "shop/db-0", "5432/TCP"))
    assert fleet.asked[1][0] == "n2"


def test_an_end_that_the_agent_here_does_not_know_is_looked_for_elsewhere(
    world: Callable[..., tuple[Run, FakeFleet]],
) -> None:
    there = {"n1": said(on_n1()), "n2": said(on_n2())}
    run, fleet = world(RefusedError("there is no pod shop/front"), there, pods={"shop/front": "n1"})
    assert run("shop/front", "shop/db-0", "5432/TCP")[0] == 0
    assert [node for node, _ in fleet.asked] == ["n1", "n2"]


@pytest.mark.parametrize("name", ["shop/db-0", "db-0"])
def test_a_pod_that_the_node_of_the_source_does_not_know_is_asked_for_by_its_address(
    world: Callable[..., tuple[Run, FakeFleet]], name: str
) -> None:
    """An agent knows pods of other nodes only while some policy speaks of pods."""
    unknown = f"tortie: there is no pod {name}" if "/" in name else f"tortie: there is no pod or node {name}, and it is"
    there = {"n1": [Outcome(2, b"", unknown), said(on_n1(destination=End(B.address)))], "n2": said(on_n2())}
    pods, addresses = {"shop/front": "n1", name: "n2"}, {name: ("fd42::9", B.address)}
    run, fleet = world(UnreachableError("no agent here"), there, pods=pods, addresses=addresses)
    status, text = run("shop/front", name, "5432/TCP", "--family", "ipv4")
    assert status == 0, text
    assert [(node, words[-2:]) for node, words in fleet.asked] == [
        ("n1", (name, "5432/TCP")), ("n1", (B.address, "5432/TCP")), ("n2", (B.address, "5432/TCP"))
    ]  # fmt: skip
    assert text.splitlines()[-1].startswith(name)


def test_an_end_that_nobody_knows_is_an_error(world: Callable[..., tuple[Run, FakeFleet]]) -> None:
    refused = Outcome(2, b"", "tortie: there is no pod shop/nobody")
    run, _ = world(RefusedError("there is no pod shop/nobody"), {"n1": refused})
    assert run("shop/nobody", "shop/db-0") == (2, "tortie: n1: there is no pod shop/nobody\n")
    run, _ = world(RefusedError("there is no pod shop/nobody"))
    status, text = run("shop/nobody", "shop/db-0")
    assert (status, text.partition(";")[0]) == (2, "tortie: there is no pod shop/nobody")
    assert "knows the address alone, unless a policy speaks of pods" in text


def test_names_that_only_the_first_node_knows_stay(world: Callable[..., tuple[Run, FakeFleet]]) -> None:
    nameless = on_n2(source=End(A.address), destination=B)
    run, _ = world(on_n1(), {"n2": said(nameless)})
    _, text = run("shop/front", "shop/db-0", "5432/TCP", "-o", "json")
    assert [facts["source"]["name"] for facts in msgspec.json.decode(text)["nodes"]] == ["shop/front", "shop/front"]


def test_only_here_is_what_the_agent_said(world: Callable[..., tuple[Run, FakeFleet]]) -> None:
    run, fleet = world(on_n1(), {})
    status, text = run("shop/front", "shop/db-0", "5432/TCP", "--only-here")
    assert (status, msgspec.json.decode(text, type=NodeFacts)) == (0, on_n1())
    assert fleet.asked == []


def test_answers_that_are_lost_are_drawn_and_end_with_status_1(world: Callable[..., tuple[Run, FakeFleet]]) -> None:
    lost = msgspec.structs.replace(on_n2().back, error="there is no route")
    run, _ = world(on_n1(), {"n2": said(on_n2(back=lost))})
    status, text = run("shop/front", "shop/db-0", "5432/TCP")
    assert status == 1
    assert "✗ answers do not come back  n2: 10.42.0.7: there is no route" in text


def test_what_another_version_says_is_no_traceback(world: Callable[..., tuple[Run, FakeFleet]], tmp_path: Path) -> None:
    run, _ = world(on_n1(), {"n2": Outcome(0, b'{"node": 1}')})
    status, text = run("shop/front", "shop/db-0", "--socket", str(tmp_path / "agent.sock"))
    assert status == 2
    assert "n2 was not asked: it answers what is not understood here" in text
