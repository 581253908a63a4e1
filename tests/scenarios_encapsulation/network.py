"""Three nodes on a network that knows nothing of pods, and a router aside that may carry them.

    n1 ─┬─ gw ─── n3        n1 and n2 share a link; gw forwards between its subnets, and has no route to any pod
    n2 ─┘                   tor speaks BGP with n1 and n3, and is configured to only where a test asks for it
    n1 ─── tor ── n3

async def test_...(net: Net) -> None:
    await net.configure(encapsulation={"mode": "Always"})
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import yaml

from agent.lab.lab import Lab, tear_down
from agent.lab.state import State, default_root
from agent.lab.topology import parse
from agent.lab.wait import eventually
from agent.report import InstalledRoute, StatusReport
from inet.prefix import Family
from tests.scenarios import nodes
from tests.scenarios.manifests import bgp_configuration, bgp_peer, network_configuration

PATIENCE_S: Final = 120.0
"""A User Mode Linux kernel on a busy machine takes its time."""

NODES: Final = ("n1", "n2", "n3")
PODS: Final = {"n1": "a1", "n2": "b1", "n3": "c1"}
TOR: Final = {Family.IPV4: "172.16.2.1", Family.IPV6: "fd16:2::1"}
POD_ADDRESSES: Final = {Family.IPV4: "10.42.0.0/16", Family.IPV6: "fd42::/48"}
TOPOLOGY: Final[Mapping[str, Any]] = {
    "routers": {"gw": {"daemon": "none"}, "tor": {"daemon": "bird", "asn": 65100}},
    "nodes": {
        node: {
            "labels": {"site": node},
            "podCIDRs": [f"10.42.{number}.0/24", f"fd42:0:0:{number}::/64"],
            "pods": [PODS[node]],
        }
        for number, node in enumerate(NODES, 1)
    },
    "links": [["n1", "n2", "gw"], ["n3", "gw"], ["n1", "tor"], ["n3", "tor"]],
}
_numbers = itertools.count(1)


def prefix(node: str, family: Family) -> str:
    """Return a node's pod CIDR."""
    number = NODES.index(node) + 1
    return f"10.42.{number}.0/24" if family is Family.IPV4 else f"fd42:0:0:{number}::/64"


def routers() -> list[Mapping[str, Any]]:
    """Return the objects that have n1 and n3 speak with tor."""
    selector = {"matchExpressions": [{"key": "site", "operator": "In", "values": ["n1", "n3"]}]}
    per_node = {f"as-{node}": node for node in ("n1", "n3")}
    profiles = [
        {
            "apiVersion": "tortie.dev/v1alpha1",
            "kind": "BGPNodeProfile",
            "metadata": {"name": name},
            "spec": {"nodeSelector": {"matchLabels": {"site": node}}, "localASN": 65000 + int(node[1:])},
        }
        for name, node in per_node.items()
    ]
    peers = [
        bgp_peer(
            f"tor-{family.label.lower()}",
            {"address": address},
            nodeSelector=selector,
            peerASN=65100,
            families=[family.label],
        )
        for family, address in TOR.items()
    ]
    return [*profiles, *peers]


NEVER: Final[dict[str, Any]] = {"encapsulation": {"mode": "Never"}}
ALWAYS: Final[dict[str, Any]] = {"encapsulation": {"mode": "Always"}}
"""What is configured: no tunnels, and tunnels to everybody."""


def manifests(*more: Mapping[str, Any], **network: Any) -> str:
    """Return what is configured: NetworkConfiguration with these fields, and more objects besides."""
    spec: dict[str, Any] = {"podCIDRs": list(POD_ADDRESSES.values()), "nodeRoutes": "Direct", **network}
    return yaml.safe_dump_all([bgp_configuration(), network_configuration(**spec), *more])


