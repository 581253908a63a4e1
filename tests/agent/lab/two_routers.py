"""Two nodes behind two routers, and what tests ask of them."""

from __future__ import annotations

from functools import partial
from typing import Any

from agent.lab.kernelroutes import kernel_routes
from agent.lab.lab import Lab
from agent.lab.status import look
from agent.lab.wait import eventually


def two_routers(daemon: str = "bird", **more: Any) -> dict[str, Any]:
    """Return two nodes, stand-ins with pods, each linked to both of two routers."""
    return {
        "routers": {"r1": {"daemon": daemon, "asn": 65100, **more}, "r2": {"daemon": "bird", "asn": 65100, **more}},
        "nodes": {
            "n1": {"daemon": "bird", "asn": 65001, "podCIDRs": ["10.42.0.0/24", "fd42::/64"], "pods": ["a1", "a2"]},
            "n2": {"daemon": "bird", "asn": 65002, "podCIDRs": ["10.42.1.0/24", "fd42:0:0:1::/64"], "pods": ["b1"]},
        },
        "links": [["n1", "r1"], ["n1", "r2"], ["n2", "r1"], ["n2", "r2"]],
    }


async def settled(lab: Lab) -> None:
    """Wait until every session is up and both nodes have both ways to the other's pods."""
    await eventually(partial(look, lab), lambda status: status.is_healthy, what="a healthy lab")
    for node, prefixes in (("n1", ("10.42.1.0/24", "fd42:0:0:1::/64")), ("n2", ("10.42.0.0/24", "fd42::/64"))):
        for prefix in prefixes:
            await eventually(partial(ways, lab, node, prefix), lambda found: len(found) == 2, what=f"{node} {prefix}")


async def ways(lab: Lab, node: str, prefix: str) -> set[str]:
    """Return the interfaces of a node's kernel routes for a prefix."""
    return {interface for route in await kernel_routes(lab, node, prefix) for interface in route.interfaces}


async def has_carrier(lab: Lab, machine: str, interface: str = "eth0") -> bool:
    """Whether a link has one: the kernel says so a moment after the other end went or came."""
    return "NO-CARRIER" not in await lab.run(machine, "ip", "link", "show", interface)


async def loses_carrier(lab: Lab, machine: str) -> None:
    await eventually(partial(has_carrier, lab, machine), lambda has: not has, what=f"{machine} without carrier")


async def prefixes_at(lab: Lab, router: str) -> dict[str, tuple[int, ...]]:
    """Return prefix → AS path of a router's best routes."""
    return {str(route.prefix): route.as_path for route in await lab.routes(router) if route.best}
