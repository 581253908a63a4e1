from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from ipaddress import IPv4Address

import pytest

from bgp.path import AsPath, Attributes, PeerKey
from bgp.speaker import EndOfRib, Event, Session, SessionUp, Update
from bgp.speaker.exabgp import ExaBGPSpeaker
from inet.prefix import Family, Prefix
from tests.bgp.speaker.conftest import Bird, Lab, bgp, static, until

pytestmark = pytest.mark.interop


class Listener:
    """Takes every event as it comes."""

    def __init__(self, speaker: ExaBGPSpeaker) -> None:
        self.speaker = speaker
        self.heard: list[Event] = []
        self.task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for event in self.speaker.events():
            self.heard.append(event)

    def of(self, kind: type[Event], peer: PeerKey | None = None) -> list[Event]:
        return [e for e in self.heard if isinstance(e, kind) and (peer is None or e.peer == peer)]

    async def until(self, kind: type[Event], peer: PeerKey | None = None, count: int = 1) -> Event:
        await until(lambda: len(self.of(kind, peer)) >= count, f"{count} {kind.__name__} {peer}")
        return self.of(kind, peer)[count - 1]


@pytest.fixture
async def speaker(lab: Lab) -> AsyncIterator[ExaBGPSpeaker]:
    made = ExaBGPSpeaker(lab.directory / "run")
    yield made
    await made.stop(graceful=True)


def session(bird: Bird, **changes: object) -> Session:
    v6 = bool(changes.pop("v6", False))
    facts: dict[str, object] = {
        "peer": bird.v6 if v6 else bird.v4,
        "local_address": bird.node_v6 if v6 else bird.node_v4,
        "local_asn": 65001,
        "peer_asn": bird.asn,
        "router_id": IPv4Address("10.99.0.1"),
        "families": frozenset(Family),
        "hold_time_s": 9,
        "connect_retry_time_s": 1,
    }
    return Session(**(facts | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("v6", [False, True], ids=["over IPv4", "over IPv6"])
async def test_routes_of_both_families_go_both_ways(lab: Lab, speaker: ExaBGPSpeaker, v6: bool) -> None:
    bird = lab.bird(65002)
    bird.write(bgp("node", bird, v6=v6) + static(bird, "192.0.2.0/24", "2001:db8:2::/48"))
    bird.start()
    await speaker.start()
    listener = Listener(speaker)
    wanted = session(bird, v6=v6)
    speaker.configure({wanted.peer: wanted})
    await listener.until(SessionUp)
    await listener.until(Update, count=2)
    await listener.until(EndOfRib, count=2)
    for text, hop in (("10.42.0.0/24", bird.node_v4), ("fd42::/64", bird.node_v6)):
        speaker.announce(wanted.peer, Prefix.parse(text), Attributes(next_hop=hop, as_path=AsPath((65001,))))
        speaker.end_of_rib(wanted.peer, Prefix.parse(text).family)
    await until(lambda: bird.has("10.42.0.0/24") and bird.has("fd42::/64"), "BIRD has the routes")
    listener.task.cancel()
