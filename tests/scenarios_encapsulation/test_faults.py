"""What hands and strangers do to tunnels: everything comes back by itself, nothing leaves unencapsulated meanwhile."""

from __future__ import annotations

import re
import signal
from typing import Final

import pytest
import yaml

from agent.lab.wait import eventually
from agent.tunnel_rules import FROM_POD, UNKNOWN_SENDER
from felix.tunnelmessages import DeviceId, Kind
from inet.prefix import Family
from tests.scenarios import nodes
from tests.scenarios_encapsulation.network import PATIENCE_S, Net

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

NAMES: Final = tuple(DeviceId(Kind.VXLAN, family, 4096).name for family in Family)
HANDS: Final = {
    "deleted": "ip link del {name}",
    "set down": "ip link set {name} down",
    "renamed": "ip link set {name} down && ip link set {name} name my-{name}",
    "given another VNI": "ip link del {name} && ip link add {name} type vxlan id {vni} dstport 4789 dev eth0",
}


async def by_hand(net: Net, node: str, command: str) -> None:
    """Do something to a node's devices in one go: the agent, which is quicker than people, looks again afterwards."""
    agent = nodes.agent_of(net.lab, node)
    agent.send(signal.SIGSTOP)
    try:
        await net.lab.run(
            node, "sh", "-c", " && ".join(command.format(name=name, vni=vni) for vni, name in enumerate(NAMES))
        )
    finally:
        agent.send(signal.SIGCONT)


@pytest.mark.parametrize("command", HANDS.values(), ids=HANDS.keys())
async def test_a_device_that_somebody_broke_is_mended_and_nothing_leaks(net: Net, command: str) -> None:
    await net.configure(encapsulation={"mode": "Fallback"})
    await net.all_become("direct", "VXLAN")
    await net.all_reach(("a1", "c1"))
    await net.watch_for_leaks()
    await by_hand(net, "n1", command)
    await net.all_reach(("a1", "c1"), ("c1", "a1"))
    await net.becomes("n1", "n3", "VXLAN")
    for name in NAMES:
        assert "vxlan id 4096" in await net.lab.run("n1", "ip", "-d", "link", "show", name)
    assert "my-" not in await net.lab.run("n1", "ip", "link")
    assert await net.leaks() == 0
    assert (await net.status("n1")).tunnels.repaired >= 1


async def test_where_a_stranger_has_our_name_nothing_leaks_and_the_condition_says_so(net: Net) -> None:
    await net.configure(encapsulation={"mode": "Fallback"})
    await net.all_become("direct", "VXLAN")
    await net.watch_for_leaks()
    await by_hand(net, "n1", "ip link del {name} && ip link add {name} type bridge")

    async def ready() -> str:
        return next(each.message for each in (await net.status("n1")).conditions if each.type == "Ready")

    message = await eventually(ready, lambda text: "rename or remove" in text, within_s=PATIENCE_S)
    for family, name in zip(Family, NAMES, strict=True):
        assert f"there is a link {name} of kind bridge that is not Tortie's" in message
        assert not await net.reaches("a1", "c1", family)
        assert await net.reaches("a1", "b1", family)
        assert "bridge" in await net.lab.run("n1", "ip", "-d", "link", "show", name)
    assert await net.leaks() == 0
    for name in NAMES:
        await net.lab.run("n1", "ip", "link", "del", name)
    await net.all_reach(("a1", "c1"))


async def test_where_a_stranger_has_our_port_the_condition_names_it(net: Net) -> None:
    await net.configure(encapsulation={"mode": "Never"})
    await net.lab.run("n1", "sh", "-c", f"while ip link show {NAMES[0]}; do sleep 0.2; done 2>&1")
    add = "ip link add flannel.1 type vxlan id 4096 dstport 4789 dev eth0 nolearning"
    await net.lab.run("n1", "sh", "-c", f"{add} && ip link set flannel.1 up")
    try:
        await net.configure(encapsulation={"mode": "Always"})

        async def problems() -> str:
            return " ".join((await net.status("n1")).tunnels.problems)

        await eventually(problems, lambda text: "link flannel.1 (VNI 4096) has it" in text, within_s=PATIENCE_S)
    finally:
        await net.lab.run("n1", "ip", "link", "del", "flannel.1")
    await net.becomes("n1", "n2", "VXLAN")


# Who may send


INJECT: Final = """
import socket, sys
address, inner = sys.argv[1], bytes.fromhex(sys.argv[2])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as any_port:
    any_port.sendto(bytes.fromhex("0800000000100000") + inner, (address, 4789))
"""
INNER: Final = "ff" * 12 + "0800" + "45" + "00" * 19


