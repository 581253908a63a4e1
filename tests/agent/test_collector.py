from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from agent.collector import StateCollector
from tests.agent.routing_world import World
from tests.agent.test_view import view_of


async def test_the_metrics_name_sessions_routes_and_reasons(world: World) -> None:
    await world.speaker.start()
    view = view_of(world)
    await world.configure()
    await world.up(2)
    await world.hear(2, [world.cidr(2)])
    registry = CollectorRegistry()
    registry.register(StateCollector(view))
    text = generate_latest(registry).decode()
    assert f'tortie_session_established{{origin="mesh/n2",peer="{world.host(2)}"}} 1.0' in text
    assert f'origin="mesh/n3",peer="{world.host(3)}",reason="connecting"' in text
    assert f'family="{world.family.label}",origin="mesh/n2",peer="{world.host(2)}"}} 1.0' in text
    assert "tortie_ready 1.0" in text
    assert "tortie_kernel_writes_total 3.0" in text  # our blackhole, a group, a route
    assert "tortie_kernel_refusals_total 0.0" in text
