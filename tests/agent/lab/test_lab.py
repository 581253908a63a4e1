from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.lab.lab import Lab, tear_down
from agent.lab.namespaces import existing
from agent.lab.state import LabError, State, default_root
from agent.lab.status import look
from agent.lab.topology import load, parse
from agent.lab.traffic import traffic
from agent.lab.wait import eventually
from inet.prefix import Family
from tests.agent.lab.two_routers import loses_carrier, prefixes_at, settled, two_routers, ways
from tests.lab import BuildLab

pytestmark = pytest.mark.interop

BOTH = list(Family)

# The three daemons, in one set of words


async def test_three_daemons_exchange_prefixes(lab: BuildLab) -> None:
    net = await lab(
        {
            "routers": {
                "b": {"daemon": "bird", "asn": 65001, "announce": ["10.1.0.0/24", "fd01::/64"]},
                "f": {"daemon": "frr", "asn": 65002, "announce": ["10.2.0.0/24", "fd02::/64"]},
                "g": {"daemon": "gobgp", "asn": 65003, "announce": ["10.3.0.0/24", "fd03::/64"]},
            },
            "links": [["b", "f"], ["f", "g"], ["g", "b"]],
        }
    )
    own = {"b": (65001, "1"), "f": (65002, "2"), "g": (65003, "3")}
    for router in own:
        expected = {
            prefix: () if other == router else (asn,)
            for other, (asn, digit) in own.items()
            for prefix in (f"10.{digit}.0.0/24", f"fd0{digit}::/64")
        }
        await eventually(partial(prefixes_at, net, router), expected.__eq__, what=f"the prefixes at {router}")
        sessions = await net.sessions(router)
        assert len(sessions) == 4
        assert all(session.is_established for session in sessions.values())


@pytest.mark.parametrize("transport", ["ipv4", "ipv6"])
@pytest.mark.parametrize("daemon", ["frr", "bird"])
async def test_one_session_carries_both_families(lab: BuildLab, daemon: str, transport: str) -> None:
    topology = two_routers(daemon, transport=transport)
    net = await lab(topology)
    await settled(net)
    assert {len(await net.sessions(router)) for router in ("r1", "r2")} == {2}
    for family in ("-4", "-6"):
        await net.run("a1", "ping", family, "-c1", "-W2", "b1")


@pytest.mark.parametrize("daemon", ["bird", "frr", "gobgp"])
async def test_what_is_said_about_a_prefix_arrives(lab: BuildLab, daemon: str) -> None:
    said = {"med": 5, "communities": ["65000:100", "65000:200"], "asPath": [65009, 65010]}
    prefixes = {Family.IPV4: "192.0.2.0/24", Family.IPV6: "2001:db8::/48"}
    net = await lab(
        {
            "routers": {
                "r": {"daemon": daemon, "asn": 65001, "announce": [{"prefix": it, **said} for it in prefixes.values()]},
                "other": {"daemon": "frr" if daemon == "bird" else "bird", "asn": 65002},
            },
            "links": [["r", "other"]],
        }
    )
    for family, prefix in prefixes.items():
        (route,) = await eventually(partial(net.routes, "other", prefix))
        assert route.as_path == (65001, 65009, 65010)
        assert route.med == 5
        assert set(route.communities) == {"65000:100", "65000:200"}
        assert route.next_hop == route.peer == net.address("r", family)


@pytest.mark.parametrize("daemon", ["frr", "gobgp"])
async def test_another_next_hop_than_its_own_can_be_said(lab: BuildLab, daemon: str) -> None:
    hops = {"192.0.2.0/24": "172.31.0.1", "2001:db8::/48": "fd31::2"}
    said = [{"prefix": prefix, "nextHop": hop} for prefix, hop in hops.items()]
    net = await lab(
        {
            "routers": {
                "r": {"daemon": daemon, "asn": 65001, "announce": said},
                "other": {"daemon": "gobgp", "asn": 65002},
            },
            "links": [["r", "other"]],
        }
    )
    for prefix, hop in hops.items():
        (route,) = await eventually(partial(net.routes, "other", prefix))
        assert str(route.next_hop) == hop


async def since(net: Lab, router: str) -> list[float]:
    """Return when each session of a router that runs BIRD came up, in seconds of the day."""
    shown = await net.daemon(router).ask("show", "protocols")
    times = re.findall(r"(\d+):(\d+):(\d+\.\d+) +Established", shown)
    return [3600 * int(hours) + 60 * int(minutes) + float(seconds) for hours, minutes, seconds in times]