@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)
async def test_a_packet_in_vxlan_from_somebody_who_is_no_node_is_dropped(net: Net, family: Family) -> None:
    await net.configure(encapsulation={"mode": "Always"})
    await net.all_become("VXLAN", "VXLAN")
    before = await net.dropped("n1", UNKNOWN_SENDER)
    await _count_received(net, "n1", family)
    address = str(net.lab.address("n1", family))
    await net.lab.run("gw", "python3", "-c", INJECT, address, INNER)
    await eventually(lambda: net.dropped("n1", UNKNOWN_SENDER), (before + 1).__le__, what="dropped at n1")
    assert await _received(net, "n1") == 0
    await net.all_reach(("a1", "c1"))


@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)
async def test_a_packet_in_vxlan_of_another_vni_is_nothing_to_us_though_a_node_sent_it(
    net: Net, family: Family
) -> None:
    await net.configure(encapsulation={"mode": "Always"})
    await net.all_become("VXLAN", "VXLAN")
    await _count_received(net, "n1", family)
    address = str(net.lab.address("n1", family))
    other = INJECT.replace("0800000000100000", "0800000000004d00")  # 77 in place of 4096
    await net.lab.run("n2", "python3", "-c", other, address, INNER)
    await net.lab.run("n2", "python3", "-c", INJECT, address, INNER)
    await eventually(lambda: _received(net, "n1"), what="that of our VNI comes in")
    assert await _received(net, "n1") == 1, "and the one before it did not"


@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)
async def test_a_pod_does_not_get_what_it_encapsulates_off_its_node(net: Net, family: Family) -> None:
    await net.configure(encapsulation={"mode": "Always"})
    await net.all_become("VXLAN", "VXLAN")
    before = await net.dropped("n1", FROM_POD)
    await _count_received(net, "n2", family)
    address = str(net.lab.address("n2", family))
    await net.lab.run("a1", "python3", "-c", INJECT, address, INNER)
    await eventually(lambda: net.dropped("n1", FROM_POD), (before + 1).__le__, what="dropped at n1")
    assert await _received(net, "n2") == 0


async def _count_received(net: Net, node: str, family: Family) -> None:
    """Count what comes out of a node's tunnels and was sent by INJECT, from now on: nodes use them, too."""
    name = DeviceId(Kind.VXLAN, family, 4096).name
    chain = f"type filter hook ingress device {name} priority 0; ether saddr ff:ff:ff:ff:ff:ff counter"
    table = "table netdev injected"
    await net.lab.run(node, "nft", f"add {table}; delete {table}; {table} {{ chain arriving {{ {chain}; }}; }}")


async def _received(net: Net, node: str) -> int:
    """Return how many that were."""
    text = await net.lab.run(node, "nft", "list", "table", "netdev", "injected")
    found = re.search(r"counter packets (\d+)", text)
    assert found is not None, text
    return int(found[1])


# Nodes


async def test_a_node_that_moves_to_another_interface_is_followed(net: Net) -> None:
    """n3 becomes known by its address on the link to tor."""
    await net.configure(encapsulation={"mode": "Always"})
    await net.all_become("VXLAN", "VXLAN")
    path = net.lab.state.config / "nodes.yaml"
    before = path.read_text()
    there = {family: str(net.lab.address("n3", family, towards="tor")) for family in Family}
    moved = list(yaml.safe_load_all(before))
    moved[2]["status"]["addresses"] = [{"type": "InternalIP", "address": each} for each in there.values()]
    for family, address in there.items():  # n2 has no other way there than gw, which knows none
        via = str(net.lab.address("n1", family))
        await net.lab.run("n2", "ip", "route", "replace", address, "via", via)
        await net.lab.run(
            "n3",
            "ip",
            "route",
            "replace",
            str(net.lab.address("n2", family)),
            "via",
            str(net.lab.address("gw", family, towards="n3")),
        )
    try:
        path.write_text(yaml.safe_dump_all(moved))
        expected = there[Family.IPV4]

        async def remote() -> str:
            row = await net.installed("n1", "n3", Family.IPV4)
            return row.carried.remote if row is not None and row.carried is not None else ""

        await eventually(remote, expected.__eq__, within_s=PATIENCE_S, what="the new address")
        await net.all_reach(("a1", "c1"))
    finally:
        path.write_text(before)
    await net.becomes("n1", "n3", "VXLAN")
    await net.all_reach(("a1", "c1"), ("b1", "c1"))
