from __future__ import annotations

from ipaddress import ip_address

import pytest

from agent.peers import Peer
from bgp.graceful_restart import Retention
from bgp.peering import NextHopMode, PlannedSession
from bgp.speaker import GracefulRestartOffer, Session, SessionUp
from inet.prefix import Family, family_of
from tests.bgp.builders import rules

OWN_RESTART_S = 120
NOW = 1000.0
OFFER = GracefulRestartOffer(
    restart_time_s=60, restarted=False, forwarding=frozenset(Family), families=frozenset(Family)
)


def peer(address: str, hindrance: str = "") -> Peer:
    """Return a peer as it is before anything has happened."""
    other = ip_address(address)
    own = ip_address("172.16.1.11" if other.version == 4 else "fd16:1::11")
    session = Session(
        peer=other,
        local_address=own,
        local_asn=65001,
        peer_asn=65100,
        router_id=ip_address("172.16.1.11"),
        families=frozenset(Family),
    )
    planned = PlannedSession(session, rules(), NextHopMode.AUTO, {family_of(own): own}, hindrance)
    return Peer(planned, Retention(OWN_RESTART_S))


def established(it: Peer) -> SessionUp:
    return SessionUp(it.planned.session.peer, frozenset(Family), ip_address("172.16.1.1"), 90, OFFER)


@pytest.fixture(params=["172.16.1.1", "fd16:1::1"], ids=["IPv4", "IPv6"])
def address(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_session_that_is_yet_to_come_is_active_and_connecting(address: str) -> None:
    it = peer(address)
    assert (it.state, it.reason) == ("Active", "connecting")


def test_the_last_failure_is_the_reason(address: str) -> None:
    it = peer(address)
    it.last_error = "hold timer expired"
    assert (it.state, it.reason) == ("Active", "hold timer expired")


def test_what_keeps_it_from_running_comes_before_what_ended_it(address: str) -> None:
    it = peer(address, 'Secret bgp has no key "tor"')
    it.last_error = "hold timer expired"
    assert (it.state, it.reason) == ("Idle", 'Secret bgp has no key "tor"')


def test_an_established_session_needs_no_reason(address: str) -> None:
    it = peer(address)
    it.last_error = "hold timer expired"
    it.established = established(it)
    assert (it.state, it.reason) == ("Established", "")


def test_a_session_that_ends_by_a_new_hindrance_is_established_until_it_is_down(address: str) -> None:
    it = peer(address, "administratively down")
    it.established = established(it)
    assert (it.state, it.reason) == ("Established", "")


def test_peers_share_nothing(address: str) -> None:
    one, other = peer(address), peer(address)
    one.awaits_end_of_rib.add(Family.IPV4)
    one.owes_end_of_rib.add(Family.IPV6)
    assert not other.awaits_end_of_rib
    assert not other.owes_end_of_rib
    assert one.announced is not other.announced
