"""Namespaces and cables: the commands that make them, and the kernel that has them."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from agent.lab import fabric
from agent.lab.namespaces import CommandError, existing, run
from agent.lab.plan import Plan, Port, plan
from agent.lab.topology import parse
from agent.lab.wait import eventually
from inet.prefix import Family

TOPOLOGY: dict[str, Any] = {
    "routers": {"r": {"daemon": "bird", "asn": 65100}},
    "nodes": {"n1": {"podCIDRs": ["10.42.0.0/24", "fd42::/64"], "pods": ["a1"]}, "n2": {}, "n3": {}},
    "links": [["n1", "r"], ["n2", "r"], ["n1", "n2", "n3"]],
}


def planned(name: str = "t") -> Plan:
    return plan(parse(TOPOLOGY | {"name": name}))


def port(of: Plan, machine: str, name: str) -> Port:
    return next(each for each in of.ports_of(machine) if each.name == name)


def commands(machine: str) -> list[str]:
    return fabric.batches(planned()).machines[machine].splitlines()


def test_every_cable_is_one_command_that_names_both_ends() -> None:
    made = planned()
    lines = fabric.batches(made).cables.splitlines()
    assert len(lines) == len(made.cables)
    first = made.cables[0]
    assert lines[0] == (
        f"link add name eth0 index {first.a.index} address {first.a.mac} netns tl-t-n1"
        f" type veth peer name eth0 index {first.b.index} address {first.b.mac} netns tl-t-r"
    )
    switched = next(line for line in lines if "netns tl-t-lan1" in line)
    assert "name port0" in switched.partition(" type veth ")[0]
    assert "address" not in switched.partition(" type veth ")[0]  # a switch's is the kernel's choice


def test_a_port_is_up_before_it_has_an_address_of_a_link_to_a_peer() -> None:
    lines = commands("r")
    assert lines.index("link set eth0 up") < lines.index("addr add fd16:1::1 peer fd16:1::11/128 dev eth0")
    assert lines[0] == "link set lo up"


def test_a_switch_is_a_bridge_and_has_no_address() -> None:
    lines = commands("lan1")
    assert lines[1].startswith("link add br0 type bridge")
    assert [line for line in lines if " master br0 " in f"{line} "] == [
        f"link set port{i} master br0 up" for i in range(3)
    ]
    assert not [line for line in lines if line.startswith("addr")]


def test_a_router_answers_for_its_nodes_to_one_another_and_not_to_themselves() -> None:
    proxies = {line for line in commands("r") if line.startswith("neigh add proxy")}
    assert proxies == {"neigh add proxy fd16:1::12 dev eth0", "neigh add proxy fd16:1::11 dev eth1"}
    assert not [line for line in commands("n1") if "proxy" in line]


@pytest.fixture
async def built() -> AsyncIterator[Plan]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    made = planned(f"f{os.getpid()}")
    try:
        await fabric.build(made)
        yield made
    finally:
        await fabric.remove([machine.namespace for machine in made.machines.values()])


async def ip(of: Plan, machine: str, *words: str) -> list[dict[str, Any]]:
    said = await run(["ip", "-n", of.machines[machine].namespace, "-j", *words])
    shown: list[dict[str, Any]] = json.loads(said or "[]")
    return shown


@pytest.mark.kernel
class TestKernel:
    async def test_what_was_planned_is_there(self, built: Plan) -> None:
        async def not_up(name: str) -> set[str]:
            shown = await ip(built, name, "link", "show")
            return {row["ifname"] for row in shown if row["operstate"] != "UP"} & {
                it.name for it in built.ports_of(name)
            }

        for name in built.machines:
            await eventually(partial(not_up, name), set().__eq__)  # the kernel says so a moment after it is
            links = {row["ifname"]: row for row in await ip(built, name, "addr", "show")}
            for each in built.ports_of(name):
                row = links[each.name]
                assert (row["ifindex"], row["operstate"]) == (each.index, "UP")
                assert each.mac in {None, row["address"]}
                have = {(entry["local"], entry["prefixlen"], entry.get("address")) for entry in row["addr_info"]}
                want = {(str(it.local), it.length, str(it.peer) if it.peer else None) for it in each.addresses}
                assert want <= have
            assert links["lo"]["flags"][:2] == ["LOOPBACK", "UP"]
        assert {row["ifname"] for row in await ip(built, "lan1", "link", "show", "master", "br0")} == {
            f"port{i}" for i in range(3)
        }

    @pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)
    async def test_machines_on_a_link_reach_each_other(self, built: Plan, family: Family) -> None:
        for here, there in (("n1", "n3"), ("n1", "r"), ("n1", "n2")):
            address = str(built.address(there, family, towards=here))
            await run(["ip", "netns", "exec", built.machines[here].namespace, "ping", "-c1", "-W5", address])
        pod, beyond = built.machines["a1"].namespace, str(built.address("n1", family))  # an address of another link
        await run(["ip", "netns", "exec", pod, "ping", "-c1", "-W5", beyond])

    async def test_sysctls_are_those_of_the_plan(self, built: Plan) -> None:
        for name, machine in built.machines.items():
            said = await run(["ip", "netns", "exec", machine.namespace, "sysctl", *machine.sysctls])
            assert dict(line.split(" = ") for line in said.splitlines()) == machine.sysctls, name

    async def test_ports_go_down_and_up_and_no_others_do(self, built: Plan) -> None:
        chosen = [port(built, "n1", "eth0"), port(built, "n2", "eth1")]

        async def down() -> set[tuple[str, str]]:
            rows = [(name, row) for name in ("n1", "n2", "n3", "r") for row in await ip(built, name, "link", "show")]
            return {(name, row["ifname"]) for name, row in rows if "UP" not in row["flags"]}

        await fabric.set_ports(built, chosen, up=False)
        assert await down() == {("n1", "eth0"), ("n2", "eth1")}
        await fabric.set_ports(built, chosen[:1], up=True)
        assert await down() == {("n2", "eth1")}

    async def test_what_is_there_already_is_an_error_that_says_which(self, built: Plan) -> None:
        with pytest.raises(CommandError, match="File exists"):
            await fabric.build(built)

    async def test_only_what_is_named_and_there_is_removed(self, built: Plan) -> None:
        doomed, spared = built.machines["n1"].namespace, built.machines["n2"].namespace
        await fabric.remove([doomed, f"{doomed}-nobody"])
        assert doomed not in existing()
        assert spared in existing()
        await fabric.remove([doomed])

        async def ports() -> set[str]:
            return {row["ifname"] for row in await ip(built, "r", "link", "show")} - {"lo"}

        await eventually(ports, {"eth1"}.__eq__)  # the other end of eth0 was in n1; the kernel takes its time
