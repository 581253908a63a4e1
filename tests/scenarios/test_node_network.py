"""A cluster of two nodes: MTU, outgoing NAT and kernel settings as agents keep them, and the end of it all."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import pytest

from agent.lab.lab import Lab
from agent.lab.namespaces import CommandError
from agent.lab.traffic import traffic
from agent.lab.wait import eventually
from tests.lab import BuildLab
from tests.scenarios import nodes

pytestmark = pytest.mark.interop

TOPOLOGY = {
    "nodes": {
        "n1": {"podCIDRs": ["10.42.0.0/24", "fd42:0:0:0::/64"], "pods": ["a1"]},
        "n2": {"podCIDRs": ["10.42.1.0/24", "fd42:0:0:1::/64"], "pods": ["b1"]},
    },
    "links": [["n1", "n2"]],
}
NETWORK = {
    "apiVersion": "tortie.dev/v1alpha1",
    "kind": "NetworkConfiguration",
    "metadata": {"name": "default"},
    "spec": {"podCIDRs": ["10.42.0.0/16", "fd42::/48"], "serviceCIDRs": ["10.43.0.0/16", "fd43::/112"]},
}


@pytest.fixture
async def pair(lab: BuildLab) -> Lab:
    """Two nodes, each with a pod; everything works."""
    net = await lab(TOPOLOGY, {"network.yaml": [NETWORK]})
    await eventually(partial(reaches, net), within_s=60)
    return net


async def reaches(net: Lab) -> bool:
    for family in net.topology.enabled_families:
        try:
            await net.run("a1", "ping", "-c", "1", "-W", "2", str(net.address("b1", family)))
        except CommandError:
            return False
    return True


async def mtus(net: Lab, *machines: str) -> list[int]:
    found = [json.loads(await net.run(machine, "ip", "-j", "link", "show", "eth0")) for machine in machines]
    return [rows[0]["mtu"] for rows in found]


async def table(net: Lab) -> list[dict[str, Any]]:
    """Return what n1's table holds, without counts and what packets put into sets for a while."""
    listed = json.loads(await nft(net, "-j", "-s", "list", "table", "inet", "tortie"))
    content: list[dict[str, Any]] = listed["nftables"]
    for entry in content:
        if "timeout" in entry.get("set", {}):
            entry["set"].pop("elem", None)
    return content


async def nft(net: Lab, *words: str) -> str:
    return await net.run("n1", "nft", *words)


async def set_underlay(net: Lab, mtu: int) -> None:
    for node in ("n1", "n2"):
        await net.run(node, "ip", "link", "set", "eth0", "mtu", str(mtu))


async def test_pods_follow_the_underlay_and_no_packet_is_lost(pair: Lab) -> None:
    await set_underlay(pair, 9000)
    await eventually(partial(mtus, pair, "a1", "b1"), lambda found: found == [9000, 9000], within_s=30)
    async with traffic(pair, "a1", "b1", flows=1) as streams:
        await set_underlay(pair, 1500)
        await eventually(partial(mtus, pair, "a1", "b1"), lambda found: found == [1500, 1500], within_s=30)
        report = await nodes.status(pair, "n1")
    assert (report.network.mtu, report.network.uplinks) == (1500, {"eth0": 1500})
    assert [str(stream) for stream in streams.values() if stream.lost] == []


async def test_a_restart_leaves_the_table_as_it_is(pair: Lab) -> None:
    before = await table(pair)
    assert {"masquerade": {"flags": "fully-random"}} in [
        word for entry in before for word in entry.get("rule", {}).get("expr", ())
    ]
    assert "service_guard" in [entry["chain"]["name"] for entry in before if "chain" in entry]
    events = await asyncio.create_subprocess_exec(
        *pair.command("n1", ["nft", "monitor"]), stdout=asyncio.subprocess.PIPE
    )
    try:
        await pair.restart("n1")
        await eventually(partial(nodes.status, pair, "n1"), lambda report: report.ready, within_s=60)
        await nft(pair, "add", "table", "inet", "the_end")
        assert events.stdout is not None
        told = []
        async with asyncio.timeout(30):
            while "the_end" not in (line := (await events.stdout.readline()).decode()):
                told.append(line)
    finally:
        events.kill()
        await events.wait()
    assert [line for line in told if " inet tortie " in line] == []
    assert await table(pair) == before


@pytest.mark.parametrize("name", ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"])
async def test_forwarding_that_somebody_switches_off_comes_back_and_is_counted(pair: Lab, name: str) -> None:
    before = (await nodes.status(pair, "n1")).network.sysctls_repaired

    async def value() -> str:
        return (await pair.run("n1", "sysctl", "-n", name)).strip()

    async def switched_off() -> int:
        """Return how many repairs are counted. Those of an agent that has just started, and not looked, are none."""
        await pair.run("n1", "sysctl", "-w", f"{name}=0")
        await eventually(value, "1".__eq__, what=f"{name} back")
        return (await nodes.status(pair, "n1")).network.sysctls_repaired

    await eventually(switched_off, lambda repaired: repaired > before, within_s=60)
    assert await reaches(pair)


async def test_cleanup_refuses_a_running_agent_and_then_leaves_nothing_of_ours(pair: Lab) -> None:
    words = ["cleanup", "--run-dir", str(pair.run_directory("n1")), "--cni-conf-dir", "/nonexistent", "-o", "json"]
    words += ["--cni-state-dir", "/nonexistent", "--cni-bin-dir", "/nonexistent"]
    with pytest.raises(CommandError, match="another tortie agent runs on this node already"):
        await pair.run("n1", nodes.TORTIE, *words)
    await pair.kill("n1")
    done = json.loads(await pair.run("n1", nodes.TORTIE, *words))
    assert done["left"] == []
    assert {each["kind"] for each in done["removed"]} >= {"route", "nexthop", "table"}
    for version in ("-4", "-6"):
        assert not await pair.run("n1", "ip", version, "route", "show", "table", "all", "proto", "97")
    assert not await pair.run("n1", "ip", "nexthop", "show", "proto", "97")
    assert "tortie" not in await nft(pair, "list", "tables")
    assert json.loads(await pair.run("n1", nodes.TORTIE, *words)) == {"removed": [], "left": []}
    await pair.start("n1")
    await eventually(partial(reaches, pair), within_s=60)
