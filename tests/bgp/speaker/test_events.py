"""ExaBGP's lines, as it really writes them, and the events they become."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.path import AsPath, Attributes, Origin
from bgp.speaker import EndOfRib, GracefulRestartOffer, Session, SessionDown, SessionUp, Update
from bgp.speaker.exabgp.events import Answer, Decoder, DesyncError
from inet.prefix import Family, Prefix
from tests.bgp.speaker.scripted import V4

LINK_LOCAL = dataclasses.replace(
    V4, peer=IPv6Address("fe80::2%eth0"), local_address=IPv6Address("fe80::1%eth0"), interface="eth0"
)

HEAD = (
    '{ "exabgp": "5.0.0", "time": 1795231460.47, "host" : "vm", "pid" : 12537, "ppid" : 1, "counter": 10, '
    '"type": "%s", "neighbor": { "address": { "local": "%s", "peer": "%s" }, "asn": { "local": 65001, "peer": 65002 }, '
    '"router-id": "10.0.0.1" , %s } }'
)


def line(kind: str, body: str, session: Session = V4) -> bytes:
    local, peer = (str(address).partition("%")[0] for address in (session.local_address, session.peer))
    return (HEAD % (kind, local, peer, body)).encode()


def update(announce: object = None, withdraw: object = None, session: Session = V4, **attribute: Any) -> bytes:
    message: dict[str, Any] = {"attribute": {name.replace("_", "-"): value for name, value in attribute.items()}}
    if announce is not None:
        message["announce"] = announce
    if withdraw is not None:
        message["withdraw"] = withdraw
    body = f'"direction": "receive", "message": {json.dumps({"update": message})}'
    return line("update", body, session)


OPEN = line(
    "open",
    '"direction": "receive", "open": { "version": 4, "asn": 65002, "hold_time": 9, "router_id": "10.0.0.3", '
    '"capabilities": { "1": { "name": "multiprotocol", "families": [ "ipv4/unicast", "ipv6/unicast", "ipv4/flow" ] }, '
    '"65": { "name": "asn4", "asn4": 65002 }, "64": { "name": "graceful restart", "time": 120, '
    '"address-family-flags": { "ipv4/unicast": [ "restart" ] , "ipv6/unicast": [ ] , "l2vpn/vpls": [ ] }, '
    '"restart-flags": [ "forwarding" ]  } } }',
)
UP = line("state", '"state": "up"')
DOWN = line("state", '"state": "down", "reason": "notification received (6,4)"')


@pytest.fixture
def decoder() -> Decoder:
    made = Decoder()
    made.know([V4, LINK_LOCAL])
    return made


def prefixes(*texts: str) -> tuple[Prefix, ...]:
    return tuple(map(Prefix.parse, texts))


def test_up_carries_what_the_peers_open_said(decoder: Decoder) -> None:
    assert decoder.decode(OPEN) == ()
    assert decoder.decode(UP) == (
        SessionUp(
            V4.peer,
            families=frozenset(Family),
            router_id=IPv4Address("10.0.0.3"),
            hold_time_s=9,
            graceful_restart=GracefulRestartOffer(
                120, restarted=True, forwarding=frozenset({Family.IPV4}), families=frozenset(Family)
            ),
        ),
    )


def test_a_peer_without_graceful_restart_offers_none(decoder: Decoder) -> None:
    plain = line(
        "open",
        '"open": {"version":4,"asn":65002,"hold_time":180,"router_id":"10.0.0.3",'
        '"capabilities":{"1":{"name":"multiprotocol","families":["ipv4/unicast"]}}}',
    )
    decoder.decode(plain)
    assert decoder.decode(UP) == (SessionUp(V4.peer, frozenset({Family.IPV4}), IPv4Address("10.0.0.3"), 90, None),)


def test_down_tells_an_established_session_from_an_attempt(decoder: Decoder) -> None:
    decoder.decode(OPEN)
    decoder.decode(UP)
    [ended] = decoder.decode(DOWN)
    [failed] = decoder.decode(DOWN)
    assert isinstance(ended, SessionDown)
    assert isinstance(failed, SessionDown)
    assert (ended.was_established, failed.was_established) == (True, False)
    assert ended.notification == (6, 4)


def test_an_attempt_that_makes_way_for_another_is_no_event(decoder: Decoder) -> None:
    reason = "closing outgoing connection as we have another incoming on with higher router-id"
    assert decoder.decode(line("state", f'"state": "down", "reason": "{reason}"')) == ()


def test_after_a_restart_no_session_counts_as_established(decoder: Decoder) -> None:
    decoder.decode(OPEN)
    decoder.decode(UP)
    decoder.forget_state()
    [down] = decoder.decode(DOWN)
    assert isinstance(down, SessionDown)
    assert not down.was_established


def test_an_update_carries_every_attribute(decoder: Decoder) -> None:
    said = update(
        {"ipv4 unicast": {"10.0.0.2": ["10.4.1.0/24", "10.4.2.0/24"]}},
        origin="egp",
        as_path={
            "0": {"element": "as-sequence", "value": [4200000004, 65003]},
            "1": {"element": "as-set", "value": [7, 8]},
        },
        med=20,
        local_preference=250,
        atomic_aggregate=True,
        community=[[65004, 1], [65535, 65281]],
        large_community=[[1, 2, 3]],
        originator_id="10.0.0.7",
        cluster_list=["10.0.0.8", "10.0.0.9"],
    )
    assert decoder.decode(said) == (
        Update(
            V4.peer,
            Attributes(
                next_hop=IPv4Address("10.0.0.2"),
                as_path=AsPath((4200000004, 65003), frozenset({7, 8})),
                origin=Origin.EGP,
                med=20,
                local_pref=250,
                communities=((65004, 1), (65535, 65281)),
                large_communities=((1, 2, 3),),
                originator_id=IPv4Address("10.0.0.7"),
                cluster_list=(IPv4Address("10.0.0.8"), IPv4Address("10.0.0.9")),
                atomic_aggregate=True,
            ),
            prefixes("10.4.1.0/24", "10.4.2.0/24"),
        ),
    )


def test_withdrawals_come_before_announcements_and_have_no_attributes(decoder: Decoder) -> None:
    said = update(
        {"ipv6 unicast": {"fd00::2": ["fd01::/64"]}},
        {"ipv4 unicast": ["10.4.1.0/24"], "ipv6 unicast": ["fd02::/64"]},
        origin="igp",
    )
    withdrawal, announcement = decoder.decode(said)
    assert withdrawal == Update(V4.peer, None, (), prefixes("10.4.1.0/24", "fd02::/64"))
    assert announcement.announced == prefixes("fd01::/64")


def test_a_pair_of_next_hops_is_one_route_by_the_global_one(decoder: Decoder) -> None:
    said = update(
        {"ipv6 unicast": {"fe80::a084:44ff:feab:55c0": ["fd03::/64"], "fd99::3": ["fd03::/64"]}}, origin="igp"
    )
    [heard] = decoder.decode(said)
    assert heard.announced == prefixes("fd03::/64")
    assert heard.attributes.next_hop == IPv6Address("fd99::3")
    assert heard.attributes.next_hop_interface is None


@pytest.mark.parametrize("family", ["ipv4 unicast", "ipv6 unicast"])
def test_a_pair_without_a_global_one_is_the_link_local_one_and_its_interface(decoder: Decoder, family: str) -> None:
    prefix = "10.1.0.0/16" if family.startswith("ipv4") else "fd03::/64"
    said = update({family: {"::": [prefix], "fe80::2": [prefix]}}, session=LINK_LOCAL, origin="igp")
    [heard] = decoder.decode(said)
    assert heard.peer == LINK_LOCAL.peer
    assert heard.announced == prefixes(prefix)
    assert heard.attributes.next_hop == IPv6Address("fe80::2")
    assert heard.attributes.next_hop_interface == "eth0"


def test_an_ipv4_route_may_have_an_ipv6_next_hop(decoder: Decoder) -> None:
    [heard] = decoder.decode(update({"ipv4 unicast": {"fd99::2": ["10.2.1.0/24"]}}, origin="igp"))
    assert heard.attributes.next_hop == IPv6Address("fd99::2")


def test_bits_behind_the_prefix_are_irrelevant(decoder: Decoder) -> None:
    [heard] = decoder.decode(update({"ipv4 unicast": {"10.0.0.2": ["10.255.0.0/9"]}}, origin="igp"))
    assert heard.announced == prefixes("10.128.0.0/9")


def test_equal_attributes_of_different_updates_are_one_object(decoder: Decoder) -> None:
    [first] = decoder.decode(update({"ipv4 unicast": {"10.0.0.2": ["10.1.0.0/16"]}}, origin="igp", med=5))
    [second] = decoder.decode(update({"ipv4 unicast": {"10.0.0.2": ["10.2.0.0/16"]}}, origin="igp", med=5))
    [third] = decoder.decode(update({"ipv4 unicast": {"10.0.0.2": ["10.3.0.0/16"]}}, origin="igp", med=6))
    assert first.attributes is second.attributes
    assert third.attributes != second.attributes


def test_end_of_rib_names_its_family(decoder: Decoder) -> None:
    said = line("update", '"direction": "receive", "message": { "eor": { "afi" : "ipv6", "safi" : "unicast" } }')
    assert decoder.decode(said) == (EndOfRib(V4.peer, Family.IPV6),)


@pytest.mark.parametrize(
    "said",
    [
        line("update", '"message": { "eor": { "afi" : "ipv4", "safi" : "flow" } }'),
        update({"ipv4 flow": {"no-nexthop": [{"string": "flow destination-ipv4 10.0.0.0/8"}]}}),
        update(withdraw={"l2vpn evpn": [{"code": 3}]}),
        line("update", '"message": { "update": {  } }'),
        line("state", '"state": "connected"'),
        b'{ "exabgp": "5.0.0", "time": 1.0, "host" : "vm", "type": "notification", "notification": "shutdown" }',
    ],
    ids=["other end-of-rib", "flow", "evpn", "empty", "connected", "shutdown"],
)
def test_what_does_not_concern_us_is_no_event(decoder: Decoder, said: bytes) -> None:
    assert decoder.decode(said) == ()


@pytest.mark.parametrize("text", ["done", "error", "exabgp 5.0.15", "[]", '[{"state": "up"}]', ""])
def test_lines_that_are_no_events_are_answers(decoder: Decoder, text: str) -> None:
    assert decoder.decode(text.encode()) == Answer(text)


@pytest.mark.parametrize(
    "said",
    [
        UP[:-1],
        UP,  # no OPEN before it
        UP.replace(b"10.0.0.2", b"10.0.0.9"),  # nobody we know
        update({"ipv4 unicast": {"10.0.0.2": ["10.0.0.0"]}}, origin="igp"),
        update({"ipv4 unicast": {"10.0.0.2": ["10.0.0.0/x"]}}, origin="igp"),
        update({"ipv4 unicast": {"10.0.0.2": ["10.0.0.0/40"]}}, origin="igp"),
        update({"ipv4 unicast": {"10.0.0.2": ["10.0.0.0/-8"]}}, origin="igp"),
        b'{ "exabgp": ' + b"[" * 100_000,
        update({"ipv4 unicast": {"somewhere": ["10.0.0.0/8"]}}, origin="igp"),
        update({"ipv4 unicast": {"10.0.0.2": ["10.0.0.0/8"]}}, origin="elsewhere"),
        update({"ipv4 unicast": ["10.0.0.0/8"]}, origin="igp"),
        line("update", '"message": [ ]'),
        b'{ "exabgp" [',
        b'{ "exabgp": "5.0.0" }',
        b'{ "exabgp": "5.0.0\xff" }',
    ],
)
def test_a_line_that_cannot_be_read_is_a_desync(decoder: Decoder, said: bytes) -> None:
    with pytest.raises(DesyncError):
        decoder.decode(said)


def test_after_know_only_a_session_that_is_gone_is_a_desync(decoder: Decoder) -> None:
    decoder.know_only([LINK_LOCAL])
    with pytest.raises(DesyncError):
        decoder.decode(DOWN)


@given(st.binary(), st.integers(0, 400), st.integers(0, 400))
def test_no_damage_to_a_line_escapes_as_anything_else(noise: bytes, start: int, length: int) -> None:
    decoder = Decoder()
    decoder.know([V4])
    decoder.decode(OPEN)
    good = update({"ipv4 unicast": {"10.0.0.2": ["10.4.1.0/24"]}}, origin="igp", med=20)
    with contextlib.suppress(DesyncError):
        decoder.decode(good[:start] + noise + good[start + length :])