@pytest.mark.parametrize("daemon", ["bird", "frr", "gobgp"])
async def test_prefixes_come_and_go_without_a_session_lost(lab: BuildLab, daemon: str) -> None:
    first, second = {"10.1.0.0/24", "fd01::/64"}, {"10.2.0.0/24", "fd02::/64"}
    net = await lab(
        {
            "routers": {
                "r": {"daemon": daemon, "asn": 65001, "announce": sorted(first)},
                "other": {"daemon": "bird", "asn": 65002},
            },
            "links": [["r", "other"]],
        }
    )

    async def heard(prefixes: set[str]) -> None:
        await eventually(partial(prefixes_at, net, "other"), lambda found: found.keys() == prefixes)

    await heard(first)
    before = await since(net, "other")
    assert len(before) == len(Family)
    for prefix in sorted(second):
        await net.announce("r", prefix)
    await heard(first | second)
    for prefix in sorted(first):
        await net.withdraw("r", prefix)
    await heard(second)
    assert await since(net, "other") == pytest.approx(before, abs=0.1)  # BIRD works it out anew each time
    await net.kill("r")
    await net.start("r")
    assert await eventually(partial(prefixes_at, net, "r"), lambda found: found.keys() >= second)
    await heard(second)


@pytest.mark.parametrize("daemon", ["bird", "frr", "gobgp"])
async def test_a_session_shut_by_administration_stays_down_until_enabled(lab: BuildLab, daemon: str) -> None:
    net = await lab(
        {
            "routers": {"r": {"daemon": daemon, "asn": 65001}, "other": {"daemon": "bird", "asn": 65002}},
            "links": [["r", "other"]],
        }
    )
    await eventually(partial(look, net), lambda status: status.is_healthy)
    await net.disable("r", "other")
    them = await eventually(
        partial(net.sessions, "other"), lambda them: not any(session.is_established for session in them.values())
    )
    assert all("Administrative shutdown" in session.last_error for session in them.values())
    assert {session.state for session in (await net.sessions("r")).values()} <= {"Idle", "Active"}
    await net.enable("r", "other")
    await eventually(partial(look, net), lambda status: status.is_healthy, within_s=40)


@pytest.mark.parametrize("daemon", ["bird", "frr", "gobgp"])
async def test_passwords_have_to_be_the_same(lab: BuildLab, daemon: str) -> None:
    topology: dict[str, Any] = {
        "routers": {
            "r": {"daemon": daemon, "asn": 65001, "password": "s3cret"},
            "good": {"daemon": "bird", "asn": 65002, "password": "s3cret"},
            "bad": {"daemon": "bird", "asn": 65003, "password": "other"},
        },
        "links": [["r", "good"], ["r", "bad"]],
    }
    net = await lab(topology)
    await eventually(
        partial(net.sessions, "good"), lambda them: all(session.is_established for session in them.values())
    )
    assert not any(session.is_established for session in (await net.sessions("bad")).values())


# Packets


async def test_pods_reach_each_other_by_name(lab: BuildLab, family: Family) -> None:
    net = await lab(two_routers())
    await settled(net)
    option = "-4" if family is Family.IPV4 else "-6"
    for source, destination in (("a1", "b1"), ("b1", "a2"), ("a1", "a2")):
        await net.run(source, "ping", option, "-c1", "-W2", destination)


async def test_routers_of_different_make_share_the_load(lab: BuildLab) -> None:
    net = await lab(two_routers("frr"))
    await settled(net)
    async with traffic(net, "a1", "b1", flows=16) as streams:
        await net.run("a1", "ping", "-c5", "-i0.05", "-W2", "b1")
    assert not any(stream.lost for stream in streams.values()), [*map(str, streams.values())]


async def test_nodes_of_a_router_reach_each_other_through_it(lab: BuildLab, family: Family) -> None:
    net = await lab(two_routers())
    await net.run("n1", "ping", "-c1", "-W2", str(net.address("n2", family)))


async def test_a_switch_joins_its_ends(lab: BuildLab, family: Family) -> None:
    net = await lab(
        {
            "routers": {"r": {"daemon": "bird", "asn": 65100}},
            "nodes": {"n1": {"daemon": "none"}, "n2": {"daemon": "none"}},
            "links": [["n1", "n2", "r"]],
        }
    )
    await net.run("n1", "ping", "-c1", "-W2", str(net.address("n2", family)))
    await net.run("n1", "ping", "-c1", "-W2", str(net.address("r", family)))
    await net.fail_link("n1", "lan1")
    with pytest.raises(LabError, match="no cable joins n1 and r; n1 has cables to lan1"):
        await net.fail_link("n1", "r")
    await loses_carrier(net, "n1")


# Nodes that run a command


async def test_a_command_in_place_of_the_agent_sees_objects_change(lab: BuildLab) -> None:
    copy = "while sleep 0.02; do cp {config}/nodes.yaml {config}/manifests/x.yaml {run_dir}/; echo {node}; done"
    net = await lab(
        {"nodes": {"n1": {"command": ["sh", "-c", copy]}, "n2": {"daemon": "none"}}, "links": [["n1", "n2"]]},
        {"x.yaml": [{"kind": "One"}]},
    )
    seen = net.run_directory("n1")
    await eventually((seen / "x.yaml").read_text, "kind: One\n".__eq__)
    (net.manifests / "new").write_text("kind: Two\n")
    (net.manifests / "new").replace(net.manifests / "x.yaml")
    await eventually((seen / "x.yaml").read_text, "kind: Two\n".__eq__)
    await eventually((seen / "nodes.yaml").read_text, lambda text: "address: 172.31.0.0" in text)
    assert set(net.state.log("n1", "agent").read_text().split()) == {"n1"}


