"""The parts of announcing that the routing tests do not reach; the rest is in test_routing.py, on the whole loop."""

from __future__ import annotations

from bgp.path import AsPath, Attributes
from bgp.speaker import Update
from inet.prefix import Family
from tests.agent.routing_world import World


async def test_a_family_that_was_not_negotiated_is_never_announced(world: World) -> None:
    other = next(family for family in Family if family is not world.family)
    await world.configure()
    world.speaker.bring_up(world.host(2), families=frozenset({other}))
    await world.settle()
    assert world.speaker.adj_rib_out[world.host(2)] == {}


async def test_a_pod_cidr_that_is_no_longer_ours_is_withdrawn(world: World) -> None:
    await world.configure()
    await world.up(2)
    await world.configure(nodes=world.config.nodes | {"n1": world.node(1, pod_cidrs=(world.cidr(9),))})
    assert world.speaker.adj_rib_out[world.host(2)].keys() == {world.cidr(9)}


async def test_a_path_that_only_changed_is_announced_and_not_withdrawn_first(world: World) -> None:
    await world.with_routers(11, 12, nodes={"n1": world.node(1, is_transit=True)}, pod_cidrs=(world.cidr(2),))
    for router in (11, 12):
        await world.up(router)
        await world.hear(router, [])
    await world.hear(11, [world.cidr(2)], path=[65100, 65002])
    world.speaker.log.clear()
    longer = Attributes(next_hop=world.host(11), as_path=AsPath((65100, 65003, 65002)))
    world.speaker.hear(Update(world.host(11), longer, (world.cidr(2),)))
    await world.settle()
    assert world.speaker.log == [("announce", world.host(12), world.cidr(2))]
