"""Who is where in a lab. What runs in one: tests/agent/lab."""

from __future__ import annotations

from ipaddress import ip_address
from types import SimpleNamespace

import pytest

from agent.fleet import Located
from agent.fleet.lab import LabFleet

ADDRESSES = ("10.42.0.2", "fd42::2")
POD = SimpleNamespace(name="a1", namespace="shop")
PLAN = SimpleNamespace(nodes={"n1": SimpleNamespace(pods=[POD])}, hosts={"a1": tuple(map(ip_address, ADDRESSES))})
A1 = Located("Pod", "shop/a1", "n1", ADDRESSES)
N1 = Located("Node", "n1", "n1")


@pytest.mark.parametrize(
    ("end", "found"),
    [
        ("a1", [A1]),
        ("shop/a1", [A1]),
        ("n1", [N1]),
        ("node:n1", [N1]),
        ("other/a1", []),
        ("a2", []),
        ("node:n2", []),
        (ADDRESSES[0], []),
    ],
)
async def test_pods_and_nodes_are_known_by_their_names(end: str, found: list[Located]) -> None:
    lab = SimpleNamespace(plan=PLAN)
    assert await LabFleet(lab).locate(end) == found  # type: ignore[arg-type] # as far as it goes