async def test_the_example_works(lab: BuildLab) -> None:
    example = load(Path(__file__).parents[3] / "examples" / "two-racks.yaml")
    net = await lab(example.model_dump(mode="json", by_alias=True))
    await eventually(partial(look, net), lambda status: status.is_healthy, within_s=30, what="a healthy lab")
    assert {len(await net.sessions(node)) for node in net.plan.nodes} == {4}
    for node in ("n1", "n3"):
        for prefix in ("10.42.1.0/24", "fd42:0:0:1::/64"):
            await eventually(partial(ways, net, node, prefix), {"eth0", "eth1"}.__eq__)
    for family in ("-4", "-6"):
        await eventually(partial(net.run, "a1", "ping", family, "-c1", "-W1", "b1"))
    tortie = str(Path(sys.executable).with_name("tortie"))
    assert '"node": "n2"' in await net.run("n2", tortie, "peers", "-o", "json")


# Up and down


def processes_naming(text: str) -> set[int]:
    """Return processes with a text in their command line."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in path.read_bytes():
                found.add(int(path.parent.name))
        except OSError:
            continue
    return found


def namespaces_of(name: str) -> set[str]:
    """Return the namespaces of a lab."""
    return {namespace for namespace in existing() if namespace.startswith(f"tl-{name}-")}


async def test_down_leaves_nothing(lab: BuildLab) -> None:
    net = await lab(two_routers("frr"))
    # What a killed agent's children and a forgotten shell are: in a namespace of the lab, known to nobody.
    orphan = await asyncio.create_subprocess_exec(*net.command("n1", ["sleep", "1000"]))
    await net.fail_link("n1", "r1")
    assert processes_naming(net.name)
    assert namespaces_of(net.name)
    await net.down()
    assert await orphan.wait() == -signal.SIGKILL
    assert not namespaces_of(net.name)
    assert not processes_naming(net.name)
    assert not net.state.path.exists()


async def test_a_lab_that_is_up_is_not_built_again(lab: BuildLab) -> None:
    net = await lab(two_routers())
    with pytest.raises(LabError, match=f"lab {net.name} is up already: `tortie lab down {net.name}` first"):
        await Lab.up(net.topology)
    assert net.is_running("r1")


async def test_a_lab_is_found_again_by_its_name(lab: BuildLab) -> None:
    net = await lab(two_routers())
    await net.announce("r1", "192.0.2.0/24")
    again = Lab.find(net.name)
    assert again.plan == net.plan
    assert "192.0.2.0/24" in await prefixes_at(again, "r1")


async def test_two_labs_of_one_topology_live_side_by_side(lab: BuildLab) -> None:
    one, two = await asyncio.gather(lab(two_routers()), lab(two_routers()))
    await asyncio.gather(settled(one), settled(two))
    await one.down()
    assert (await look(two)).is_healthy
    await two.run("a1", "ping", "-c1", "-W2", "b1")


@pytest.fixture
def foreign_namespace() -> Iterator[str]:
    name = f"tl-f{os.getpid()}-n2"
    os.system(f"ip netns add {name}")  # noqa: S605 - a name of our own
    yield name
    os.system(f"ip netns del {name}")  # noqa: S605 - a name of our own


async def test_a_namespace_of_somebody_else_is_left_alone(foreign_namespace: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    name = foreign_namespace.split("-")[1]
    with pytest.raises(LabError, match=f"network namespace {foreign_namespace} exists and is not this lab's"):
        await Lab.up(parse(two_routers() | {"name": name}))
    assert foreign_namespace in existing()
    assert not (default_root() / name).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # BIRD listens before it reads, and has more to read than a moment's worth.
        (lambda topology: topology["routers"]["r1"].update(config="#\n" * 300_000 + "nonsense"), "r1: bird ended; "),
        (lambda topology: topology["nodes"].update(n3={"command": []}), "n3: agent (ended|does not answer)"),
    ],
    ids=["daemon", "agent"],
)
async def test_a_half_built_lab_says_why_and_goes_away(
    change: Callable[[dict[str, Any]], None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    monkeypatch.setattr("sys.executable", "/nonexistent/python")
    topology = two_routers() | {"name": f"h{os.getpid()}"}
    change(topology)
    if "n3" in topology["nodes"]:
        topology["links"].append(["n3", "r1"])
    with pytest.raises(LabError, match=message):
        await Lab.up(parse(topology))
    state = State.find(default_root(), topology["name"])
    assert namespaces_of(state.name)
    await tear_down(state)
    assert not namespaces_of(state.name)
    assert not processes_naming(topology["name"])