class Net:
    """The lab, and what tests do with it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    async def configure(self, *more: Mapping[str, Any], late: Collection[str] = (), **network: Any) -> None:
        """Have this be all that is configured, and wait until every node has taken it over, but for those late."""
        before = {node: await nodes.batches_taken(self.lab, node) for node in NODES if node not in late}
        if not self.write(*more, **network):
            return
        for node, count in before.items():
            await eventually(
                lambda node=node: nodes.batches_taken(self.lab, node),
                count.__lt__,
                within_s=PATIENCE_S,
                what=f"{node} read",
            )

    def write(self, *more: Mapping[str, Any], **network: Any) -> bool:
        """Have this be all that is configured; whether it is anything new."""
        path = self.lab.manifests / "cluster.yaml"
        text = manifests(*more, **network)
        if path.exists() and path.read_text() == text:
            return False
        temporary = path.with_suffix(".new")
        temporary.write_text(text)
        temporary.replace(path)
        return True

    async def installed(self, node: str, other: str, family: Family) -> InstalledRoute | None:
        """Return a node's route to the pods of another."""
        return (await nodes.installed(self.lab, node)).get(prefix(other, family))

    async def carried(self, node: str, other: str) -> dict[Family, str]:
        """Return how a node reaches the pods of another: direct, VXLAN, IPIP; "" where there is no route."""
        found = {}
        for family in Family:
            row = await self.installed(node, other, family)
            is_there = row is not None and row.carried is not None and row.state == "in kernel"
            found[family] = (row.carried.type or row.carried.how) if is_there else ""
        return found

    async def becomes(self, node: str, other: str, how: str) -> None:
        """Wait until both families are carried like this."""
        await eventually(
            lambda: self.carried(node, other),
            dict.fromkeys(Family, how).__eq__,
            within_s=PATIENCE_S,
            what=f"{node} reaches {other} {how}",
        )

    async def both_become(self, how: str) -> None:
        """Wait until n1 and n2 reach each other like this."""
        await self.becomes("n1", "n2", how)
        await self.becomes("n2", "n1", how)

    async def mtu_becomes(self, mtu: int) -> None:
        """Wait until n1 knows that its pods take packets of this size, in bytes."""

        async def found() -> int | None:
            return (await self.status("n1")).network.mtu

        await eventually(found, lambda told: told == mtu, within_s=PATIENCE_S, what=f"an MTU of {mtu} at n1")

    async def all_become(self, near: str, far: str) -> None:
        """Wait until n1 reaches n2, and n1 and n2 reach n3, like this, each way."""
        for one, other, how in (("n1", "n2", near), ("n1", "n3", far), ("n2", "n3", far)):
            await self.becomes(one, other, how)
            await self.becomes(other, one, how)

    async def status(self, node: str) -> StatusReport:
        """Return what `tortie status -o json` says."""
        return await nodes.status(self.lab, node)

    async def reaches(self, source: str, destination: str, family: Family, *words: str) -> bool:
        """Whether a ping from a machine to a pod is answered."""
        address = str(self.lab.address(destination, family))
        status, _ = await self.try_(source, "ping", "-c1", "-W2", *words, address)
        return status == 0

    async def try_(self, machine: str, *argv: str) -> tuple[int, str]:
        """Run a command on a machine; return its exit status and everything it said."""
        process = await asyncio.create_subprocess_exec(
            *self.lab.command(machine, argv), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode()

    async def all_reach(self, *pairs: tuple[str, str]) -> None:
        """Wait until pods reach each other in both families."""
        for source, destination in pairs:
            for family in Family:
                await eventually(
                    lambda source=source, destination=destination, family=family: self.reaches(
                        source, destination, family
                    ),
                    within_s=PATIENCE_S,
                    what=f"{family.label} from {source} to {destination}",
                )

    async def watch_for_leaks(self) -> None:
        """Have gw count packets with pods' addresses that nothing encapsulates, from now on, and drop them."""
        sources = " ".join(
            f"{keyword} {end} {POD_ADDRESSES[family]} counter drop;"
            for family, keyword in ((Family.IPV4, "ip"), (Family.IPV6, "ip6"))
            for end in ("saddr", "daddr")
        )
        table = f"table inet watch {{ chain forward {{ type filter hook forward priority 0; {sources} }}; }}"
        await self.lab.run("gw", "nft", table)

    async def leaks(self) -> int:
        """Return how many packets were counted."""
        rules = await self.lab.run("gw", "nft", "list", "table", "inet", "watch")
        return sum(int(line.split("packets ")[1].split()[0]) for line in rules.splitlines() if "packets " in line)

    async def stop_watching(self) -> None:
        """Undo `watch_for_leaks`."""
        await self.try_("gw", "nft", "delete", "table", "inet", "watch")

    async def dropped(self, node: str, comment: str) -> int:
        """Return how many packets a node has dropped by the rules of tunnels with this comment."""
        list_chain = partial(self.lab.run, node, "nft", "list", "chain", "inet", "tortie", "tunnel_from")
        rules = await eventually(list_chain, within_s=PATIENCE_S)  # tunnels may be there a moment before their rules
        return sum(int(line.split("packets ")[1].split()[0]) for line in rules.splitlines() if comment in line)


async def build(directory: Path) -> Lab:
    """Build the lab."""
    name = f"e{os.getpid()}-{next(_numbers)}"
    (directory / "cluster.yaml").write_text(manifests())
    try:
        return await Lab.up(parse({**TOPOLOGY, "name": name, "manifests": str(directory)}))
    except BaseException:
        if (state := State(default_root() / name)).path.exists():
            await tear_down(state)
        raise
