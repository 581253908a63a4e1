"""The fake keeps the rules of the Protocol."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from bgp.path import Attributes
from bgp.speaker import EndOfRib, Event, Session, SessionDown, SessionUp, Speaker, SpeakerError, SpeakerLost, Update
from bgp.speaker.fake import FakeSpeaker
from inet.prefix import Family, Prefix

PEER = IPv4Address("10.0.0.2")
SESSION = Session(PEER, IPv4Address("10.0.0.1"), 65001, 65002, IPv4Address("10.0.0.1"), frozenset(Family))
PREFIX = Prefix.parse("10.42.0.0/24")
ATTRIBUTES = Attributes(IPv4Address("10.0.0.1"))


async def heard(speaker: Speaker, count: int) -> list[Event]:
    events = speaker.events()
    return [await anext(events) for _ in range(count)]


async def test_only_an_established_peer_is_told_anything() -> None:
    speaker = FakeSpeaker()
    await speaker.start()
    speaker.configure({PEER: SESSION})
    speaker.announce(PEER, PREFIX, ATTRIBUTES)
    assert speaker.adj_rib_out == {}
    speaker.bring_up(PEER)
    speaker.announce(PEER, PREFIX, ATTRIBUTES)
    speaker.end_of_rib(PEER, Family.IPV4)
    assert speaker.adj_rib_out == {PEER: {PREFIX: ATTRIBUTES}}
    assert speaker.ends_of_rib == [(PEER, Family.IPV4)]
    speaker.withdraw(PEER, PREFIX)
    speaker.withdraw(PEER, PREFIX)
    assert speaker.log == [("announce", PEER, PREFIX), ("withdraw", PEER, PREFIX)]


async def test_events_come_in_the_order_they_were_injected() -> None:
    speaker = FakeSpeaker()
    await speaker.start()
    speaker.configure({PEER: SESSION})
    speaker.bring_up(PEER)
    speaker.hear_routes(PEER, ATTRIBUTES, str(PREFIX))
    speaker.take_down(PEER, notification=(6, 2))
    speaker.lose("gone")
    assert await heard(speaker, 5) == [
        SessionUp(PEER, frozenset(Family), IPv4Address("10.0.0.2"), 90, None),
        Update(PEER, ATTRIBUTES, (PREFIX,)),
        EndOfRib(PEER, Family.IPV4),
        SessionDown(PEER, "connection closed by the peer", (6, 2)),
        SpeakerLost("gone"),
    ]


async def test_a_session_that_is_taken_away_ends() -> None:
    speaker = FakeSpeaker()
    await speaker.start()
    speaker.configure({PEER: SESSION})
    speaker.bring_up(PEER)
    speaker.configure({})
    assert (await heard(speaker, 2))[1] == SessionDown(PEER, "session removed", (6, 3), sent=True)
    assert speaker.adj_rib_out == {}


async def test_it_fails_to_start_and_stops_as_told() -> None:
    speaker = FakeSpeaker()
    speaker.start_error = "no"
    with pytest.raises(SpeakerError, match="no"):
        await speaker.start()
    speaker.start_error = ""
    await speaker.start()
    assert speaker.health().running
    await speaker.stop(graceful=True)
    assert speaker.stopped is True
    assert not speaker.health().running
