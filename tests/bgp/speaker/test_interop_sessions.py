"""ExaBGP against real BIRD: sessions, routes both ways, and what people are told when a session fails."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from bgp.path import AsPath, Attributes
from bgp.speaker import EndOfRib, Secret, SessionDown, SessionUp, Update
from bgp.speaker.exabgp import ExaBGPSpeaker
from inet.prefix import Family, Prefix
from tests.bgp.speaker.lab import Lab, Listener, configure, run, session, tell, until

pytestmark = pytest.mark.interop

BOTH = pytest.mark.parametrize("v6", [False, True], ids=["over-ipv4", "over-ipv6"])


@BOTH
async def test_routes_of_both_families_go_both_ways(
    lab: Lab, speaker: ExaBGPSpeaker, listener: Listener, *, v6: bool
) -> None:
    bird = lab.bird()
    bird.write("192.0.2.0/24", "2001:db8:2::/48", v6=v6)
    bird.start()
    wanted = session(bird, v6=v6)
    configure(speaker, wanted)

    up = await listener.until(SessionUp, wanted.peer)
    await listener.until(EndOfRib, wanted.peer, count=2)
    tell(speaker, bird, "10.42.0.0/24", "fd42::/64", v6=v6)
    await until(lambda: bird.has("10.42.0.0/24") and bird.has("fd42::/64"), "BIRD has the node's prefixes")

    assert up == SessionUp(wanted.peer, frozenset(Family), bird.v4, 9, up.graceful_restart)
    assert {prefix for update in listener.of(Update) for prefix in update.announced} == {
        Prefix.parse("192.0.2.0/24"),
        Prefix.parse("2001:db8:2::/48"),
    }
    assert {update.attributes and update.attributes.next_hop for update in listener.of(Update)} == {bird.v4, bird.v6}
    assert speaker.health().last_error == ""
    assert speaker.health().sessions_out_of_sync == frozenset()


async def test_every_attribute_reaches_the_peer_as_it_was_given(
    lab: Lab, speaker: ExaBGPSpeaker, listener: Listener
) -> None:
    bird = lab.bird(asn=65001)  # iBGP: all attributes are allowed
    bird.write(options="direct;")
    bird.start()
    configure(speaker, session(bird))
    await listener.until(SessionUp)
    attributes = Attributes(
        next_hop=bird.node_v4,
        as_path=AsPath((4200000001, 65009), frozenset({65010, 65011})),
        med=7,
        local_pref=250,
        communities=((65535, 65281), (65001, 1)),
        large_communities=((4200000001, 1, 2),),
        originator_id=IPv4Address("10.0.0.7"),
        cluster_list=(IPv4Address("10.0.0.8"), IPv4Address("10.0.0.9")),
        atomic_aggregate=True,
    )
    speaker.announce(bird.v4, Prefix.parse("10.42.0.0/24"), attributes)
    await until(lambda: bird.has("10.42.0.0/24"), "BIRD has the prefix")
    said = bird.ask("show", "route", "10.42.0.0/24", "all")
    for words in (
        "BGP.as_path: 4200000001 65009 {65010 65011}",
        "BGP.next_hop: 10.99.1.1",
        "BGP.med: 7",
        "BGP.local_pref: 250",
        "BGP.community: (65001,1) (65535,65281)",
        "BGP.large_community: (4200000001, 1, 2)",
        "BGP.originator_id: 10.0.0.7",
        "BGP.cluster_list: 10.0.0.8 10.0.0.9",
        "BGP.atomic_aggr",
        "BGP.origin: IGP",
    ):
        assert words in said


@BOTH
async def test_a_shared_password_lets_the_session_up(
    lab: Lab, speaker: ExaBGPSpeaker, listener: Listener, *, v6: bool
) -> None:
    bird = lab.bird()
    bird.write(v6=v6, options=r"""password "s3c'ret #;{\x";""")
    bird.start()
    configure(speaker, session(bird, v6=v6, password=Secret(r"s3c'ret #;{\x")))
    await listener.until(SessionUp)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (lab.directory / "run").iterdir()}
    assert modes == {"exabgp.conf": 0o600, "exabgp.sock": 0o600}


async def test_different_passwords_keep_the_session_down_and_say_so(
    lab: Lab, speaker: ExaBGPSpeaker, listener: Listener
) -> None:
    bird = lab.bird()
    bird.write(options='password "one";')
    bird.start()
    configure(speaker, session(bird, password=Secret("two")))
    down = await listener.until(SessionDown)
    assert down.reason == "no answer: unreachable, filtered, or the passwords differ"
    assert not down.was_established
    assert not listener.of(SessionUp)


async def test_a_refused_connection_is_told_and_tried_again(
    lab: Lab, speaker: ExaBGPSpeaker, listener: Listener
) -> None:
    bird = lab.bird()
    configure(speaker, session(bird))
    down = await listener.until(SessionDown)
    assert down == SessionDown(bird.v4, "connection refused", was_established=False)
    bird.write(options="passive;")
    bird.start()
    await listener.until(SessionUp)


async def test_a_wrong_peer_as_is_named(lab: Lab, speaker: ExaBGPSpeaker, listener: Listener) -> None:
    bird = lab.bird(asn=65009)
    bird.write(options="passive;")
    bird.start()
    configure(speaker, session(bird, peer_asn=65002))
    down = await listener.until(SessionDown)
    assert down.notification == (2, 2)
    assert "bad peer AS" in down.reason
    assert not down.was_established


async def test_a_peer_that_shuts_down_is_heard_with_its_notification(
    lab: Lab, speaker: ExaBGPSpeaker, listener: Listener
) -> None:
    bird = lab.bird()
    bird.write()
    bird.start()
    configure(speaker, session(bird))
    await listener.until(SessionUp)
    bird.ask("disable", "node", '"cable work"')
    # An attempt that lost against the other side's (RFC 4271 section 6.8) may have failed before.

    def ended() -> list[SessionDown]:
        return [down for down in listener.of(SessionDown) if down.was_established]

    await until(ended, "the session ended")
    assert ended()[0] == SessionDown(
        bird.v4, 'cease: administrative shutdown (sent by the peer): "cable work"', notification=(6, 2)
    )


async def test_a_killed_peer_ends_the_session_without_a_notification(
    lab: Lab, speaker: ExaBGPSpeaker, listener: Listener
) -> None:
    bird = lab.bird()
    bird.write()
    bird.start()
    configure(speaker, session(bird))
    await listener.until(SessionUp)
    bird.kill()
    assert await listener.until(SessionDown) == SessionDown(bird.v4, "connection closed by the peer")


async def test_a_silent_peer_ends_with_our_notification(lab: Lab, speaker: ExaBGPSpeaker, listener: Listener) -> None:
    bird = lab.bird()
    bird.write()
    bird.start()
    configure(speaker, session(bird, hold_time_s=3))
    await listener.until(SessionUp)
    run("ip", "-n", bird.namespace, "link", "set", "eth0", "down")
    run("ip", "-n", lab.node, "link", "set", "r1", "up")
    down = await listener.until(SessionDown)
    assert down == SessionDown(bird.v4, "hold timer expired (sent to the peer)", notification=(4, 0), sent=True)


async def test_the_peers_graceful_restart_offer_is_read(lab: Lab, speaker: ExaBGPSpeaker, listener: Listener) -> None:
    bird = lab.bird()
    bird.write(options="graceful restart on; graceful restart time 77;")
    bird.start()
    configure(speaker, session(bird))
    up = await listener.until(SessionUp)
    assert up.graceful_restart is not None
    assert up.graceful_restart.restart_time_s == 77
    assert up.graceful_restart.families == frozenset(Family)
    assert not up.graceful_restart.restarted


async def test_a_link_local_peer_gives_link_local_next_hops_with_the_interface(
    lab: Lab, speaker: ExaBGPSpeaker, listener: Listener
) -> None:
    bird = lab.bird()
    for where, device, address in ((lab.node, "r1", "fe80::1"), (bird.namespace, "eth0", "fe80::2")):
        run("ip", "-n", where, "addr", "flush", "dev", device, "scope", "link")
        run("ip", "-n", where, "addr", "flush", "dev", device, "scope", "global")
        run("ip", "-n", where, "addr", "add", f"{address}/64", "dev", device, "nodad")
    bird.write("192.0.2.0/24", "2001:db8:2::/48")
    text = (bird.directory / "bird.conf").read_text()
    text = text.replace("local 10.99.1.2 as", "local fe80::2 as").replace(
        "neighbor 10.99.1.1 as", "neighbor fe80::1%'eth0' as"
    )
    (bird.directory / "bird.conf").write_text(text.replace("next hop self;", "next hop self; extended next hop on;"))
    bird.start()
    peer = IPv6Address("fe80::2%r1")
    configure(
        speaker,
        session(bird, peer=peer, local_address=IPv6Address("fe80::1%r1"), interface="r1", families=frozenset(Family)),
    )
    await listener.until(SessionUp, peer)
    await listener.until(EndOfRib, peer, count=2)
    updates = [update for update in listener.of(Update) if update.attributes is not None]
    assert {str(prefix) for update in updates for prefix in update.announced} == {"192.0.2.0/24", "2001:db8:2::/48"}
    for update in updates:
        assert update.attributes is not None
        assert update.attributes.next_hop == IPv6Address("fe80::2")
        assert update.attributes.next_hop_interface == "r1"


async def test_ttl_security_of_one_peer_does_not_shut_out_another(
    lab: Lab, speaker: ExaBGPSpeaker, listener: Listener
) -> None:
    guarded, other = lab.bird(), lab.bird()
    shared = IPv4Address("10.99.99.1")
    run("ip", "-n", lab.node, "addr", "add", f"{shared}/32", "dev", "lo")
    for bird, options in ((guarded, "multihop 2; ttl security on;"), (other, "multihop 2;")):
        run("ip", "-n", bird.namespace, "route", "add", str(shared), "via", str(bird.node_v4))
        bird.write(options=options, neighbour=shared)
        bird.start()
    configure(
        speaker,
        session(guarded, local_address=shared, minimum_ttl=254),
        session(other, local_address=shared, ttl=2, peer_port=1),  # it has to come to us
    )
    await listener.until(SessionUp, guarded.v4)
    await listener.until(SessionUp, other.v4)


async def test_a_peer_that_is_asked_to_says_everything_again(
    lab: Lab, speaker: ExaBGPSpeaker, listener: Listener
) -> None:
    bird = lab.bird()
    bird.write("192.0.2.0/24", "2001:db8:2::/48")
    bird.start()
    configure(speaker, session(bird))
    await listener.until(EndOfRib, bird.v4, count=2)
    said = len(listener.of(Update))
    for family in Family:
        speaker.refresh(bird.v4, family)
    await until(lambda: len(listener.of(Update)) == 2 * said, "BIRD has said everything twice")
    assert not listener.of(SessionDown)
