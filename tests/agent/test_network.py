"""A node's network settings together: who is told what, and what is told of them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agent import network
from agent.enforcement import NodePolicy
from agent.network import NodeNetwork
from bgp.config import Encapsulation, EncapsulationMode
from felix.conntracktable import Usage
from felix.resolver import Resolution
from inet.prefix import Family
from tests.agent.idle_network import idle_network
from tests.agent.objects_of_nodes import batch, node_object
from tests.agent.policy_world import manifest
from tests.agent.routing_world import World, running

FALLBACK = Encapsulation(EncapsulationMode.FALLBACK)


@pytest.fixture
async def world(family: Family) -> AsyncIterator[World]:
    """Node n2 is on the link, node n3 behind a router."""
    world = World(family)
    world.resolver.addresses.add(world.host(1))
    world.resolver.answers[world.host(3), None] = Resolution((world.hop(9),), is_on_link=False)
    async with running(world):
        yield world


@pytest.fixture
def settings(world: World) -> NodeNetwork:
    made = idle_network(world.routing, NodePolicy("n1", None))
    made.take(batch(*map(node_object, (1, 2, 3))))
    return made


async def test_what_pods_reach_in_a_tunnel_alone_is_not_translated(world: World, settings: NodeNetwork) -> None:
    assert settings._tunnelled() == frozenset()
    await world.configure(encapsulation=FALLBACK, mesh_enabled=False)
    assert settings._tunnelled() & {world.host(2), world.host(3)} == {world.host(3)}


async def test_new_nodes_and_settings_are_looked_at_and_a_pod_only_where_it_matters(
    settings: NodeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(settings.mtu, "wake", lambda: told.append("MTU"))
    monkeypatch.setattr(settings.sysctls, "wake", lambda: told.append("settings"))
    monkeypatch.setattr(settings.nat, "refresh", lambda: told.append("NAT"))
    monkeypatch.setattr(settings.nat, "pods_changed", lambda: told.append("pods"))
    settings.take(batch(node_object(4)))
    assert told == ["MTU", "settings", "NAT"]
    told.clear()
    settings.take(batch(manifest("Pod", "p", "x", spec={"nodeName": "n1"}, status={"podIPs": [{"ip": "10.42.1.9"}]})))
    assert told == ["pods"]


def use(monkeypatch: pytest.MonkeyPatch, usage: Usage | None) -> None:
    monkeypatch.setattr(network.conntracktable, "usage", lambda: usage)


async def test_a_full_table_of_connections_is_a_condition_that_says_what_to_raise(
    settings: NodeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Usage(entries=100, limit=1000, drops=0))
    assert list(settings.conditions()) == []
    use(monkeypatch, Usage(entries=995, limit=1000, drops=7))
    (condition,) = settings.conditions()
    assert (condition.type, condition.reason) == ("ConnectionTableFull", "NoRoomForNew")
    assert "995 of 1000" in condition.message
    assert "nf_conntrack_max" in condition.message


@pytest.mark.parametrize(
    ("usage", "told"), [(Usage(5, 1000, 2), (5, 1000, 2)), (None, (None, None, 0))], ids=["counted", "no conntrack"]
)
async def test_the_report_counts_connections_where_the_kernel_does(
    settings: NodeNetwork, monkeypatch: pytest.MonkeyPatch, usage: Usage | None, told: tuple[int | None, ...]
) -> None:
    use(monkeypatch, usage)
    report = settings.report()
    assert (report.connections, report.connections_limit, report.connections_dropped) == told
