"""`tortie doctor` in a lab that is well, and in one where something was done to it. Agents and routers are real."""

from __future__ import annotations

import json
from functools import partial

import pytest

from agent.lab.lab import Lab
from agent.lab.wait import eventually
from tests.lab import Apply
from tests.scenarios import nodes
from tests.scenarios.scenes import RACKS
from tests.scenarios.stage import on

pytestmark = [pytest.mark.interop, on(RACKS)]

OF_THIS_MACHINE = frozenset({"clock", "CNI configuration", "network daemons", "other plugins", "tables"})
"""What a lab has from the machine that it runs on."""


async def findings(net: Lab, node: str = "n1") -> dict[str, str]:
    """What is not well on a node: text by check and level."""
    answer = json.loads(await nodes.tortie(net, node, "doctor", "-o", "json"))
    return {
        f"{each['check']} {each['level']}": each["text"]
        for each in answer
        if each["level"] != "ok" and each["check"] not in OF_THIS_MACHINE
    }


async def test_a_lab_that_is_well_is_found_so_on_every_node(net: Lab) -> None:
    assert await findings(net) == {}
    answers = json.loads(await nodes.tortie(net, "n2", "doctor", "--all-nodes", "-o", "json"))
    assert [each["node"] for each in answers] == ["n1", "n2", "n3"]
    for each in answers:
        checks = {found["check"] for found in each["answer"] if found["level"] == "ok"}
        assert {"kernel", "sysctls", "MTU", "path MTU", "agent", "sessions", "routes", "pod CIDRs"} <= checks


async def test_a_firewall_and_a_plugin_of_before_are_found(net: Lab) -> None:
    await net.run(
        "n1",
        "nft",
        "add table inet old; add chain inet old through { type filter hook forward priority 0; policy drop; }",
    )
    await net.run("n1", "ip", "link", "add", "flannel.1", "type", "bridge")
    try:
        answer = json.loads(await nodes.tortie(net, "n1", "doctor", "-o", "json"))
        texts = [each["text"] for each in answer if each["level"] in {"WARN", "FAIL"}]
        assert "chain through of table inet old drops what it forwards by default" in texts
        assert any(text.startswith("flannel is still here: device flannel.1") for text in texts)
    finally:
        await net.run("n1", "nft", "delete", "table", "inet", "old")
        await net.run("n1", "ip", "link", "del", "flannel.1")


async def test_nodes_with_one_address_and_overlapping_pod_cidrs_are_found(net: Lab, apply: Apply) -> None:
    twin = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "twin"},
        "spec": {"podCIDRs": ["10.42.3.128/25"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.16.1.13"}]},
    }
    apply(net, "twin.yaml", twin)
    found = await eventually(partial(findings, net), lambda them: "pod CIDRs FAIL" in them, within_s=30)
    assert "10.42.3.128/25 of Node twin overlaps 10.42.3.0/24 of Node n3" in found["pod CIDRs FAIL"]
    assert "172.16.1.13 is an InternalIP of the Nodes n3 and twin" in found["node addresses FAIL"]


async def test_an_agent_that_is_gone_leaves_what_can_be_looked_at(net: Lab) -> None:
    await net.kill("n3")
    try:
        found = await findings(net, "n3")
        assert "does not answer" in found["agent FAIL"] or "no agent at" in found["agent FAIL"]
        assert "nodes are not known without an agent" in found["pod CIDRs ?"]
        assert "kernel FAIL" not in found
    finally:
        await net.start("n3")
